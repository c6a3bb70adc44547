"""What a client does to its update before sending it: pure functions; several are applied in order.

Those that add noise and those that send fewer bits have files of their own; all are imported from here.
"""

import fnmatch
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.errors import InputError
from seepage.federated.client import demand
from seepage.federated.noising import GaussianNoise, LaplaceNoise, length, uniform
from seepage.federated.rounded import Quantise, RoundBF16, RoundFP16, Sign
from seepage.federated.wording import write
from seepage.types import GradientUpdate

__all__ = [
    "Clip",
    "Drop",
    "GaussianNoise",
    "LaplaceNoise",
    "Quantise",
    "RandomSparse",
    "RoundBF16",
    "RoundFP16",
    "Sign",
    "TopK",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The whole update scaled down to a Euclidean length.

    Args:
        norm: the largest length of all entries together, above 0; a shorter update stays as it is.
    """

    norm: float

    def __post_init__(self) -> None:
        demand("norm", self.norm, least=0, strictly=True)

    @property
    def name(self) -> str:
        """``clip:norm=...``."""
        return write("clip", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The clipped update."""
        size = length(update)
        factor = self.norm / size if size > self.norm else 1.0
        return GradientUpdate({name: factor * value for name, value in update.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Of each tensor the largest entries are kept, by magnitude; all others are zero.

    Args:
        share: of a tensor's entries, in (0, 1]; rounded up, so that none is emptied.
    """

    share: float

    def __post_init__(self) -> None:
        demand("share", self.share, least=0, strictly=True, most=1)

    @property
    def name(self) -> str:
        """``topk:share=...``."""
        return write("topk", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The sparse update; of equal entries at the border, as many as fit."""
        return GradientUpdate({name: _keep(value, value.abs(), self.share) for name, value in update.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSparse:
    """Of each tensor randomly drawn entries are kept; all others are zero.

    Args:
        share: of a tensor's entries, in (0, 1]; rounded up.
        unbiased: whether what is kept is divided by the share kept, so that the mean is the update.
    """

    share: float
    unbiased: bool = False

    def __post_init__(self) -> None:
        demand("share", self.share, least=0, strictly=True, most=1)

    @property
    def name(self) -> str:
        """``random:share=...``."""
        return write("random", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        """The sparse update."""
        sent = {}
        for name, value in update.items():
            kept = _keep(value, uniform(value, generator), self.share)
            sent[name] = kept * (value.numel() / _count(value, self.share)) if self.unbiased else kept
        return GradientUpdate(sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Named tensors are not sent: frozen, encrypted, or of a part that stays at the client.

    Args:
        tensors: a tensor's name, a layer's (all its tensors go) or a pattern with ``*`` and ``?``.
    """

    tensors: str

    def __post_init__(self) -> None:
        if not self.tensors:
            raise InputError("`tensors` should be a name or a pattern; found an empty text.")

    @property
    def name(self) -> str:
        """``drop:tensors=...``."""
        return write("drop", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """What is left of the update.

        Raises:
            InputError: nothing in the update has that name.
        """
        gone = {name for name in update if fnmatch.fnmatchcase(name, self.tensors)}
        gone |= {name for name in update if name.startswith(f"{self.tensors}.")}
        if not gone:
            raise InputError(
                f"`--defense` drop: `tensors` should name some of {', '.join(update)}; found {self.tensors!r}."
            )
        return update.only(update.keys() - gone)


def _count(value: Tensor, share: float) -> int:
    return math.ceil(share * value.numel() - 1e-9)


def _keep(value: Tensor, order: Tensor, share: float) -> Tensor:
    """``value`` where ``order`` is largest, zero elsewhere."""
    kept = torch.zeros_like(value).flatten()
    places = order.flatten().topk(_count(value, share)).indices
    kept[places] = value.flatten()[places]
    return kept.reshape(value.shape)
