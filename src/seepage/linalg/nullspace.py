"""Directions that many rows of a matrix annihilate: sampled, rounded to machine precision, and proved unique.

Notation: ``L [m, b]`` has one row a unit and unit-length rows; a direction ``q [b]`` is one row of ``[k, b]``.
"""

import torch
from scipy.linalg import qr
from torch import Tensor

__all__ = [
    "merge_directions",
    "pinned_twice",
    "refine_directions",
    "robust_null_directions",
    "sampled_null_directions",
    "zero_mask",
]


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


def zero_mask(L: Tensor, directions: Tensor, *, zero_tol: float) -> Tensor:
    """Where ``L q`` vanishes: ``|L q| <= zero_tol`` times the root mean square of its entries.

    Returns:
        ``[k, m]`` bool.
    """
    values = directions @ L.T
    return values.abs() <= zero_tol * values.square().mean(dim=1, keepdim=True).sqrt()


def robust_null_directions(L: Tensor, rows: Tensor, *, rounds: int = 10) -> Tensor:
    """The direction that most of the given rows annihilate, though some of them do not (PRISM, step 2).

    Iteratively reweighted least squares: weights ``1 / (y^2 + median^2)`` with ``y = L q`` on the given rows, then the
    eigenvector of the smallest eigenvalue of the weighted Gram matrix.

    Args:
        L: ``[m, b]`` float64.
        rows: ``[k, m]`` bool, the rows believed to vanish for each of ``k`` candidates.
        rounds: reweightings.

    Returns:
        ``[k, b]`` unit directions.
    """
    weights = rows.to(L.dtype)
    directions = _least_directions(L, weights)
    for _ in range(rounds):
        values = (directions @ L.T).abs().masked_fill(~rows, float("nan"))
        scale = values.nanmedian(dim=1, keepdim=True).values.nan_to_num(1.0).clamp_min(1e-12)
        weights = torch.where(rows, scale.square() / (values.nan_to_num(0.0).square() + scale.square()), 0.0)
        directions = _least_directions(L, weights)
    return directions


def refine_directions(L: Tensor, directions: Tensor, *, zero_tol: float, rounds: int = 2) -> Tensor:
    """Each direction solved again from all rows where it vanishes, in float64.

    Args:
        L: ``[m, b]`` float64.
        directions: ``[k, b]``, right to about ``zero_tol``.
        zero_tol: see :func:`zero_mask`.
        rounds: how often to repeat with the rows that came out zero.
    """
    for _ in range(rounds):
        directions = _least_directions(L, zero_mask(L, directions, zero_tol=zero_tol).to(L.dtype))
    return directions


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


def pinned_twice(L: Tensor, zeros: Tensor, *, rank_tol: float) -> Tensor:
    """Whether two disjoint sets of a direction's zero rows each leave it as the only direction they annihilate.

    A combination of ``t >= 2`` true columns vanishes where all of them do, and by accident on at most ``t - 1`` further
    rows of a generic batch. On the common rows ``t`` directions are annihilated, so each set would need ``t - 1``
    accidents of its own: twice as many as there are. A direction that is pinned twice is therefore a true column.

    The first set is a basis chosen by QR with column pivoting, which takes no more of the rows that tell two examples
    apart than it needs; the second set is all other zero rows.

    Args:
        L: ``[m, b]`` float64, unit rows.
        zeros: ``[k, m]`` bool.
        rank_tol: a set leaves one direction if its second-smallest singular value (for the basis: pivot) exceeds this
            share of the largest.

    Returns:
        ``[k]`` bool.
    """
    b = L.shape[1]
    pinned = torch.full((len(zeros),), b == 1, device=L.device)  # a single direction has no rival
    for index, mask in enumerate(zeros):
        rows = L[mask]
        if b == 1 or len(rows) < 2 * (b - 1):
            continue
        triangle, order = qr(rows.T.cpu().numpy(), mode="r", pivoting=True)
        pivots = abs(triangle.diagonal())
        if pivots[b - 2] <= rank_tol * pivots[0]:
            continue
        others = rows[torch.from_numpy(order[b - 1 :]).to(rows.device)]
        squares = torch.linalg.eigvalsh(others.T @ others)  # ascending
        pinned[index] = bool(squares[1] > (rank_tol**2) * squares[-1])
    return pinned


def _least_directions(L: Tensor, weights: Tensor) -> Tensor:
    """Unit ``q`` that minimises ``sum_j w_j (L q)_j^2`` for each row of ``weights [k, m]``."""
    found = []
    step = max(1, (1 << 24) // (L.shape[0] * L.shape[1]))
    for part in torch.split(weights, step):
        gram = (L.T * part[:, None, :]) @ L  # [step, b, b]
        found.append(torch.linalg.eigh(gram).eigenvectors[:, :, 0])
    return torch.cat(found) if found else L.new_zeros(0, L.shape[1])
