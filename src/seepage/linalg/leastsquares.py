"""Linear least squares by products with the matrix and its transpose alone."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["least_squares"]


def least_squares(
    product: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    target: Tensor,
    *,
    steps: int,
    tol: float,
    goes_on: Callable[[], bool] = lambda: True,
) -> Tensor:
    """Minimise ``|A x - target|`` from ``x = 0`` by conjugate gradients on the normal equations (CGLS).

    Args:
        product: ``A``, of any shape ``[*x]`` to ``[r]``.
        adjoint: its transpose.
        target: ``[r]``.
        steps: at most; each takes one product and one adjoint.
        tol: done once ``|A^T (A x - target)|`` is that share of what it was.
        goes_on: asked before each step; where it says no, what there is comes back, nearer than ``x = 0`` all the same.

    Returns:
        ``[*x]``.

    Reference:
        Hestenes and Stiefel, 1952, section 10; Bjorck, Numerical Methods for Least Squares Problems, 1996, section 7.4.
    """
    rest = target
    slope = adjoint(rest)
    x, ahead = torch.zeros_like(slope), slope
    size = first = float(slope.square().sum())
    for _ in range(steps):
        if not size > tol**2 * first or not goes_on():
            break
        moved = product(ahead)
        length = size / max(float(moved.square().sum()), 1e-300)
        x = x + length * ahead
        rest = rest - length * moved
        slope = adjoint(rest)
        before, size = size, float(slope.square().sum())
        ahead = slope + size / before * ahead
    return x
