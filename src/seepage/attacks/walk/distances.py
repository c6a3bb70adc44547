"""How far a candidate's gradient is from the client's: what gradient matching makes small."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Cosine", "Distance", "Squared"]

_SMALLEST = 1e-24  # of a squared length


class Distance(Protocol):
    """A function of two gradients, tensor by tensor in the same order; zero where they agree, differentiable."""

    def __call__(self, candidate: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Squared:
    """Squared Euclidean distance over that of the target, so that its size means the same for every network.

    Reference:
        Zhu, Liu, Han: Deep Leakage from Gradients, NeurIPS 2019, equation 4 (there without the denominator).
    """

    def __call__(self, candidate: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """A scalar; 1 for a candidate whose gradient is zero."""
        size = _total([t.square().sum() for t in target])
        return _total([(c - t).square().sum() for c, t in zip(candidate, target, strict=True)]) / size


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine:
    """One minus the cosine: the gradient's length, which shrinks as a network is trained, plays no part.

    Computed as half the squared distance of the unit vectors: one minus a cosine near one loses every digit.

    Args:
        per_layer: a mean of the cosines of all tensors, so that no layer is drowned by another; else one of the whole.

    Reference:
        Geiping, Bauermeister, Droege, Moeller: Inverting Gradients, NeurIPS 2020, equation 4 (the whole gradient).
    """

    per_layer: bool = False

    def __call__(self, candidate: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """A scalar in [0, 2]."""
        if not self.per_layer:
            flat = torch.cat([c.flatten() for c in candidate]), torch.cat([t.flatten() for t in target])
            return _angle(*flat)
        pairs = [(c.flatten(), t.flatten()) for c, t in zip(candidate, target, strict=True)]
        return _total([_angle(c, t) for c, t in pairs]) / len(pairs)


def _angle(candidate: Tensor, target: Tensor) -> Tensor:
    return (_unit(candidate) - _unit(target)).square().sum() / 2


def _unit(vector: Tensor) -> Tensor:
    # Its cube, which the derivative holds, stays finite in float32 even for a gradient of zero.
    return vector * (vector.square().sum() + _SMALLEST).rsqrt()


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()
