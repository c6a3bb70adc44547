"""Defenses that add noise, and the draws that others share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.federated.client import demand
from seepage.federated.wording import write
from seepage.types import GradientUpdate

__all__ = ["GaussianNoise", "LaplaceNoise", "length", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noise:
    sigma: float
    relative: bool = False

    def __post_init__(self) -> None:
        demand("sigma", self.sigma, least=0)

    def _deviation(self, update: GradientUpdate) -> float:
        return self.sigma * (_root_mean_square(update) if self.relative else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise(_Noise):
    """Normal noise on every entry.

    Args:
        sigma: standard deviation, at least 0.
        relative: whether ``sigma`` is a share of the root mean square of all entries of the update, so that the noise
            is about ``sigma`` times as long as the update.
    """

    @property
    def name(self) -> str:
        """``noise:sigma=...``."""
        return write("noise", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        """The noised update."""
        scale = self._deviation(update)
        return GradientUpdate({name: value + scale * _normal(value, generator) for name, value in update.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaplaceNoise(_Noise):
    """Laplace noise on every entry.

    Args:
        sigma: standard deviation, at least 0; the distribution's own scale is ``sigma / sqrt(2)``.
        relative: as for :class:`GaussianNoise`.
    """

    @property
    def name(self) -> str:
        """``laplace:sigma=...``."""
        return write("laplace", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        """The noised update."""
        scale = self._deviation(update) / math.sqrt(2)
        sent = {}
        for name, value in update.items():
            centred = uniform(value, generator) - 0.5  # [-0.5, 0.5): the inverse of the distribution function
            size = -torch.log1p(-2 * centred.abs().clamp(max=0.5 - 1e-12)).to(value.dtype)
            sent[name] = value + scale * centred.sign().to(value.dtype) * size
        return GradientUpdate(sent)


def length(update: GradientUpdate) -> float:
    """The Euclidean length of all entries together."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))


def uniform(value: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1), float64: a float32 draw would be zero, or equal another, too often."""
    draw = torch.rand(value.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return draw.to(value.device)


def _root_mean_square(update: GradientUpdate) -> float:
    return length(update) / math.sqrt(max(1, sum(value.numel() for value in update.values())))


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=generator.device)
    return draw.to(value.device)
