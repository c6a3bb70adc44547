"""From a rough direction to the exact one: the vector that as many rows of a matrix as possible annihilate.

Notation: ``L [m, b]`` has one row a unit; a direction ``q [b]`` is one row of ``[k, b]`` and has unit length. All of it
in float64: the zeros that decide exactness are 1e-6 of an entry.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from seepage.linalg.nullspace import zero_mask
from seepage.linalg.whitened import Whitened

__all__ = ["MANY_COLUMNS", "least_directions", "refine_directions", "reselect_directions", "robust_null_directions"]

_ENTRIES_AT_ONCE = 1 << 24  # of weighted copies of L: 128 MiB
_DENSE = 0.8  # share of non-zero weights above which picking rows is not worth it
MANY_COLUMNS = 128  # columns from which a Gram matrix for each direction costs more than conjugate gradients for all
_SOLVED = 1e-12  # slope that they may leave of what is refined; rows together have size one
_FROM_NOWHERE = 2  # descents more where no start is known
_SHIFT = 500  # rounding units of the mean eigenvalue; moves no eigenvector, keeps an exactly singular Gram factorable

_Solve = Callable[[Tensor, Tensor | None], Tensor]  # weights [k, m] and vectors near the answer to unit [k, b]


def least_directions(L: Tensor, weights: Tensor, starts: Tensor | None = None) -> Tensor:
    """Unit ``q`` that minimises ``sum_j w_j (L q)_j^2`` for each row of ``weights [k, m]``, by inverse iteration.

    Args:
        L: ``[m, b]`` float64.
        weights: ``[k, m]`` non-negative, or bool.
        starts: ``[k, b]`` vectors near the answer, which save iterations.
    """
    b = L.shape[1]
    found = []
    step = max(1, _ENTRIES_AT_ONCE // L.numel())
    for start in range(0, len(weights), step):
        part = weights[start : start + step].to(L.dtype)
        gram = _gram(L, part)  # [step, b, b]
        shift = _SHIFT * torch.finfo(L.dtype).eps * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-300)
        gram.diagonal(dim1=1, dim2=2).add_(shift[:, None])
        factor, failed = torch.linalg.cholesky_ex(gram)
        vectors = _anywhere(L, len(part)) if starts is None else starts[start : start + step]
        for _ in range(12 if starts is None else 4):
            vectors = torch.cholesky_solve(vectors[:, :, None], factor)[:, :, 0]
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
        bad = (failed != 0) | ~vectors.isfinite().all(dim=1)
        if bool(bad.any()):
            vectors = vectors.clone()
            vectors[bad] = torch.linalg.eigh(gram[bad].nan_to_num(0.0)).eigenvectors[:, :, 0]
        found.append(vectors)
    return torch.cat(found) if found else L.new_zeros(0, b)


def robust_null_directions(L: Tensor, weights: Tensor, *, rounds: int = 10, starts: Tensor | None = None) -> Tensor:
    """The direction that most of the given rows annihilate, though some of them do not (PRISM, step 2).

    Iteratively reweighted least squares with weights ``w_j median^2 / (y_j^2 + median^2)``, ``y = L q``. From
    128 columns on each reweighting is solved by a few conjugate gradients: what they leave is put right by the next,
    and a Gram matrix for each direction would take several times as long.

    Args:
        L: ``[m, b]`` float64.
        weights: ``[k, m]``, how much each row is trusted to vanish; bool, or in [0, 1]. Zero leaves a row out.
        rounds: reweightings.
        starts: ``[k, b]`` vectors near the answer.

    Returns:
        ``[k, b]`` unit directions.
    """
    trusted = weights.to(L.dtype)
    solve = _solver(L)
    if starts is None and L.shape[1] >= MANY_COLUMNS:
        starts = _anywhere(L, len(trusted))
        for _ in range(_FROM_NOWHERE):
            starts = solve(trusted, starts)
    directions = solve(trusted, starts)
    for _ in range(rounds):
        values = (directions @ L.T).abs()
        scale = values.masked_fill(trusted == 0, torch.nan).nanmedian(dim=1, keepdim=True).values
        scale = scale.nan_to_num(1.0).clamp_min(1e-12)
        directions = solve(trusted * scale.square() / (values.square() + scale.square()), directions)
    return directions


def reselect_directions(L: Tensor, directions: Tensor, *, share: float = 0.25, rounds: int = 3) -> Tensor:
    """Each direction solved again from the rows where it is smallest, ``rounds`` times.

    From a direction within 0.98 of a true one this ends on the true one nearly always, so that the sampled subsets of
    SPEAR++ are not needed.

    Args:
        L: ``[m, b]`` float64.
        directions: ``[k, b]``.
        share: of all rows that are taken; at least ``1.5 b`` are.
        rounds: reselections.
    """
    m, b = L.shape
    count = min(m, max(int(1.5 * b), int(share * m)))
    solve = _solver(L)
    for _ in range(rounds if len(directions) else 0):
        values = (directions @ L.T).abs()
        smallest = values <= values.kthvalue(count, dim=1, keepdim=True).values
        directions = solve(smallest, directions)
    return directions


def refine_directions(L: Tensor, directions: Tensor, *, zero_tol: float | Tensor, rounds: int = 2) -> Tensor:
    """Each direction solved again from all rows where it vanishes, to rounding.

    Args:
        L: ``[m, b]`` float64.
        directions: ``[k, b]``, right to about ``zero_tol``.
        zero_tol: one for all, or one for each, ``[k]``; see :func:`seepage.linalg.nullspace.zero_mask`.
        rounds: how often to repeat with the rows that came out zero.
    """
    solve = _solver(L, most_left=_SOLVED)
    for _ in range(rounds if len(directions) else 0):
        directions = solve(zero_mask(L, directions, zero_tol=zero_tol), directions)
    return directions


def _solver(L: Tensor, *, most_left: float = math.inf) -> _Solve:
    """:func:`least_directions`; from ``MANY_COLUMNS`` on, conjugate gradients towards it, which are far quicker.

    Args:
        L: ``[m, b]``.
        most_left: what they may leave of the slope; directions beyond it are solved anew.
    """
    if L.shape[1] < MANY_COLUMNS:
        return partial(least_directions, L)
    whitened = Whitened.of(L)

    def solve(weights: Tensor, starts: Tensor | None) -> Tensor:
        found, left = whitened.descend(weights, _anywhere(L, len(weights)) if starts is None else starts)
        rough = ~(left <= most_left)
        if bool(rough.any()):
            found[rough] = least_directions(L, weights[rough], None if starts is None else starts[rough])
        return found

    return solve


def _gram(L: Tensor, weights: Tensor) -> Tensor:
    """``sum_j w_j l_j l_j^T`` for each row of ``weights [k, m]``; rows of weight zero cost nothing."""
    count = int((weights != 0).sum(dim=1).max()) if len(weights) else 0
    if count > _DENSE * len(L):
        full: Tensor = (L.T * weights[:, None, :]) @ L
        return full
    largest = weights.topk(count, dim=1)
    rows = L[largest.indices] * largest.values.sqrt()[:, :, None]  # [k, count, b]
    gathered: Tensor = rows.transpose(1, 2) @ rows
    return gathered


def _anywhere(L: Tensor, count: int) -> Tensor:
    """A start that no structure of the data is orthogonal to, the same for all."""
    steps = torch.arange(1, L.shape[1] + 1, dtype=L.dtype, device=L.device)
    return torch.cos(steps.square()).expand(count, -1) + 0.1
