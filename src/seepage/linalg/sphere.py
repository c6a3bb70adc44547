"""Descent on the unit sphere, many starts at once: one matrix product a step for all of them.

Notation: ``X [k, b]`` holds one unit vector a row. Everything works in the dtype and on the device of the starts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["FixedPoint", "RiemannianAdam", "SphereOptimizer", "Subgradient"]

Slope = Callable[[Tensor, float], Tensor]  # (X [k, b], share of the run that is over, in [0, 1)) -> gradient [k, b]


class SphereOptimizer(Protocol):
    """Moves unit vectors downhill; ``steps`` can be read, so that searches may lengthen a run."""

    @property
    def steps(self) -> int: ...

    def __call__(self, slope: Slope, starts: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RiemannianAdam:
    """Adam along great circles, with one second moment for each start instead of each coordinate.

    A second moment for each coordinate would make the run depend on the basis, which is arbitrary here.

    Args:
        steps: how many.
        step_size: of the first step, in radians or so; falls to zero like a cosine.
        momentum: share of the old direction that is kept.
        memory: share of the old second moment that is kept.

    Reference:
        Bécigneul and Ganea, Riemannian Adaptive Optimization Methods, ICLR 2019.
    """

    steps: int = 100
    step_size: float = 0.3
    momentum: float = 0.9
    memory: float = 0.95

    def __call__(self, slope: Slope, starts: Tensor) -> Tensor:
        """Unit vectors ``[k, b]`` where the runs from ``starts [k, b]`` ended."""
        points = _unit(starts)
        first = torch.zeros_like(points)
        second = torch.zeros_like(points[:, :1])
        for step in range(self.steps):
            gradient = _tangent(slope(points, step / self.steps), points)
            first = self.momentum * first + (1 - self.momentum) * gradient
            second = self.memory * second + (1 - self.memory) * gradient.square().sum(dim=1, keepdim=True)
            scale = (second / (1 - self.memory ** (step + 1))).sqrt().clamp_min(1e-12)
            size = self.step_size * _cosine(step / self.steps) / (1 - self.momentum ** (step + 1))
            points = _unit(points - size * first / scale)
            first = _tangent(first, points)  # carried along to where it is used next
        return points


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgradient:
    """Steps of decaying length along the normalised gradient.

    Args:
        steps: how many.
        step_size: length of the first step.
        decay: of the last step over the first; geometric in between.
    """

    steps: int = 400
    step_size: float = 0.3
    decay: float = 1e-3

    def __call__(self, slope: Slope, starts: Tensor) -> Tensor:
        """Unit vectors ``[k, b]`` where the runs from ``starts [k, b]`` ended."""
        points = _unit(starts)
        for step in range(self.steps):
            gradient = _tangent(slope(points, step / self.steps), points)
            size = self.step_size * self.decay ** (step / self.steps)
            points = _unit(points - size * _unit(gradient))
        return points


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """Each point replaced by its negative gradient: the iteration of FastICA and of l4 maximisation.

    Args:
        steps: how many.

    Reference:
        Zhai et al., Complete Dictionary Learning via l4-Norm Maximization over the Orthogonal Group, JMLR 2020.
    """

    steps: int = 100

    def __call__(self, slope: Slope, starts: Tensor) -> Tensor:
        """Unit vectors ``[k, b]`` where the runs from ``starts [k, b]`` ended."""
        points = _unit(starts)
        for step in range(self.steps):
            points = _unit(-slope(points, step / self.steps))
        return points


def _unit(rows: Tensor) -> Tensor:
    scaled: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return scaled


def _tangent(vectors: Tensor, points: Tensor) -> Tensor:
    return vectors - (vectors * points).sum(dim=1, keepdim=True) * points


def _cosine(over: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * over))
