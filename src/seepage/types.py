"""The values that travel: what a client holds, what it sends, what the server sees, what an attack returns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from seepage.errors import InputError

__all__ = [
    "INTERRUPTED",
    "Attack",
    "Defense",
    "GradientUpdate",
    "LocalSteps",
    "LocalTraining",
    "NoisyRule",
    "Observation",
    "Obstacle",
    "Outcome",
    "PrivateBatch",
    "Progress",
    "Reconstruction",
    "Replayable",
    "Round",
    "ThreatModel",
    "Traces",
    "UpdateRule",
    "go_on",
]

INTERRUPTED = "it was interrupted"  # in ``Reconstruction.stats["stopped"]`` of work that progress told to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateBatch:
    """One client's examples in one round, as the network sees them. No attack is ever handed one.

    Args:
        inputs: ``[b, *shape]``, floating point, finite.
        labels: ``[b]``, int64 class indices.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not self.inputs.is_floating_point() or self.inputs.ndim < 2 or len(self.inputs) == 0:
            raise InputError(
                f"`inputs` should be a floating-point tensor [b, *shape] with b >= 1; "
                f"found {self.inputs.dtype} of shape {list(self.inputs.shape)}."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise InputError(
                f"`labels` should be an int64 tensor of shape [{len(self.inputs)}]; "
                f"found {self.labels.dtype} of shape {list(self.labels.shape)}."
            )
        if not bool(self.inputs.isfinite().all()):
            raise InputError("`inputs` should be finite; found NaN or infinity.")

    def __len__(self) -> int:
        return len(self.inputs)


class GradientUpdate(Mapping[str, Tensor]):
    """What a client sends: tensors keyed as ``named_parameters()``, cloned on entry and never changed.

    Every rule writes it in the direction of a gradient: what it would subtract from a parameter, before minus after.
    A rule that sends batch-norm statistics adds their changes under the names of ``named_buffers()``.

    Raises:
        InputError: a value is not a floating-point tensor or not finite; the message names it.
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise InputError(f"The update's `{name}` should be a floating-point tensor; found {type(tensor)}.")
            if not bool(tensor.isfinite().all()):
                raise InputError(f"The update's `{name}` should be finite; found NaN or infinity.")
        self._tensors = MappingProxyType({name: tensor.detach().clone() for name, tensor in tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"GradientUpdate({', '.join(f'{name}: {list(t.shape)}' for name, t in self.items())})"


class Traces(StrEnum):
    """What single examples leave in the update that a rule sends, as a promise of the rule.

    ``AT_START`` and ``ALONG_THE_WAY`` promise that the update is, up to rounding, a sum of gradients of single
    examples, each times a number that is the same for all parameters: ``gW = A^T X`` and ``gb = A^T 1`` at a linear
    layer, with zeros in ``A`` where the layer's unit was off for the example. Taken along the way of several local
    steps, the errors ``A`` are those of changing weights, and so are the inputs ``X`` of every layer but the first.
    ``NONE`` promises nothing: noise was added, or the update is no linear function of gradients.
    """

    AT_START = "at the state sent out"
    ALONG_THE_WAY = "at states along the way"
    NONE = "none"


@runtime_checkable
class UpdateRule(Protocol):
    """How a client turns its batch into an update. Works on a copy: the network it is given stays as it was."""

    @property
    def name(self) -> str:
        """How the rule is written on the command line and in findings, for example ``fedsgd``."""
        ...

    @property
    def is_gradient(self) -> bool:
        """Whether the update is the gradient of the mean cross-entropy of the whole batch at the state sent out.

        Of an update that is brought to the scale of a gradient first (:meth:`as_gradient`), it is said of the estimate.
        """
        ...

    @property
    def traces(self) -> Traces:
        """What single examples leave in the update: what a certificate may rest on where nothing can be replayed."""
        ...

    def as_gradient(
        self, update: GradientUpdate, *, network: nn.Module, batch_size: int | None = None
    ) -> GradientUpdate:
        """The gradient estimate in an update of this rule, with the sign and scale of a gradient; a pure function.

        Args:
            update: of parameters, as the client sent it; tensors may be missing.
            network: the state that the server sent out.
            batch_size: the client's batch size, ``None`` where the server does not know it.
        """
        ...

    def rounding(self, parameter: Tensor, *, batch_size: int | None = None) -> float:
        """Root mean square rounding of the estimate's entries for ``parameter``, beyond that of its own dtype.

        Zero for gradients. A difference of nearly equal weights carries the rounding of the weights.
        """
        ...

    def __call__(self, network: nn.Module, batch: PrivateBatch, generator: torch.Generator) -> GradientUpdate: ...


@runtime_checkable
class LocalTraining(Protocol):
    """A rule whose client moves away from the state sent out, and sends how far."""

    def ended(self, start: Tensor, estimate: Tensor, *, batch_size: int | None = None) -> Tensor | None:
        """Where a parameter ended that began at ``start``: ``as_gradient`` undone. ``None`` if it never moved."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSteps:
    """The steps of a client's SGD as a server knows them who knows the rule, but not in which order examples came.

    Args:
        groups: for each step the local batches whose gradients are averaged, as places in the sequence of all passes
            over the client's ``b`` examples: places ``0`` to ``b - 1`` are the first pass.
        passes: over the examples.
        one_order: every pass has the same order; else each its own.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: added to the gradient.
        batch_norm_trains: the mode of batch norm; ``None``: as sent.
    """

    groups: tuple[tuple[slice, ...], ...]
    passes: int
    one_order: bool
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_norm_trains: bool | None = None


@runtime_checkable
class Replayable(Protocol):
    """A rule whose local steps a server can take itself, with examples of its own."""

    def local_steps(self, batch_size: int) -> LocalSteps | None:
        """Of a client with so many examples; ``None`` where the steps are not SGD's."""
        ...


@runtime_checkable
class NoisyRule(Protocol):
    """A rule that adds Gaussian noise, as every server knows that agreed to it."""

    def deviation(self, *, batch_size: int | None = None) -> float | None:
        """Standard deviation on every entry of the update; ``None`` where the batch size that it depends on is unknown.

        Zero where there is none.
        """
        ...


@runtime_checkable
class Defense(Protocol):
    """What a client does to its update before sending it: a pure function."""

    @property
    def name(self) -> str: ...

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round as the server sees it.

    Args:
        network: the state that the server sent out; attacks call it through ``functional_call`` and never change it.
        update: what came back, as the estimate of a gradient where the server knows the rule.
        batch_size: the client's batch size, ``None`` when the server does not know it.
        labels: ``[b]`` in no particular order, ``None`` when the server does not know them.
        statistics: what came back of buffers (batch-norm statistics), before minus after; empty if withheld.
    """

    network: nn.Module
    update: GradientUpdate
    batch_size: int | None = None
    labels: Tensor | None = None
    statistics: GradientUpdate = field(default_factory=lambda: GradientUpdate({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that an honest-but-curious server has, and all that an attack gets.

    Args:
        rounds: one or more rounds of one client, oldest first.
        input_shape: the shape of one input, for example ``(3, 32, 32)``.
        classes: how many classes the network tells apart.
        rule: the client's rule where the server knows it, else ``None``. The loss is mean cross-entropy.
        bounds: lowest and highest possible value of each input entry, each broadcastable to ``input_shape``.
    """

    rounds: tuple[Round, ...]
    input_shape: tuple[int, ...]
    classes: int
    rule: UpdateRule | None = None
    bounds: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.rounds:
            raise InputError("`rounds` should hold at least one round; found none.")

    @property
    def latest(self) -> Round:
        """The most recent round."""
        return self.rounds[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatModel:
    """What the server knows besides the network and the update: the one place where knowledge is granted.

    Args:
        batch_size: whether the client announces its batch size.
        labels: whether the server knows the labels (in no order).
        rule: whether the server knows the client's training rule.
        bounds: whether the server knows the range of valid inputs.
    """

    batch_size: bool = False
    labels: bool = False
    rule: bool = True
    bounds: bool = True

    @property
    def name(self) -> str:
        """How it is written in findings: ``honest-but-curious`` and what is granted besides."""
        granted = [word for word in ("batch_size", "labels", "rule", "bounds") if getattr(self, word)]
        return "honest-but-curious: " + (", ".join(granted) if granted else "update only")

    def view(
        self,
        *,
        network: nn.Module,
        update: GradientUpdate,
        batch: PrivateBatch,
        rule: UpdateRule,
        classes: int,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Observation:
        """What the server has of this round. Labels, if granted, are sorted: their order is not known.

        An update of a known rule is brought to the sign and scale of a gradient, which is what attacks work on.
        """
        known = len(batch) if self.batch_size else None
        buffers = {name for name, _ in network.named_buffers()}
        sent = GradientUpdate({name: value for name, value in update.items() if name not in buffers})
        return Observation(
            rounds=(
                Round(
                    network=network,
                    update=rule.as_gradient(sent, network=network, batch_size=known) if self.rule else sent,
                    batch_size=known,
                    labels=batch.labels.sort().values.clone() if self.labels else None,
                    statistics=GradientUpdate({name: update[name] for name in update if name in buffers}),
                ),
            ),
            input_shape=tuple(batch.inputs.shape[1:]),
            classes=classes,
            rule=rule if self.rule else None,
            bounds=bounds if self.bounds else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why an attack cannot run here.

    Args:
        where: the layer, tensor or setting, as the user knows it.
        reason: one sentence; names the remedy where there is one.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Outcome(StrEnum):
    """How an attack that ran ended. An attack that could not run has no outcome but obstacles."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """What an attack got out of an observation.

    Args:
        outcome: ``EXACT`` only if every example carries a certificate that needs no truth.
        inputs: ``[k, *shape]`` in the order the attack found them, ``None`` if the attack reconstructs none.
        labels: ``[k]`` restored labels, -1 where unknown; ``None`` if none were restored.
        certified: ``[k]`` bool, one an example.
        layer: the layer whose inputs these are; ``""`` for the inputs of the network itself.
        reason: one sentence on how it ended, with likely causes and the remedy if it failed.
        stats: numbers and words worth keeping (directions found, samples drawn, residuals).
    """

    outcome: Outcome
    inputs: Tensor | None = None
    labels: Tensor | None = None
    certified: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    layer: str = ""
    reason: str = ""
    stats: Mapping[str, float | int | str | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.inputs is not None and self.certified.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"`certified` should hold one entry for each of {len(self.inputs)} examples; "
                f"found shape {list(self.certified.shape)}."
            )
        if self.outcome is Outcome.EXACT and (len(self.certified) == 0 or not bool(self.certified.all())):
            raise ValueError("`outcome` EXACT needs a certificate for every example; found examples without one.")
        if self.outcome is Outcome.FAILED and not self.reason:
            raise ValueError("`reason` should say why the attack failed; found an empty text.")


class Progress(Protocol):
    """Called by long work now and then. Returns whether to go on; on ``False`` the work returns what it has."""

    def __call__(self, done: int, total: int | None, note: str) -> bool: ...


def go_on(done: int, total: int | None, note: str) -> bool:  # noqa: ARG001 - the Progress of who does not care
    """The silent progress: never stops the work."""
    return True


@runtime_checkable
class Attack(Protocol):
    """Turns an observation into a reconstruction; a frozen record of options, no state survives a call."""

    @property
    def name(self) -> str:
        """How it is written on the command line and in findings."""
        ...

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """Why it cannot run on this observation; empty if it can."""
        ...

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction: ...
