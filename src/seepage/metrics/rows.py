"""Examples as rows of numbers."""

import math

from torch import Tensor

__all__ = ["as_rows", "finite"]


def as_rows(examples: Tensor) -> Tensor:
    """``[k, n]`` float64 from ``[k, *shape]``, also where k is 0."""
    return examples.double().reshape(len(examples), math.prod(examples.shape[1:]))


def finite(examples: Tensor) -> Tensor:
    """``[k]``: whether each example is without NaN and infinity."""
    return as_rows(examples).isfinite().all(dim=1)
