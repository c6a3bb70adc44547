"""The rank-one terms of a sum of sparse ones, each found by the entries that it alone fills.

Where one term alone fills an entry, the entry is ``left[u] * right[i]``, and floating point keeps it to a share of
*itself*, however small it is beside other entries. Two rows then have one and the same ratio in all such columns, to
the rounding, and different ratios elsewhere. So columns with equal ratios name a term, and a term its other entries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SoleTerms", "sole_terms"]

_EQUAL = 4.0  # rounding units by which equal ratios may differ
_COLUMNS, _AGREE = 8, 4  # equal ratios that make a term, and that add an entry to it
_KNOWN = 1e-3  # share of an entry by which it may be off to count as known
_REST = 1e-2  # share of the sum that all terms together may leave
_ALIKE = 0.999  # cosine from which two terms count as one
_BARREN = 100  # pairs after which a search that found nothing ends
_AT_ONCE = 128  # columns solved together


@dataclass(frozen=True, slots=True, kw_only=True)
class SoleTerms:
    """``matrix = left.T @ right`` as far as both are known.

    Args:
        left: ``[r, m]``, rows of unit length; zero where unknown.
        right: ``[r, n]``; zero where the others' rounding hides it.
        seen: ``[r, m]`` bool: where ``left`` is known, zeros included.
    """

    left: Tensor
    right: Tensor
    seen: Tensor


def sole_terms(matrix: Tensor, count: int, *, eps: float, pairs: int, generator: torch.Generator) -> SoleTerms | None:
    """All terms of the sum, or ``None`` if not as many stand out as there should be, or they are not the sum.

    Args:
        matrix: ``[m, n]`` float64, the sum as rounded by whoever sent it.
        count: how many terms there are.
        eps: the sender's rounding unit.
        pairs: of rows that are compared, at most.
        generator: draws pairs.
    """
    found: list[tuple[Tensor, Tensor]] = []
    rows = torch.randint(len(matrix), (pairs, 2), generator=generator, device=generator.device).tolist()
    for tried, (one, other) in enumerate(rows):
        if len(found) >= count or (tried >= _BARREN and not found):
            break
        for columns, ratio in _equal_ratios(matrix, one, other, _EQUAL * eps):
            if any(_explains(left, one, other, ratio, eps) for left, _ in found):
                continue
            left, right = _grown(matrix, matrix[one, columns], columns, _EQUAL * eps)
            new = int((left != 0).sum()) >= _COLUMNS and not any(_same(left, term) for term, _ in found)
            if new:
                found.append((left, right))
    if len(found) != count:
        return None
    left, right = (torch.stack(side) for side in zip(*found, strict=True))
    terms = _completed(matrix, left, right, eps)
    whole = terms.seen.all(0)  # rows of which no term is unknown
    rest = matrix[whole] - terms.left[:, whole].T @ terms.right
    return terms if float(rest.norm()) < _REST * float(matrix[whole].norm()) else None


def _equal_ratios(matrix: Tensor, one: int, other: int, tol: float) -> list[tuple[Tensor, float]]:
    """``(columns, ratio)`` of every run of equal ratios of two rows."""
    if one == other:
        return []
    both = ((matrix[one] != 0) & (matrix[other] != 0)).nonzero()[:, 0]
    ratios = matrix[one, both] / matrix[other, both]
    order = ratios.argsort()
    ratios = ratios[order]
    near = (ratios[1:] - ratios[:-1]).abs() < tol * ratios[1:].abs()
    edge = torch.zeros(1, dtype=torch.bool)
    steps = torch.cat([edge, near, edge]).int().diff()
    runs = zip((steps == 1).nonzero()[:, 0].tolist(), (steps == -1).nonzero()[:, 0].tolist(), strict=True)
    return [(both[order[a : b + 1]], float(ratios[(a + b) // 2])) for a, b in runs if b - a + 1 >= _COLUMNS]


def _explains(left: Tensor, one: int, other: int, ratio: float, eps: float) -> bool:
    """Whether a term found has that ratio of these two rows."""
    if not left[one] or not left[other]:
        return False
    return abs(float(left[one] / left[other]) / ratio - 1) < 100 * eps


def _same(left: Tensor, term: Tensor) -> bool:
    return abs(float(left @ term)) > _ALIKE * float(left.norm() * term.norm())


def _grown(matrix: Tensor, right: Tensor, columns: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """``(left [m], right [n])`` from what is known of ``right`` at some columns, to and fro twice."""
    for _ in range(2):
        left = _modes(matrix[:, columns] / right, tol)
        rows = left.nonzero()[:, 0]
        whole = _modes((matrix[rows] / left[rows, None]).T, tol)
        columns = whole.nonzero()[:, 0]
        right = whole[columns]
    return left, whole


def _modes(ratios: Tensor, tol: float) -> Tensor:
    """``[n]``: the value that most of each row of ``[n, k]`` agree on, 0 where too few do; zeros do not count."""
    if not ratios.numel():
        return ratios.new_zeros(len(ratios))
    values = torch.where(ratios == 0, torch.nan, ratios).sort(1).values
    near = (values[:, 1:] - values[:, :-1]).abs() < tol * values[:, 1:].abs()
    place = torch.arange(near.shape[1]).expand_as(near)
    since = torch.where(near, -1, place).cummax(1).values
    run = torch.where(near, place - since, 0)
    longest = run.max(1) if run.shape[1] else None
    if longest is None:
        return ratios.new_zeros(len(ratios))
    middle = longest.indices + 1 - longest.values // 2
    return torch.where(longest.values + 1 >= _AGREE, values[torch.arange(len(values)), middle], 0.0)


def _completed(matrix: Tensor, left: Tensor, right: Tensor, eps: float) -> SoleTerms:
    """The entries of ``right`` that no four entries of their own give, from all rows, each trusted by its rounding.

    An entry of the matrix that is exactly zero tells that every term's share there is.
    """
    size = left.norm(dim=1, keepdim=True)
    left, right = left / size, right * size
    empty = (matrix == 0).double()
    reach = (right != 0).double() @ empty.T == 0  # [r, m]: rows that a term may fill
    there = ((left != 0).double() @ empty == 0) | (right != 0)
    loose = (there.double().T @ (reach & (left == 0)).double()) > 0  # [n, m]: equations with an unknown left
    open_ = (there & (right == 0)).any(0).nonzero()[:, 0]
    typical = right.abs().sum(1, keepdim=True) / (right != 0).sum(1, keepdim=True).clamp_min(1)
    sizes = torch.where(right != 0, right.abs(), typical * there)  # of what was added up, which may cancel
    right = right.clone()
    for some in torch.split(open_, _AT_ONCE):
        rounding = 0.5 * eps * torch.maximum(left.abs().T @ sizes[:, some], matrix[:, some].abs())
        weights = torch.where((matrix[:, some] != 0) & ~loose[some].T, 1 / rounding.clamp_min(1e-300), 0.0)
        solved, off = _solved(matrix[:, some].T, weights.T, left, there[:, some].T)
        known = there[:, some] & (off < _KNOWN * solved.abs()).T
        right[:, some] = torch.where(known, solved.T, right[:, some])
    return SoleTerms(left=left, right=right, seen=~reach | (left != 0))


def _solved(values: Tensor, weights: Tensor, left: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """``(right [k, r], its error [k, r])`` of columns ``values [k, m]``, by least squares."""
    A = weights[:, :, None] * left.T * there[:, None, :]
    length = A.norm(dim=1)
    idle = ~there | (length == 0)
    length = torch.where(length > 0, length, 1.0)
    A = torch.cat([A / length[:, None], torch.diag_embed(idle.double())], 1)
    target = torch.cat([weights * values, values.new_zeros(idle.shape)], 1)
    Q, R = torch.linalg.qr(A)
    diagonal = R.diagonal(dim1=1, dim2=2)
    R = R + torch.diag_embed(torch.where(diagonal.abs() < 1e-12, 1e-12, 0.0))
    answer = torch.linalg.solve_triangular(R, Q.mT @ target[:, :, None], upper=True)[:, :, 0] / length
    inverse = torch.linalg.solve_triangular(R, torch.eye(len(left), dtype=R.dtype).expand_as(R), upper=True)
    off = torch.where(idle, torch.inf, inverse.norm(dim=2) / length)
    return torch.where(idle, 0.0, answer), off
