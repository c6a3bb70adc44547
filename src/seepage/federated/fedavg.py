"""FedAvg (McMahan et al., 2017): several local steps, of which the server sees where they led."""

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.errors import InputError
from seepage.federated.client import BatchNorm, chance, client_copy, demand, statistics_change
from seepage.federated.wording import write
from seepage.types import GradientUpdate, LocalSteps, PrivateBatch, Traces

__all__ = ["MOST_STEPS", "FedAvg", "Optimizer"]

MOST_STEPS = 100_000  # of a client: half a minute of a small network; more is rather a slip of the pen


class Optimizer(enum.StrEnum):
    """What takes the local steps."""

    SGD = "sgd"
    ADAM = "adam"


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """Local training from the state sent out; the update is the parameters before minus after.

    It therefore points as a gradient does, which most frameworks (after minus before) have the other way round. It is
    computed in the network's own dtype: in float32 the difference of nearly equal weights carries their rounding.

    Args:
        epochs: passes over the client's batch, at least 1; 100,000 local steps are the most that a client takes.
        local_batch: examples a local step, the last of an epoch may have fewer; the whole batch if ``None``.
        lr: learning rate, above 0.
        momentum: of SGD, in [0, 1).
        weight_decay: at least 0; added to the gradient, as PyTorch does.
        optimizer: SGD or Adam, as in ``torch.optim`` with PyTorch's defaults otherwise.
        accumulate: local batches whose gradients are averaged for one step; a shorter rest of an epoch makes a step.
        shuffle: whether the generator orders the examples anew in each epoch, or they are taken as they come.
        batch_norm: whether batch norm runs as sent, on each local batch's statistics or on the running ones.
        statistics: whether the change of the running statistics (before minus after) is sent beside the update.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017, algorithm 1.
    """

    epochs: int = 1
    local_batch: int | None = None
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: Optimizer = Optimizer.SGD
    accumulate: int = 1
    shuffle: bool = True
    batch_norm: BatchNorm = BatchNorm.AS_SENT
    statistics: bool = False

    def __post_init__(self) -> None:
        demand("epochs", self.epochs, least=1, most=MOST_STEPS)
        demand("accumulate", self.accumulate, least=1)
        demand("lr", self.lr, least=0, strictly=True)
        demand("momentum", self.momentum, least=0)
        demand("weight_decay", self.weight_decay, least=0)
        if self.local_batch is not None:
            demand("local_batch", self.local_batch, least=1)
        if self.momentum >= 1 or (self.momentum and self.optimizer is Optimizer.ADAM):
            raise InputError(f"`momentum` should lie in [0, 1), and be 0 with adam; found {self.momentum}.")

    @property
    def name(self) -> str:
        """``fedavg``, with the options that are not at their default."""
        return write("fedavg", self)

    @property
    def is_gradient(self) -> bool:
        """Only where one step of SGD is taken, on the whole batch: the estimate then is its gradient."""
        return self._is_one_step and self.optimizer is Optimizer.SGD

    @property
    def traces(self) -> Traces:
        """SGD adds gradients up, momentum included; Adam does not."""
        if self.optimizer is not Optimizer.SGD:
            return Traces.NONE
        at_start = self._is_one_step and self.batch_norm is BatchNorm.AS_SENT
        return Traces.AT_START if at_start else Traces.ALONG_THE_WAY

    def steps(self, batch_size: int | None) -> int:
        """Local steps that a client with so many examples takes; with ``None``, those of one step an epoch."""
        each = 1 if batch_size is None or self.local_batch is None else math.ceil(batch_size / self.local_batch)
        return self.epochs * math.ceil(each / self.accumulate)

    def as_gradient(
        self, update: GradientUpdate, *, network: nn.Module, batch_size: int | None = None
    ) -> GradientUpdate:
        """The update as a weighted mean of the gradients of its steps.

        SGD is linear in its gradients: ``W_0 - W_T = (1 - c) W_0 + sum_t a_t g_t``, with numbers ``c`` and ``a_t`` that
        the options fix. The known part is taken out and the rest divided by ``sum_t a_t``: by ``lr`` times the number
        of steps, if there is neither momentum nor weight decay. With Adam that is all that can be done, and the
        estimate has a gradient's signs, not its sizes. Where neither ``batch_size`` nor the options tell the number
        of steps, one an epoch is assumed: the scale is then too large, and weight decay is taken out in part only.
        """
        steps = self.steps(batch_size)
        if self.optimizer is Optimizer.ADAM:
            return GradientUpdate({name: value / (self.lr * steps) for name, value in update.items()})
        kept = self._end(1.0, gradient=0.0, steps=steps)
        gain = -self._end(0.0, gradient=1.0, steps=steps)
        start = dict(network.named_parameters())
        return GradientUpdate(
            {
                name: (value - (1 - kept) * start[name].detach() if name in start and kept != 1 else value) / gain
                for name, value in update.items()
            }
        )

    def rounding(self, parameter: Tensor, *, batch_size: int | None = None) -> float:
        """Half a unit in the last place of the weights for each step, brought to the scale of the estimate."""
        steps = self.steps(batch_size)
        gain = -self._end(0.0, gradient=1.0, steps=steps) if self.optimizer is Optimizer.SGD else self.lr * steps
        size = float(parameter.detach().double().square().mean().sqrt())
        return 0.5 * torch.finfo(parameter.dtype).eps * size * math.sqrt(steps) / gain

    def ended(self, start: Tensor, estimate: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Where a parameter ended that began at ``start``: :meth:`as_gradient` undone."""
        steps = self.steps(batch_size)
        if self.optimizer is Optimizer.ADAM:
            return start - self.lr * steps * estimate
        kept = self._end(1.0, gradient=0.0, steps=steps)
        return kept * start + self._end(0.0, gradient=1.0, steps=steps) * estimate

    def local_steps(self, batch_size: int) -> LocalSteps | None:
        """What a server can replay, but for the order of the examples; ``None`` with Adam."""
        if self.optimizer is not Optimizer.SGD:
            return None
        size = self.local_batch or batch_size
        groups = []
        for first in range(0, self.epochs * batch_size, batch_size):
            end = first + batch_size
            batches = tuple(slice(start, min(start + size, end)) for start in range(first, end, size))
            groups += [batches[start : start + self.accumulate] for start in range(0, len(batches), self.accumulate)]
        return LocalSteps(
            groups=tuple(groups),
            passes=self.epochs,
            one_order=not self.shuffle,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_norm_trains=None if self.batch_norm is BatchNorm.AS_SENT else self.batch_norm is BatchNorm.TRAIN,
        )

    def __call__(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> GradientUpdate:
        """Parameters before minus after, of every trainable parameter that the loss depends on.

        Raises:
            InputError: the local training diverged, or would take more than 100,000 steps.
        """
        if self.steps(len(batch)) > MOST_STEPS:
            found = f"{self.steps(len(batch)):,} for {len(batch)} examples"
            raise InputError(
                f"`epochs` and `local_batch` should make {MOST_STEPS:,} local steps at most; found {found}."
            )
        client = client_copy(network, self.batch_norm)
        trainable = {name: value for name, value in client.named_parameters() if value.requires_grad}
        before = {name: value.detach().clone() for name, value in trainable.items()}
        optimizer = self._optimizer(list(trainable.values()))
        reached: set[str] = set()
        with chance(generator):
            for group in self._groups(len(batch), generator):
                optimizer.zero_grad()
                for rows in group:
                    index = rows.to(batch.labels.device)
                    loss = cross_entropy(client(batch.inputs[index]), batch.labels[index])
                    torch.autograd.backward(loss / len(group))
                optimizer.step()
                reached |= {name for name, value in trainable.items() if value.grad is not None}
        sent = {name: before[name] - value.detach() for name, value in trainable.items() if name in reached}
        for name, value in sent.items():
            if not bool(value.isfinite().all()):
                raise InputError(
                    f"The local training of {self.name} should stay finite; `{name}` does not: lower `lr`."
                )
        return GradientUpdate({**sent, **(statistics_change(network, client) if self.statistics else {})})

    @property
    def _is_one_step(self) -> bool:
        return self.epochs == 1 and self.local_batch is None

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimizer is Optimizer.ADAM:
            return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def _groups(self, examples: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """The local batches of each step, as indices."""
        for _ in range(self.epochs):
            order = torch.arange(examples)
            if self.shuffle:
                order = torch.randperm(examples, generator=generator, device=generator.device)
            batches = torch.split(order, min(self.local_batch or examples, examples))
            for start in range(0, len(batches), self.accumulate):
                yield tuple(batches[start : start + self.accumulate])

    def _end(self, weight: float, *, gradient: float, steps: int) -> float:
        """Where SGD takes one number under a constant gradient: the recursion of ``torch.optim.SGD``."""
        velocity = 0.0
        for _ in range(steps):
            velocity = self.momentum * velocity + gradient + self.weight_decay * weight
            weight -= self.lr * velocity
        return weight
