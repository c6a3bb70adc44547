"""A balanced last-layer gradient at its rank once more, each entry trusted as far as float32 has rounded it.

The singular vectors of the balanced gradient treat all its entries alike; the client rounded each to a share of itself.
``A ~ D F^T``, weighted by that, is solved by Levenberg-Marquardt from the singular vectors on, while an error common to
all entries falls from the rounding to nothing. The rank is right if what is left is what rounding leaves.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balanced import Balanced
from seepage.attacks.labels.lastlayer import LastLayer

__all__ = ["sharpened"]

_COMMON = (1e-2, 1e-4, 1e-6, 1e-8)  # errors common to all entries, over the rounding unit, one after the other
_STEPS = (1, 1, 1, 2)  # with each of them: the first lands where the second would, and the next goes on from there
_LEFT = 2.0  # root mean square of what is left, over the rounding, of a rank that is right
_MOST = 3600  # unknowns of one side
_FLOAT32 = (1e-9, 1e-5)  # rounding units between which this is tried: with float64 our own rounding is in the way


def sharpened(layer: LastLayer, pencil: Balanced) -> Balanced | None:
    """The same pencil with sharper singular spaces; ``None`` if the rank does not hold, or there is too much of it."""
    if len(pencil.U) * pencil.rank > _MOST or not _FLOAT32[0] < pencil.eps < _FLOAT32[1]:
        return None
    A = layer.joined[0] * pencil.rows[:, None] * pencil.columns
    lived = A.any(1)[:, None] & A.any(0)
    factors = _Factors(D=pencil.U * pencil.S.sqrt(), F=pencil.V * pencil.S.sqrt())
    held = None
    for common, steps in zip(_COMMON, _STEPS, strict=True):
        weights = torch.where(lived, 1 / (pencil.eps / 2 * (A.abs() + common)), 0.0)
        factors, cost = _improved(A, weights, factors, steps)
        if cost > _LEFT**2 * _freedom(lived, pencil.rank):
            break
        held = factors
    return None if held is None else _respanned(layer, pencil, held)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    D: Tensor  # [C, r]
    F: Tensor  # [m+1, r]

    def evened(self) -> "_Factors":
        """The same product, with columns of D as long as those of F."""
        ratio = (self.F.norm(dim=0) / self.D.norm(dim=0).clamp_min(1e-300)).sqrt().clamp_min(1e-150)
        return _Factors(D=self.D * ratio, F=self.F / ratio)

    def cost(self, A: Tensor, weights: Tensor) -> float:
        return float((weights * (A - self.D @ self.F.T)).square().sum())


def _freedom(lived: Tensor, rank: int) -> int:
    rows, columns = int(lived.any(1).sum()), int(lived.any(0).sum())
    return max(1, (rows - rank) * (columns - rank))


def _improved(A: Tensor, weights: Tensor, factors: _Factors, steps: int) -> tuple[_Factors, float]:
    factors, damping = factors.evened(), 1e-9
    cost = factors.cost(A, weights)
    for _ in range(steps):
        before = cost
        while damping < 1e4:
            moved = _step(A, weights, factors, damping)
            tried = float("inf") if moved is None else moved.cost(A, weights)
            if moved is not None and tried < cost:
                factors, cost, damping = moved.evened(), tried, max(0.1 * damping, 1e-11)
                break
            damping *= 10
        if cost > 0.98 * before:
            break
    return factors, cost


def _step(A: Tensor, weights: Tensor, factors: _Factors, damping: float) -> _Factors | None:
    """One damped Gauss-Newton step; F is eliminated column by column, so that only D's unknowns are left."""
    D, F = factors.D, factors.F
    squares = weights.square()
    left = squares * (A - D @ F.T)
    gradient_D, gradient_F = left @ F, left.T @ D
    H = torch.einsum("cj,ck,cl->jkl", squares, D, D)
    size = H.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-150)
    H = H / size[:, :, None] / size[:, None, :]
    H.diagonal(dim1=1, dim2=2).add_(damping)
    factor, failed = torch.linalg.cholesky_ex(H)
    if bool(failed.any()):
        return None
    half = torch.linalg.solve_triangular(factor, (D / size[:, None, :]).mT, upper=False) * squares.T[:, None, :]
    known = torch.linalg.solve_triangular(factor, (gradient_F / size)[:, :, None], upper=False)  # [m+1, r, 1]
    right = gradient_D - torch.einsum("jc,jk->ck", (half * known).sum(1), F)
    move_D = _solved(squares, half, F, right, damping)
    if move_D is None:
        return None
    rest = gradient_F - (squares * (move_D @ F.T)).T @ D
    move_F = torch.cholesky_solve((rest / size)[:, :, None], factor)[:, :, 0] / size
    return _Factors(D=D + move_D, F=F + move_F)


def _solved(squares: Tensor, half: Tensor, F: Tensor, right: Tensor, damping: float) -> Tensor | None:
    """``[C, r]``: D's step from the Schur complement; half ``[m+1, r, C]``."""
    classes, rank = right.shape
    crossed = (half.mT @ half).flatten(1)  # [m+1, C C]
    outer = (F[:, :, None] * F[:, None, :]).flatten(1)  # [m+1, r r]
    S = -(crossed.T @ outer).view(classes, classes, rank, rank).permute(0, 2, 1, 3).contiguous()
    every = torch.arange(classes)
    own = torch.einsum("cj,jk,jl->ckl", squares, F, F)
    S[every, :, every, :] += own
    size = own.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-150).reshape(-1)
    S = S.reshape(len(size), len(size)).div_(size).div_(size[:, None])
    S.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(S)
    if int(failed):
        return None
    step: Tensor = torch.cholesky_solve((right.reshape(-1) / size)[:, None], factor)[:, 0] / size
    return step.view(classes, rank)


def _respanned(layer: LastLayer, pencil: Balanced, factors: _Factors) -> Balanced:
    left, left_mixed = torch.linalg.qr(factors.D)
    right, right_mixed = torch.linalg.qr(factors.F)
    u, S, vh = torch.linalg.svd(left_mixed @ right_mixed.T)
    V = right @ vh.T
    B = (layer.joined[1] / pencil.columns) @ V
    return replace(pencil, U=left @ u, S=S, V=V, B=B, one=V[-1] / pencil.columns[-1])
