"""What a client does to its update before sending it: pure functions; several are applied in order."""

import fnmatch
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.errors import InputError
from seepage.federated.client import demand
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
class GaussianNoise:
    """Normal noise on every entry.

    Args:
        sigma: standard deviation, at least 0.
        relative: whether ``sigma`` is a share of the root mean square of all entries of the update, so that the noise
            is about ``sigma`` times as long as the update.
    """

    sigma: float
    relative: bool = False

    def __post_init__(self) -> None:
        demand("sigma", self.sigma, least=0)

    @property
    def name(self) -> str:
        """``noise:sigma=...``."""
        return write("noise", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        """The noised update."""
        scale = self.sigma * (_root_mean_square(update) if self.relative else 1.0)
        return GradientUpdate({name: value + scale * _normal(value, generator) for name, value in update.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaplaceNoise:
    """Laplace noise on every entry.

    Args:
        sigma: standard deviation, at least 0; the distribution's own scale is ``sigma / sqrt(2)``.
        relative: as for :class:`GaussianNoise`.
    """

    sigma: float
    relative: bool = False

    def __post_init__(self) -> None:
        demand("sigma", self.sigma, least=0)

    @property
    def name(self) -> str:
        """``laplace:sigma=...``."""
        return write("laplace", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        """The noised update."""
        scale = self.sigma / math.sqrt(2) * (_root_mean_square(update) if self.relative else 1.0)
        sent = {}
        for name, value in update.items():
            centred = _uniform(value, generator) - 0.5  # [-0.5, 0.5): the inverse of the distribution function
            size = -torch.log1p(-2 * centred.abs().clamp(max=0.5 - 1e-12)).to(value.dtype)
            sent[name] = value + scale * centred.sign().to(value.dtype) * size
        return GradientUpdate(sent)


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
        length = _length(update)
        factor = self.norm / length if length > self.norm else 1.0
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
            kept = _keep(value, _uniform(value, generator), self.share)
            sent[name] = kept * (value.numel() / _count(value, self.share)) if self.unbiased else kept
        return GradientUpdate(sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Nothing but the sign of every entry: -1, 0 or 1 (signSGD, Bernstein et al., 2018)."""

    @property
    def name(self) -> str:
        """``sign``."""
        return "sign"

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The signs."""
        return GradientUpdate({name: value.sign() for name, value in update.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantise:
    """Every entry rounded at random to one of its two neighbours on a grid, without bias (QSGD, Alistarh et al., 2017).

    The grid of a tensor has ``2^(bits - 1) - 1`` equal steps from zero to its largest magnitude, on either side.

    Args:
        bits: of one entry, sign included; 2 to 16.
    """

    bits: int

    def __post_init__(self) -> None:
        demand("bits", self.bits, least=2, most=16)

    @property
    def name(self) -> str:
        """``quantise:bits=...``."""
        return write("quantise", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        """The rounded update."""
        levels = 2 ** (self.bits - 1) - 1
        sent = {}
        for name, value in update.items():
            largest = value.abs().max() if value.numel() else value.sum()
            step = torch.where(largest > 0, largest / levels, 1.0)
            place = value.double() / step
            below = place.floor()
            up = _uniform(value, generator) < place - below
            sent[name] = ((below + up).clamp(-levels, levels) * step).to(value.dtype)
        return GradientUpdate(sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFP16:
    """Rounded to half precision, and handed on in the dtype it had. Beyond 65504 it clamps."""

    @property
    def name(self) -> str:
        """``fp16``."""
        return "fp16"

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The rounded update."""
        most = torch.finfo(torch.float16).max
        return GradientUpdate(
            {name: value.clamp(-most, most).to(torch.float16).to(value.dtype) for name, value in update.items()}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundBF16:
    """Rounded to bfloat16, and handed on in the dtype it had."""

    @property
    def name(self) -> str:
        """``bf16``."""
        return "bf16"

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The rounded update."""
        return GradientUpdate({name: value.to(torch.bfloat16).to(value.dtype) for name, value in update.items()})


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
        return GradientUpdate({name: value for name, value in update.items() if name not in gone})


def _length(update: GradientUpdate) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))


def _root_mean_square(update: GradientUpdate) -> float:
    return _length(update) / math.sqrt(max(1, sum(value.numel() for value in update.values())))


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=generator.device)
    return draw.to(value.device)


def _uniform(value: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1), float64: a float32 draw would be zero, or equal another, too often."""
    draw = torch.rand(value.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return draw.to(value.device)


def _count(value: Tensor, share: float) -> int:
    return math.ceil(share * value.numel() - 1e-9)


def _keep(value: Tensor, order: Tensor, share: float) -> Tensor:
    """``value`` where ``order`` is largest, zero elsewhere."""
    kept = torch.zeros_like(value).flatten()
    places = order.flatten().topk(_count(value, share)).indices
    kept[places] = value.flatten()[places]
    return kept.reshape(value.shape)
