"""Directions that many rows of a matrix annihilate: sampled, told apart, and proved unique.

Notation: ``L [m, b]`` has one row a unit and unit-length rows; a direction ``q [b]`` is one row of ``[k, b]``.
"""

import torch
from torch import Tensor

__all__ = [
    "MOST_LEVERAGE",
    "largest_leverage",
    "merge_directions",
    "sampled_null_directions",
    "zero_mask",
]

MOST_LEVERAGE = 0.9  # of one zero row on the direction it helps to pin (:func:`largest_leverage`)
_ENTRIES_AT_ONCE = 1 << 24  # of weighted copies of L: 128 MiB


def sampled_null_directions(L: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
    """Null directions of random sets of ``b - 1`` rows (SPEAR, section 4; one small LU each, no SVD).

    Rows are drawn by cutting random permutations of all rows into disjoint sets, which costs ``m / (b - 1)`` times
    less than a fresh draw each and leaves the expected number of hits as it is.

    Args:
        L: ``[m, b]`` in the dtype to work in (float32 suffices for proposals).
        count: how many sets to draw.
        generator: draws the permutations.

    Returns:
        ``[k, b]`` unit directions, ``k <= count``: singular sets are left out.
    """
    m, b = L.shape
    if b == 1:
        return torch.ones(1, 1, dtype=L.dtype, device=L.device)
    sets_each = max(1, m // (b - 1))
    keys = torch.rand(-(-count // sets_each), m, generator=generator, device=generator.device)
    rows = keys.argsort(dim=1)[:, : sets_each * (b - 1)].reshape(-1, b - 1)[:count].to(L.device)
    matrices = L[rows]  # [count, b - 1, b]
    solution, info = torch.linalg.solve_ex(matrices[:, :, :-1], -matrices[:, :, -1])
    directions = torch.cat([solution, torch.ones_like(solution[:, :1])], dim=1)
    directions = directions / directions.norm(dim=1, keepdim=True)
    regular = directions.isfinite().all(dim=1).logical_and(info == 0)
    return torch.masked_select(directions, regular[:, None]).reshape(-1, b)


def zero_mask(L: Tensor, directions: Tensor, *, zero_tol: float | Tensor) -> Tensor:
    """Where ``L q`` vanishes: ``|L q| <= zero_tol`` times the root mean square of its entries.

    Args:
        L: ``[m, b]``.
        directions: ``[k, b]``.
        zero_tol: one for all, or one for each, ``[k]``.

    Returns:
        ``[k, m]`` bool.
    """
    values = directions @ L.T
    tol = zero_tol[:, None] if isinstance(zero_tol, Tensor) else zero_tol
    return values.abs() <= tol * values.square().mean(dim=1, keepdim=True).sqrt()


def merge_directions(directions: Tensor, known: Tensor, *, coherence: float) -> Tensor:
    """Which of ``directions [k, b]`` are new: not ``+-`` a direction in ``known [f, b]`` nor an earlier one.

    Returns:
        ``[k]`` bool.
    """
    fresh = torch.ones(len(directions), dtype=torch.bool, device=directions.device)
    if len(known):
        fresh &= ((directions @ known.T).abs() < coherence).all(dim=1)
    earlier = (directions @ directions.T).abs() >= coherence
    for index in fresh.nonzero().flatten().tolist():
        if fresh[index]:
            fresh[index + 1 :] &= ~earlier[index, index + 1 :]
    return fresh


def largest_leverage(L: Tensor, zeros: Tensor, *, rank_tol: float) -> Tensor:
    """How much a direction hangs on one of its zero rows: 1 if without it another direction would do as well.

    A combination of ``t >= 2`` true columns vanishes where all of them do, and by accident on at most ``t - 1`` further
    rows of a generic batch. On the common rows all ``t`` columns vanish, so a space of ``t - 1`` dimensions is seen by
    the accidents alone: their leverages add up to at least ``t - 1``. If no zero row has a leverage above ``c``, there
    are at least ``(t - 1) / c`` accidents, which for ``c < 1`` is more than there can be.

    Args:
        L: ``[m, b]`` float64, unit rows.
        zeros: ``[k, m]`` bool.
        rank_tol: the zero rows leave one direction if their second-smallest singular value exceeds this share of the
            largest.

    Returns:
        ``[k]`` in [0, 1], infinite where the zero rows leave more than one direction.
    """
    b = L.shape[1]
    if b == 1:  # a single direction has no rival
        return torch.zeros(len(zeros), dtype=L.dtype, device=L.device)
    answers = [torch.zeros(0, dtype=L.dtype, device=L.device)]
    for part in torch.split(zeros, max(1, _ENTRIES_AT_ONCE // L.numel())):
        most = max(int(part.sum(dim=1).max()), 1) if len(part) else 1
        chosen = part.to(torch.int8).topk(most, dim=1)  # zero rows first; of fewer than most, others follow
        rows = L[chosen.indices] * chosen.values[:, :, None]  # [step, most, b]
        squares, vectors = torch.linalg.eigh(rows.transpose(1, 2) @ rows)  # ascending
        determined = squares[:, 1] > rank_tol**2 * squares[:, -1]
        scaled = vectors[:, :, 1:] * squares[:, None, 1:].clamp_min(1e-300).rsqrt()
        leverage = (rows @ scaled).square().sum(dim=2)  # [step, most]
        answers.append(leverage.amax(dim=1).where(determined, torch.inf))
    return torch.cat(answers)
