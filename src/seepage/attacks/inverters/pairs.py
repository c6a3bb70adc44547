"""Pairs of gradients and public inputs, computed at a network's weights when they are asked for."""

from collections.abc import Container, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import cross_entropy

from seepage.attacks.inverters.blueprint import Blueprint
from seepage.attacks.walk.objective import twice_differentiable
from seepage.errors import InputError
from seepage.networks.calling import call_with
from seepage.networks.clientcopy import client_copy

__all__ = ["Pair", "Pairs", "PublicExamples", "refuse_misfits"]

_TAKEN = 2000  # public inputs that an attack takes along
_TAKEN_NUMBERS = 2**24  # in all of them: a file of 64 MiB
_EXAMPLES = 64  # run at once: what a network keeps of each for its gradient adds up

Pair = tuple[dict[str, Tensor], Tensor, Tensor]
"""Gradients ``[k, *shape]`` by name, inputs ``[k, b, *shape]`` and labels ``[k, b]``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublicExamples:
    """Public examples that an attack takes along.

    Args:
        inputs: ``[N, *shape]`` as the network sees them.
        labels: ``[N]``.
        held_out: the first so many are kept for judging; no attack network should have seen them.
    """

    inputs: Tensor
    labels: Tensor
    held_out: int

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor, held: Tensor, rest: Tensor, examples: int) -> "PublicExamples":
        """As many of the rows ``held`` and ``rest`` as an attack on batches of ``examples`` takes along."""
        most = min(_TAKEN, _TAKEN_NUMBERS // max(1, inputs[0].numel()))
        judges = held[: max(examples, most // 5)]
        rows = torch.cat([judges, rest[: max(examples, most - len(judges))]])
        return cls(inputs=inputs[rows].float(), labels=labels[rows], held_out=len(judges))

    def to(self, device: torch.device) -> "PublicExamples":
        """On another device."""
        return PublicExamples(inputs=self.inputs.to(device), labels=self.labels.to(device), held_out=self.held_out)


class Pairs:
    """Gradients of groups of public examples, at a copy of a network in the client's mode, in float32.

    Args:
        network: at the weights that count.
        inputs: ``[N, *shape]``.
        labels: ``[N]``.
        examples: ``b`` in a batch.
        names: parameters that are asked for, others of the network are not differentiated; ``None``: all that train.
    """

    def __init__(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, examples: int, *, names: Container[str] | None = None
    ) -> None:
        self._network = client_copy(network).network.float()
        self._parameters = {
            name: value.detach()
            for name, value in self._network.named_parameters()
            if (value.requires_grad if names is None else name in names)
        }
        self._inputs, self._labels, self._examples = inputs.float(), labels, examples
        self._chunk = max(1, _EXAMPLES // examples)

    @property
    def names(self) -> list[str]:
        """Of the parameters whose gradients are computed."""
        return list(self._parameters)

    @property
    def numbers(self) -> int:
        """In one gradient."""
        return sum(value.numel() for value in self._parameters.values())

    def groups(self, rows: Tensor, group: int) -> Iterator[Pair]:
        """``({name: [k, *shape]}, [k, b, *shape], [k, b])`` of the public inputs of ``rows``; a rest is left out."""
        batches = rows[: len(rows) // self._examples * self._examples].reshape(-1, self._examples)
        return (self.pair(part) for part in torch.split(batches, group))

    def pair(self, rows: Tensor, labels: Tensor | None = None) -> Pair:
        """Of the public inputs of ``rows [k, b]``, with their own labels or with ``labels [b]`` for each batch."""
        inputs = self._inputs[rows]  # [k, b, *shape]
        labels = self._labels[rows] if labels is None else labels.expand(rows.shape)  # [k, b]

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(call_with(self._network, parameters, x), y)

        vmap = torch.vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=self._chunk)
        with twice_differentiable():  # the fast kernels of attention cannot be batched either
            found: dict[str, Tensor] = vmap(self._parameters, inputs, labels)
        return {name: value.detach() for name, value in found.items()}, inputs, labels

    def predictions(self, rows: Tensor) -> Tensor:
        """``[C]``: the mean of what the network says of the public inputs of ``rows [k, b]``."""

        def said(x: Tensor) -> Tensor:
            return call_with(self._network, self._parameters, x).softmax(dim=-1)  # type: ignore[no-any-return]

        with torch.no_grad(), twice_differentiable():
            return torch.vmap(said, chunk_size=self._chunk)(self._inputs[rows]).mean(dim=(0, 1))


def refuse_misfits(network: nn.Module, blueprint: Blueprint, inputs: Tensor, labels: Tensor) -> None:
    """Pairs need a network that fits the blueprint, and inputs and labels that fit both.

    Raises:
        InputError: they do not; the message says what should be what.
    """
    own = {name: tuple(value.shape) for name, value in network.named_parameters()}
    for name, shape in blueprint.gradients.items():
        if own.get(name) != shape:
            found = own.get(name, "nothing")
            raise InputError(f"The network's `{name}` should have the blueprint's shape {list(shape)}; found {found}.")
    if tuple(inputs.shape[1:]) != tuple(blueprint.input_shape):
        shapes = f"{list(blueprint.input_shape)}; found {list(inputs.shape[1:])}"
        raise InputError(f"The public inputs should have the blueprint's shape {shapes}.")
    classes = blueprint.layers[-1].shape[0]
    if labels.shape != inputs.shape[:1] or not bool(((labels >= 0) & (labels < classes)).all()):
        what = f"a number from 0 to {classes - 1} for each of {len(inputs)} inputs"
        raise InputError(f"The public labels should be {what}; found {list(labels.shape)}, or others among them.")
    for name, value in (("public inputs", inputs), *network.named_parameters()):
        if not bool(value.isfinite().all()):
            raise InputError(f"`{name}` should hold finite numbers; found others.")
