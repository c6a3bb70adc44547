"""Numerical rank and two-sided factors of a matrix that is low-rank up to rounding, or up to noise, at any width."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LowRank", "leading_columns", "low_rank_factors", "numerical_rank", "rank_above_noise", "sketched_svd"]

_BLOCK_ENTRIES = 1 << 21  # entries converted to float64 at a time: 16 MiB; larger blocks are new memory each time
_ABOVE = 1.05  # times the largest singular value that noise of a given size has in the limit
_UNEVEN = 6.0  # times that, up to which uneven noise is taken for noise where a gap follows
_CLEAR_GAP = 2.0
_HINT = 1.6  # gap without which a rough sketch, which shows noise smaller than it is, is not turned any further
_POWERS = 3  # passes that turn a sketch to the largest singular vectors where the rest is noise, not rounding;
_POWERS_OF_ROUNDING = 1  # of rounding one takes out what the sketch adds to it: 10 times as much as there was


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """``matrix = left @ diag(singular) @ right`` up to ``noise``; everything in float64.

    Args:
        left: ``[m, r]`` orthonormal columns.
        singular: ``[r]`` descending.
        right: ``[r, n]`` orthonormal rows.
        noise: the first singular value that was cut off, as a share of the largest one.
        spread: root mean square of the noise's entries where it stands above rounding, else 0.
    """

    left: Tensor
    singular: Tensor
    right: Tensor
    noise: float
    spread: float = 0.0

    @property
    def rank(self) -> int:
        """The numerical rank ``r``."""
        return len(self.singular)


def low_rank_factors(
    matrix: Tensor, *, generator: torch.Generator, start_rank: int = 64, rounding: float = 0.0
) -> LowRank | None:
    """Factors of ``matrix [m, n]`` at its numerical rank, or ``None`` if it has no clear one below ``min(m, n)``.

    Where the tail is not rounding, it may be noise: independent entries of one size, whose singular values end at a
    sharp edge (:func:`rank_above_noise`). Noise of a defense is found so without being known.

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
    half = _half_rounding(matrix)
    rounding = max(rounding, half)
    while True:
        left, singular, right = sketched_svd(matrix, width, generator, powers=_POWERS if half else _POWERS_OF_ROUNDING)
        level = 3 * rounding * (rows**0.5 + columns**0.5)  # their largest singular value, and a margin
        first = max(float(singular[0]), 1e-300)
        own, known = torch.finfo(torch.float32 if half else matrix.dtype).eps, level / (100 * first)
        rank = numerical_rank(singular, max(own, known), flat=0.02 if own > known else 0.67)
        if rank is not None:
            spread = max(half, float(singular[rank]) / (rows**0.5 + columns**0.5)) if half else 0.0
            noise = float(singular[rank]) / first
            return LowRank(
                left=left[:, :rank], singular=singular[:rank], right=right[:rank], noise=noise, spread=spread
            )
        above = _factors_above_noise(matrix, left, singular, generator)
        if above is not None:
            return above
        if width == min(rows, columns):
            return None
        width = min(2 * width, rows, columns)


def leading_columns(matrix: Tensor, width: int, *, generator: torch.Generator) -> Tensor:
    """``[m, k]`` orthonormal, ``k <= width``: where the largest part of the columns of ``matrix [m, n]`` lies.

    Args:
        matrix: of any rank; directions that hold a share of 1e-7 or less of the largest are left out.
        width: at most.
        generator: draws the sketch.
    """
    left, singular, _ = sketched_svd(matrix, min(width, *matrix.shape), generator, powers=_POWERS)
    return left[:, singular > 1e-7 * singular[:1]]


def numerical_rank(singular: Tensor, eps: float, *, drop: float = 10.0, flat: float = 0.02) -> int | None:
    """The rank at which descending ``singular [k]`` falls to the rounding level, ``None`` if it never does.

    The largest drop counts among those that end below ``100 eps`` of the first value and are at least ``drop``-fold:
    rounding errors of a gradient are a flat tail, and the smallest singular value of a real batch stands well above it.

    Args:
        singular: ``[k]`` descending, non-negative.
        eps: rounding unit of the dtype the matrix was computed in.
        drop: smallest ratio that counts as the end of the signal.
        flat: share of ``eps`` below which values are all alike.
    """
    if len(singular) < 2 or float(singular[0]) == 0.0:
        return None
    floor = flat * eps * float(singular[0])  # equal columns cancel exactly: not a second drop to be found
    kept, cut = singular[:-1].clamp_min(floor), singular[1:].clamp_min(floor)
    ratio = torch.where(cut <= 100 * eps * singular[0], kept / cut, torch.zeros_like(cut))
    best = int(ratio.argmax())
    return best + 1 if float(ratio[best]) >= drop else None


def _half_rounding(matrix: Tensor) -> float:
    """Root mean square rounding of entries that fit into half precision, else 0: no gradient does by chance."""
    for dtype in (torch.bfloat16, torch.float16):
        if all(bool((part.to(dtype).to(matrix.dtype) == part).all()) for part in torch.split(matrix, 256)):
            size = sum(float(part.double().square().sum()) for part in torch.split(matrix, 256))
            return float(torch.finfo(dtype).eps * (size / matrix.numel() / 12) ** 0.5)
    return 0.0


