"""Complete dictionary learning: the directions in which a matrix of samples has sparse coordinates.

``U [m, b]`` holds one sample a row, of unit covariance; ``U q`` is sparse for the columns of an unknown dictionary and
looks Gaussian for every other unit ``q``. A loss that falls with sparsity is minimised over the sphere, many starts at
once.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seepage.linalg.sphere import RiemannianAdam, SphereOptimizer

__all__ = ["L1", "L4", "Huber", "LogCosh", "LogSum", "SparsityLoss", "small_share", "sparse_directions", "whiten"]


class SparsityLoss(Protocol):
    """A loss of one coordinate ``y``; given by its derivative, which is all that a descent needs."""

    def slope(self, y: Tensor, over: float) -> Tensor:
        """Derivative at ``y``, when the share ``over`` of the run is over (losses may sharpen)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCosh:
    """``mu log cosh(y / mu)``, with ``mu`` falling geometrically: smooth first, nearly l1 at the end.

    Reference:
        Sun, Qu and Wright, Complete Dictionary Recovery over the Sphere, 2015, equation 1.7; the annealing is ours.
    """

    start: float = 1.5
    end: float = 0.03

    def slope(self, y: Tensor, over: float) -> Tensor:
        return torch.tanh(y / _between(self.start, self.end, over))


@dataclass(frozen=True, slots=True, kw_only=True)
class L1:
    """``|y|``."""

    def slope(self, y: Tensor, over: float) -> Tensor:  # noqa: ARG002
        return y.sign()


@dataclass(frozen=True, slots=True, kw_only=True)
class Huber:
    """Quadratic below ``mu``, linear above, ``mu`` falling geometrically."""

    start: float = 1.5
    end: float = 0.03

    def slope(self, y: Tensor, over: float) -> Tensor:
        return (y / _between(self.start, self.end, over)).clamp(-1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSum:
    """``log(y^2 + mu^2) / 2``, ``mu`` falling geometrically: prefers many small entries to few smaller ones."""

    start: float = 1.5
    end: float = 0.1

    def slope(self, y: Tensor, over: float) -> Tensor:
        return y / (y.square() + _between(self.start, self.end, over) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class L4:
    """``-y^4 / 4``: peaky coordinates instead of many zeros."""

    def slope(self, y: Tensor, over: float) -> Tensor:  # noqa: ARG002
        return -(y**3)


def sparse_directions(
    U: Tensor, starts: Tensor, *, loss: SparsityLoss | None = None, optimizer: SphereOptimizer | None = None
) -> Tensor:
    """Where descents of ``mean_j loss((U q)_j)`` over the unit sphere end.

    Args:
        U: ``[m, b]``; float32 suffices.
        starts: ``[k, b]``, for example rows of ``U``, in which one direction often stands out.
        loss: annealed :class:`LogCosh` by default; log-sum and Huber do as well (benchmarks/results/search.md).
        optimizer: :class:`seepage.linalg.sphere.RiemannianAdam` by default.

    Returns:
        ``[k, b]`` unit vectors, some of them columns of the dictionary to within a few per cent.
    """
    sparsity = loss if loss is not None else LogCosh()
    descend = optimizer if optimizer is not None else RiemannianAdam()
    count = len(U)
    return descend(lambda points, over: sparsity.slope(points @ U.T, over) @ U / count, starts.to(U))


def small_share(U: Tensor, directions: Tensor, *, below: float = 0.1) -> Tensor:
    """Share ``[k]`` of entries of ``U q`` that are below ``below``: 0.08 for a Gaussian, the sparsity for a column."""
    return ((directions.to(U) @ U.T).abs() < below).to(U.dtype).mean(dim=1)


def whiten(samples: Tensor) -> Tensor:
    """``samples [m, b]`` turned and scaled in ``b`` so that their second moments are the identity.

    Raises:
        ValueError: the samples do not span all ``b`` dimensions.
    """
    left, singular, _ = torch.linalg.svd(samples, full_matrices=False)
    if len(samples) < samples.shape[1] or not bool(singular[-1] > 1e-12 * singular[0]):
        raise ValueError(f"`samples` should span {samples.shape[1]} dimensions; found fewer.")
    scaled: Tensor = left * len(samples) ** 0.5
    return scaled


def _between(start: float, end: float, over: float) -> float:
    sharpened: float = start * (end / start) ** over
    return sharpened
