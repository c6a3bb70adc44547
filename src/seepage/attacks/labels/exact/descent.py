"""Levenberg-Marquardt for one example of a last-layer gradient, from many starts at once."""

import torch
from torch import Tensor

from seepage.attacks.labels.exact.terms import Pencil, Space, errors, slopes

__all__ = ["damped_step", "descend"]

_CHUNK = 20_000_000  # entries of one batch of Jacobians: 160 MB


def descend(
    pencil: Pencil, space: Space, classes: Tensor, a: Tensor, *, steps: int, soft: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Levenberg-Marquardt on ``(I - UU^T) d / |d|`` from many starts at once.

    The division by the norm keeps ``softmax -> onehot`` from being a root.

    Args:
        pencil: the gradient.
        space: what :func:`unmixed` returned.
        classes: ``[s]``.
        a: ``[s, r]`` starts.
        steps: at most so many.
        soft: ``[s]`` shares of label smoothing to start from, which are unknowns then; else the pencil's holds.

    Returns:
        ``(a [s, r], residual [s], smoothing [s])``.
    """
    size = max(1, _CHUNK // max(1, len(pencil.B) * (space.N.shape[1] + 1)))
    shares = a.new_full((len(a),), pencil.smoothing) if soft is None else soft
    parts = [
        _descend(pencil.B, space, (classes[part], a[part], shares[part]), steps=steps, soft=soft is not None)
        for part in (slice(i, i + size) for i in range(0, len(a), size))
    ]
    return (
        torch.cat([part[0] for part in parts]),
        torch.cat([part[1] for part in parts]),
        torch.cat([part[2] for part in parts]),
    )


def _descend(
    B: Tensor, space: Space, starts: tuple[Tensor, Tensor, Tensor], *, steps: int, soft: bool
) -> tuple[Tensor, Tensor, Tensor]:
    U, a0, N = space.U, space.a0, space.N
    classes, a, smoothing = starts[0], starts[1], starts[2].clone()
    t = (a - a0) @ N
    damping = torch.full_like(smoothing, 1e-3)
    residual = _misfit(B, U, a0 + t @ N.T, classes, smoothing=smoothing)[2]
    going = torch.arange(len(t) if t.shape[1] + soft else 0)
    for _ in range(steps):
        if not len(going):
            break
        c, t_old, s_old, r_old = classes[going], t[going], smoothing[going], residual[going]
        J = _jacobian(B, space, a0 + t_old @ N.T, c, smoothing=s_old, soft=soft)  # [s, C, q (+ 1)]
        step = damped_step(J, r_old, damping[going])
        t_new = t_old + step[:, : t.shape[1]]
        s_new = (s_old + step[:, -1]).clamp(0.0, 0.95) if soft else s_old
        r_new = _misfit(B, U, a0 + t_new @ N.T, c, smoothing=s_new)[2]
        cost, cost_new = r_old.square().sum(1), r_new.square().sum(1)
        better = cost_new < cost
        t[going] = torch.where(better[:, None], t_new, t_old)
        smoothing[going] = torch.where(better, s_new, s_old)
        residual[going] = torch.where(better[:, None], r_new, r_old)
        damping[going] = torch.where(better, damping[going] * 0.2, damping[going] * 8).clamp_min(1e-15)
        done = (damping[going] > 1e9) | (cost < 1e-26) | (better & (cost_new > 0.9999 * cost))
        going = going[~done]
    return a0 + t @ N.T, residual.norm(dim=1), smoothing


def damped_step(J: Tensor, residual: Tensor, damping: Tensor) -> Tensor:
    """``[s, q]``: Marquardt's steps for Jacobians ``[s, n, q]``; zero where the equations are singular."""
    H = J.mT @ J
    diagonal = H.diagonal(dim1=1, dim2=2)
    lift = damping[:, None] * diagonal + 1e-20 * diagonal.amax(1, keepdim=True) + 1e-300
    step: Tensor = torch.linalg.solve_ex(H + torch.diag_embed(lift), -(J.mT @ residual[:, :, None])).result[:, :, 0]
    return step.nan_to_num(0.0, 0.0, 0.0)


def _misfit(B: Tensor, U: Tensor, a: Tensor, classes: Tensor, *, smoothing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(p [s, C], d [s, C], (I - UU^T) d / |d|)``."""
    p, d = errors(B, a, classes, smoothing)
    return p, d, (d - (d @ U) @ U.T) / d.norm(dim=1, keepdim=True).clamp_min(1e-300)


def _jacobian(B: Tensor, space: Space, a: Tensor, classes: Tensor, *, smoothing: Tensor, soft: bool) -> Tensor:
    U = space.U
    p, d, residual = _misfit(B, U, a, classes, smoothing=smoothing)
    M = slopes(B @ space.N, p)
    if soft:
        onehot = torch.nn.functional.one_hot(classes, len(B)).to(M.dtype)
        M = torch.cat([M, (onehot - 1 / len(B))[:, :, None]], 2)
    norm = d.norm(dim=1)[:, None, None].clamp_min(1e-300)
    J: Tensor = (M - U @ (U.T @ M)) / norm - residual[:, :, None] * (d[:, None, :] @ M) / norm**2
    return J
