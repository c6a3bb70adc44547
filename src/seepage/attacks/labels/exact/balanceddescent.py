"""Levenberg-Marquardt for one example of a balanced last-layer gradient, the label's entry of its error left open."""

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balanced import Balanced, model_errors
from seepage.attacks.labels.exact.descent import damped_step
from seepage.attacks.labels.exact.terms import slopes

__all__ = ["descend_balanced", "distance_from_space"]

_CHUNK = 20_000_000  # entries of one batch of Jacobians: 160 MB


def descend_balanced(
    pencil: Balanced, classes: Tensor, a: Tensor, *, a0: Tensor, N: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Descent on the share of ``d`` outside the span of U and the label's own axis, from many starts at once.

    Whatever scaled the example's gradient (clipping) makes no difference. Without the label's entry, ``d`` keeps its
    direction as the softmax saturates, so that examples fitted to any degree are roots.

    Args:
        pencil: the gradient.
        classes: ``[s]``.
        a: ``[s, r]`` starts.
        a0: ``[r]``, with N ``[r, q]`` the space ``a0 + N t`` that is searched.
        N: its directions.
        steps: at most so many.

    Returns:
        ``(a [s, r], residual [s])``.
    """
    size = max(1, _CHUNK // max(1, len(pencil.B) * (N.shape[1] + 1)))
    parts = [_descend(pencil, classes[i : i + size], a[i : i + size], a0, N, steps) for i in range(0, len(a), size)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def distance_from_space(pencil: Balanced, classes: Tensor, a: Tensor) -> Tensor:
    """``[s]``: the residual at ``a [s, r]``."""
    residual: Tensor = _misfit(pencil, classes, a)[3].norm(dim=1)
    return residual


def _descend(  # noqa: PLR0917 - a space is a0 and N
    pencil: Balanced, classes: Tensor, a: Tensor, a0: Tensor, N: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    t = (a - a0) @ N
    damping = torch.full((len(t),), 1e-3, dtype=t.dtype)
    residual = _misfit(pencil, classes, a0 + t @ N.T)[3]
    going = torch.arange(len(t) if N.shape[1] else 0)
    for _ in range(steps):
        if not len(going):
            break
        c, t_old, r_old = classes[going], t[going], residual[going]
        t_new = t_old + damped_step(_jacobian(pencil, c, a0 + t_old @ N.T, N), r_old, damping[going])
        r_new = _misfit(pencil, c, a0 + t_new @ N.T)[3]
        cost, cost_new = r_old.square().sum(1), r_new.square().sum(1)
        better = cost_new < cost
        t[going] = torch.where(better[:, None], t_new, t_old)
        residual[going] = torch.where(better[:, None], r_new, r_old)
        damping[going] = torch.where(better, damping[going] * 0.2, damping[going] * 8).clamp_min(1e-15)
        done = (damping[going] > 1e9) | (cost < 1e-26) | (better & (cost_new > 0.9999 * cost))
        going = going[~done]
    return a0 + t @ N.T, residual.norm(dim=1)


def _misfit(pencil: Balanced, classes: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(p [s, C], d [s, C], |d| [s, 1], what of d / |d| lies outside [s, C])``."""
    p, d = model_errors(pencil, classes, a)
    norm = d.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return p, d, norm, _outside(pencil, classes, d[:, :, None])[:, :, 0] / norm


def _jacobian(pencil: Balanced, classes: Tensor, a: Tensor, N: Tensor) -> Tensor:
    p, d, norm, residual = _misfit(pencil, classes, a)
    M = pencil.rows[:, None] * slopes(pencil.B @ N, p)
    M[torch.arange(len(a)), classes] = 0.0
    J: Tensor = _outside(pencil, classes, M) / norm[:, :, None]
    J -= residual[:, :, None] * (d[:, None, :] @ M) / norm[:, :, None] ** 2
    return J


def _outside(pencil: Balanced, classes: Tensor, vectors: Tensor) -> Tensor:
    """``[s, C, k]`` cleared of the span of U and of each row's label axis."""
    U = pencil.U
    axis = -U[classes] @ U.T  # [s, C]
    axis[torch.arange(len(classes)), classes] += 1.0
    axis = axis / axis.norm(dim=1, keepdim=True).clamp_min(1e-12)
    rest: Tensor = vectors - U @ (U.T @ vectors)
    rest -= axis[:, :, None] * (axis[:, None, :] @ rest)
    return rest