def rank_above_noise(singular: Tensor, edge: float) -> int | None:
    """At which of descending ``singular [k]`` the signal ends, ``None`` if no gap shows it, or only past half of them.

    The largest singular value of ``m x n`` independent entries of spread ``s`` tends to ``s (sqrt(m) + sqrt(n))``, the
    edge; where noise is larger in some rows than in others (rounding is), its own largest values stand somewhat above.
    A gap is asked for, since signal just above the edge is of no use, and a batch as large as the layer has none. With
    more than half of a sketch above it there may be more signal outside, which was taken for noise.

    Reference:
        Gavish and Donoho, The Optimal Hard Threshold for Singular Values is 4 / sqrt(3), 2014, section III.
    """
    ratio = _gaps(singular, edge)
    best = int(ratio.argmax())
    return best + 1 if float(ratio[best]) >= _CLEAR_GAP and best < len(singular) // 2 else None


def _gaps(singular: Tensor, edge: float) -> Tensor:
    """``[k - 1]``: from each of ``singular [k]`` to the next, as a ratio; 0 where signal cannot end and noise begin."""
    kept, cut = singular[:-1], singular[1:].clamp_min(1e-300)
    return torch.where((cut <= _UNEVEN * edge) & (kept > _ABOVE * edge), kept / cut, torch.zeros_like(cut))


def _factors_above_noise(matrix: Tensor, left: Tensor, singular: Tensor, generator: torch.Generator) -> LowRank | None:
    """From where a sketch for rounding ended, ``left [m, w]`` and ``singular [w]``."""
    rows, columns = matrix.shape
    width = min(len(singular), rows // 2, columns // 2)  # something has to be left to measure the noise by
    if width < 2:
        return None
    total = sum(float(part.double().square().sum()) for part in torch.split(matrix, max(1, _BLOCK_ENTRIES // columns)))
    rough = singular[:width]
    if not bool((_gaps(rough, _edge(rough, total, matrix.shape)) >= _HINT).any()):
        return None
    powers = _POWERS - _POWERS_OF_ROUNDING
    left, singular, right = sketched_svd(matrix, width, generator, powers=powers, start=left[:, :width])
    edge = _edge(singular, total, matrix.shape)
    rank = rank_above_noise(singular, edge)
    if rank is None:
        return None
    edge = max(edge, float(singular[rank]))
    spread, noise = edge / (rows**0.5 + columns**0.5), edge / float(singular[0])
    return LowRank(left=left[:, :rank], singular=singular[:rank], right=right[:rank], noise=noise, spread=spread)


def _edge(singular: Tensor, total: float, shape: tuple[int, ...]) -> float:
    """The largest singular value that noise has, if all is noise of ``total`` square that ``singular [w]`` leave."""
    rows, columns = shape
    edge, above = 0.0, len(singular) + 1
    while int((singular > _ABOVE * edge).sum()) < above:  # what is taken for signal is not counted as noise
        above = int((singular > _ABOVE * edge).sum())
        rest = max(total - float(singular[:above].square().sum()), 0.0)
        edge = (rest / ((rows - above) * (columns - above))) ** 0.5 * (rows**0.5 + columns**0.5)
    return edge


def sketched_svd(
    matrix: Tensor, width: int, generator: torch.Generator, *, powers: int, start: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(left [m, w], singular [w], right [w, n])``: nearly the first singular triples of ``[m, n]``, in float64.

    Args:
        matrix: ``[m, n]`` of any floating dtype.
        width: how many, ``w``; a few more than are wanted.
        generator: draws the sketch.
        powers: passes of subspace iteration. Each turns the sketch towards triples that stand out; from the first on,
            values below 1e-8 of the largest are lost.
        start: ``[m, w]`` orthonormal, where an earlier sketch ended, in place of a new one.
    """
    columns = matrix.shape[1]
    basis = torch.linalg.qr(_drawn(matrix, width, generator)).Q if start is None else start  # [m, width]
    for _ in range(powers):
        turned = torch.zeros_like(basis)
        for block in _blocks(matrix):
            turned += block @ (block.T @ basis)
        basis = torch.linalg.qr(turned).Q
    core = basis.new_empty(columns, width)
    for place, block in zip(torch.split(core, _step(matrix)), _blocks(matrix), strict=True):
        torch.mm(block.T, basis, out=place)
    # An LQ first: the SVD then works on a small square.
    orthonormal, triangle = torch.linalg.qr(core)
    left, singular, right = torch.linalg.svd(triangle.T, full_matrices=False)
    return basis @ left, singular, right @ orthonormal.T


def _drawn(matrix: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """``[m, width]``: ``matrix [m, n]`` times a normal one."""
    sketch = torch.zeros(len(matrix), width, dtype=torch.float64, device=matrix.device)
    for block in _blocks(matrix):
        test = torch.randn(block.shape[1], width, generator=generator, dtype=torch.float64, device=generator.device)
        sketch += block @ test.to(matrix.device)
    return sketch


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    """Columns of ``matrix [m, n]``, some at a time, in float64."""
    return (block.double() for block in torch.split(matrix, _step(matrix), dim=1))


def _step(matrix: Tensor) -> int:
    return max(1, _BLOCK_ENTRIES // len(matrix))
