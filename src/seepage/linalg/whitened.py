"""Least squares over all of a matrix's directions at once, for many right weights: conjugate gradients, whitened.

Notation: ``L [m, b]`` has one row a unit; a direction ``q [b]`` is one row of ``[k, b]`` and has unit length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Whitened"]

_ENTRIES_AT_ONCE = 1 << 24  # of values of all directions at all rows: 128 MiB
_SHIFT = 500  # rounding units of the mean eigenvalue, which keep a singular Gram matrix factorable
_STEPS = 20
_FLAT = 1e-12  # curvature below which it is rounding; the rows' largest is one
_NOTHING = 1e-30  # square of a slope, of rows that together have size one


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitened:
    """``L`` in coordinates in which all of its rows together see every direction alike: least squares are easy there.

    Args:
        rows: ``[m, b]``, ``L root^-1``; ``rows^T rows`` is the identity.
        root: ``[b, b]`` upper triangular, ``root^T root = L^T L`` (shifted where that is singular).
    """

    rows: Tensor
    root: Tensor

    @classmethod
    def of(cls, L: Tensor) -> "Whitened":
        """Of ``L [m, b]``."""
        gram = L.T @ L
        gram.diagonal().add_(_SHIFT * torch.finfo(L.dtype).eps * float(gram.diagonal().mean()) + 1e-300)
        root: Tensor = torch.linalg.cholesky(gram, upper=True)
        return cls(rows=torch.linalg.solve_triangular(root, L, upper=True, left=False), root=root)

    def descend(self, weights: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """From ``starts`` towards the unit ``q`` that minimise ``sum_j w_j (L q)_j^2`` (Hestenes and Stiefel 1952).

        What is orthogonal to a start is solved for; its length stays.

        Args:
            weights: ``[k, m]`` non-negative, or bool.
            starts: ``[k, b]`` near the answer, or to be called again with the result.

        Returns:
            Unit directions ``[k, b]``, and the slope that is left at each in the new coordinates, ``[k]``.
        """
        step = max(1, _ENTRIES_AT_ONCE // len(self.rows))
        parts = [
            self._descend(weights[first : first + step], starts[first : first + step])
            for first in range(0, len(starts), step)
        ]
        if not parts:
            return starts, starts.new_zeros(0)
        return torch.cat([found for found, _ in parts]), torch.cat([left for _, left in parts])

    def _descend(self, weights: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """What is orthogonal to a start is solved for; ``4 k m b`` multiplications a step."""
        trusted = weights.to(self.rows.dtype)
        whole = starts.to(self.rows.dtype) @ self.root.T
        whole = whole / whole.norm(dim=1, keepdim=True).clamp_min(1e-300)

        def slope(vectors: Tensor) -> Tensor:
            seen = ((vectors @ self.rows.T) * trusted) @ self.rows
            beside: Tensor = seen - (seen * whole).sum(dim=1, keepdim=True) * whole
            return beside

        left, moved = -slope(whole), torch.zeros_like(whole)
        ahead, size = left, left.square().sum(dim=1, keepdim=True)
        for _ in range(_STEPS):
            bent = slope(ahead)
            least = _FLAT * ahead.square().sum(dim=1, keepdim=True)
            length = size / (ahead * bent).sum(dim=1, keepdim=True).maximum(least).clamp_min(1e-300)
            length = length.where(size > _NOTHING, 0.0)  # a step from there would be of rounding alone
            moved, left = moved + length * ahead, left - length * bent
            now = left.square().sum(dim=1, keepdim=True)
            ahead, size = left + now / size.clamp_min(1e-300) * ahead, now
        answer = torch.linalg.solve_triangular(self.root, (whole + moved).T, upper=True).T
        return answer / answer.norm(dim=1, keepdim=True).clamp_min(1e-300), left.norm(dim=1)
