"""Small nonlinear least-squares problems, many starts at once."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.func import jacfwd, jvp, vmap

__all__ = ["jacobian", "levenberg_marquardt", "load_forward_mode"]

_DAMPING, _LEAST_DAMPING = 1e-3, 1e-12
_MORE, _LESS = 4.0, 0.2
_TRIES = 8  # of larger damping before a start is given up
_FIRST = 2  # step at which a start's residual is noted
_HALVED = 0.5  # of it: what should be left at most whenever the steps have doubled


def jacobian(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``[k] -> [r]`` to ``[k] -> [r, k]`` by forward mode, without the warning that torch gives about itself."""
    load_forward_mode()
    return jacfwd(function)


@cache
def load_forward_mode() -> None:
    """Once, what forward mode needs, without the warning that torch gives about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script, of torch's own rules
        jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))


def levenberg_marquardt(
    residual: Callable[[Tensor], Tensor],
    starts: Tensor,
    *,
    steps: int,
    tol: float,
    chunk: int = 8,
    jacobians: int | None = None,
    halving: bool = False,
) -> tuple[Tensor, Tensor, int]:
    """Minimise ``|residual(p)|`` from each start (Levenberg 1944, Marquardt 1963).

    Args:
        residual: ``[k] -> [r]``, piecewise smooth; run under ``vmap`` and ``jacfwd``.
        starts: ``[s, k]``.
        steps: at most.
        tol: a start is done once its residual is shorter than that.
        chunk: starts whose Jacobians, ``chunk k`` tangents, are held at once.
        jacobians: after how many no step is begun, ``None`` for no limit.
        halving: whether a start is given up, at step 4, 8, 16, ..., whose residual is not half of what it was after
            half as many steps: where most starts lead nowhere, those that end well show it early.

    Returns:
        Points ``[s, k]``, the length of the residual at each, ``[s]``, and how many Jacobians that took.
    """
    if not len(starts):
        return starts, starts.new_zeros(0), 0
    values, slopes = vmap(residual), vmap(jacobian(residual), chunk_size=chunk)
    points, errors = starts.clone(), values(starts)
    costs, damping = errors.norm(dim=1), starts.new_full((len(starts),), _DAMPING)
    live = costs.isfinite() & (costs > tol)
    eye = torch.eye(starts.shape[1], dtype=starts.dtype, device=starts.device)
    before, taken = costs.clone(), 0
    for step in range(steps):
        if halving and step >= _FIRST and step.bit_count() == 1:
            live &= (costs < _HALVED * before) | (step == _FIRST)
            before = costs.clone()
        left = live.nonzero().flatten()
        if not len(left) or (jacobians is not None and taken >= jacobians):
            break
        taken += len(left)
        J = slopes(points[left])
        normal, gradient = J.mT @ J, (J.mT @ errors[left, :, None])[..., 0]
        size = normal.diagonal(dim1=1, dim2=2).mean(dim=1)
        for _ in range(_TRIES):
            at = left
            damped = normal + (damping[at] * size)[:, None, None] * eye
            moved = points[at] - torch.linalg.solve_ex(damped, gradient).result
            answers = values(moved)
            lengths = answers.norm(dim=1)
            good = lengths < costs[at]
            to = at[good]
            points[to], errors[to], costs[to] = moved[good], answers[good], lengths[good]
            damping[to] = (damping[to] * _LESS).clamp_min(_LEAST_DAMPING)
            damping[at[~good]] *= _MORE
            left, normal, gradient, size = left[~good], normal[~good], gradient[~good], size[~good]
            if not len(left):
                break
        live[left] = False
        live &= costs > tol
    return points, costs, taken
