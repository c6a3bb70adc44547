"""What inputs look like before any gradient is seen: terms that gradient matching adds to its distance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["BatchStatistics", "Bounds", "Candidate", "InputNorm", "Prior", "Statistics", "TotalVariation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a batch-norm layer was given, ``entering [b, c, ...]``, its running ``mean [c]`` and ``variance [c]``."""

    entering: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a prior may look at.

    Args:
        inputs: ``[b, *shape]``.
        bounds: lowest and highest valid value, ``None`` where the server does not know them.
        statistics: one for each batch-norm layer with running statistics.
    """

    inputs: Tensor
    bounds: tuple[Tensor, Tensor] | None = None
    statistics: Sequence[Statistics] = field(default_factory=tuple)


class Prior(Protocol):
    """A non-negative scalar, small where the candidate looks like data; already weighted."""

    def __call__(self, candidate: Candidate) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalVariation:
    """Mean absolute difference of neighbouring pixels, down and across, in each of any number of channels.

    Zero for inputs that are no images ``[c, h, w]``, and along a side of one pixel.

    Args:
        weight: factor; at least 0.
    """

    weight: float

    def __call__(self, candidate: Candidate) -> Tensor:
        """See the class."""
        x = candidate.inputs
        total = x.new_zeros(())
        if x.ndim != 4:
            return total
        for axis in (2, 3):
            if x.shape[axis] > 1:
                total = total + x.diff(dim=axis).abs().mean()
        return self.weight * total


@dataclass(frozen=True, slots=True, kw_only=True)
class InputNorm:
    """Mean square of the inputs as the network sees them.

    Args:
        weight: factor; at least 0.
    """

    weight: float

    def __call__(self, candidate: Candidate) -> Tensor:
        """See the class."""
        return self.weight * candidate.inputs.square().mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Mean square of what sticks out of the valid range; zero where the server does not know it.

    For optimizers that may not be clamped after each step, because they remember gradients.

    Args:
        weight: factor; at least 0.
    """

    weight: float

    def __call__(self, candidate: Candidate) -> Tensor:
        """See the class."""
        if candidate.bounds is None:
            return candidate.inputs.new_zeros(())
        low, high = candidate.bounds
        out = torch.relu(low - candidate.inputs) + torch.relu(candidate.inputs - high)
        return self.weight * out.square().mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatistics:
    """Distance of the batch's means and variances at batch-norm layers from the running ones.

    Zero for networks without running statistics.

    Args:
        weight: factor; at least 0.

    Reference:
        Yin et al.: See through Gradients (GradInversion), CVPR 2021, equation 11.
    """

    weight: float

    def __call__(self, candidate: Candidate) -> Tensor:
        """See the class."""
        total = candidate.inputs.new_zeros(())
        for layer in candidate.statistics:
            axes = [0, *range(2, layer.entering.ndim)]
            variance, mean = torch.var_mean(layer.entering, dim=axes, correction=0)
            total = total + (mean - layer.mean).square().mean() + (variance - layer.variance).square().mean()
        return self.weight * total
