"""What a client does between the two: its training rule, what the rule promises, and defenses."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from seepage.types.client import GradientUpdate, PrivateBatch

__all__ = [
    "Defense",
    "LocalSteps",
    "LocalTraining",
    "NoisyRule",
    "Replayable",
    "Traces",
    "UpdateRule",
]


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
