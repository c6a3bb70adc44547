"""Numerical rank and two-sided factors of a matrix that is low-rank up to rounding, at any width."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LowRank", "low_rank_factors", "numerical_rank"]

_BLOCK_ENTRIES = 1 << 24  # entries converted to float64 at a time: 128 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """``matrix = left @ diag(singular) @ right`` up to ``noise``; everything in float64.

    Args:
        left: ``[m, r]`` orthonormal columns.
        singular: ``[r]`` descending.
        right: ``[r, n]`` orthonormal rows.
        noise: the first singular value that was cut off, as a share of the largest one.
    """

    left: Tensor
    singular: Tensor
    right: Tensor
    noise: float

    @property
    def rank(self) -> int:
        """The numerical rank ``r``."""
        return len(self.singular)


def low_rank_factors(
    matrix: Tensor, *, generator: torch.Generator, start_rank: int = 64, rounding: float = 0.0
) -> LowRank | None:
    """Factors of ``matrix [m, n]`` at its numerical rank, or ``None`` if it has no clear one below ``min(m, n)``.

    A randomised range finder (Halko, Martinsson, Tropp 2011, algorithm 4.1) whose sketch doubles until the singular
    values fall to the rounding of the matrix's dtype. Memory is O((m + n) r): nothing of size n x n is formed.

    Args:
        matrix: ``[m, n]`` of any floating dtype, whose rounding decides what counts as zero.
        generator: draws the sketch.
        start_rank: width of the first sketch.
        rounding: root mean square of independent errors of its entries, where they are larger than its dtype's.
    """
    rows, columns = matrix.shape
    width = min(start_rank, rows, columns)
    while True:
        left, singular, right = _sketched_svd(matrix, width, generator)
        level = 3 * rounding * (rows**0.5 + columns**0.5)  # their largest singular value, and a margin
        eps = max(torch.finfo(matrix.dtype).eps, level / (100 * max(float(singular[0]), 1e-300)))
        rank = numerical_rank(singular, eps)
        if rank is not None:
            noise = float(singular[rank] / singular[0])
            return LowRank(left=left[:, :rank], singular=singular[:rank], right=right[:rank], noise=noise)
        if width == min(rows, columns):
            return None
        width = min(2 * width, rows, columns)


def numerical_rank(singular: Tensor, eps: float, *, drop: float = 10.0) -> int | None:
    """The rank at which descending ``singular [k]`` falls to the rounding level, ``None`` if it never does.

    The largest drop counts among those that end below ``100 eps`` of the first value and are at least ``drop``-fold:
    rounding errors of a gradient are a flat tail, and the smallest singular value of a real batch stands well above it.

    Args:
        singular: ``[k]`` descending, non-negative.
        eps: rounding unit of the dtype the matrix was computed in.
        drop: smallest ratio that counts as the end of the signal.
    """
    if len(singular) < 2 or float(singular[0]) == 0.0:
        return None
    floor = 0.02 * eps * float(singular[0])  # equal columns cancel exactly: not a second drop to be found
    kept, cut = singular[:-1].clamp_min(floor), singular[1:].clamp_min(floor)
    ratio = torch.where(cut <= 100 * eps * singular[0], kept / cut, torch.zeros_like(cut))
    best = int(ratio.argmax())
    return best + 1 if float(ratio[best]) >= drop else None


def _sketched_svd(matrix: Tensor, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = matrix.shape
    step = max(1, _BLOCK_ENTRIES // rows)
    sketch = torch.zeros(rows, width, dtype=torch.float64, device=matrix.device)
    for start in range(0, columns, step):
        block = matrix[:, start : start + step].double()
        test = torch.randn(block.shape[1], width, generator=generator, dtype=torch.float64, device=generator.device)
        sketch += block @ test.to(matrix.device)
    basis = torch.linalg.qr(sketch).Q  # [m, width]
    core = torch.cat(
        [basis.T @ matrix[:, start : start + step].double() for start in range(0, columns, step)], dim=1
    )  # [width, n]
    # An LQ first: the SVD then works on a small square.
    orthonormal, triangle = torch.linalg.qr(core.T)
    left, singular, right = torch.linalg.svd(triangle.T, full_matrices=False)
    return basis @ left, singular, right @ orthonormal.T
