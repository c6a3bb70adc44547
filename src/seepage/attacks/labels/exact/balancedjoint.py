"""All examples of a balanced last-layer gradient at once: what the gradient says of each against what the softmax says.

With all r embeddings ``A [r, r]`` the gradient gives every error back, ``D = K U S A^-1`` (one a column, scaled as the
client scaled it), and each must be the softmax of its own embedding less its label. ``r (C - 2)`` equations for
``r (r - 1)`` unknowns: where they hold to the rounding, the whole batch is proved.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balanced import Balanced, among_conjugate, model_errors
from seepage.attacks.labels.exact.terms import slopes

__all__ = ["Joint", "refine_jointly"]

_MOST = 40_000_000  # entries of the Jacobian: 320 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Where the joint refinement ended.

    Args:
        a: ``[r, r]`` coordinates, one example a row.
        misfit: ``[r]``, distance between the two errors of each example, label's entry aside, as a share of it.
        scales: ``[r]``, what each example's gradient was multiplied by; 1 but for rounding where nothing was clipped.
        label_gaps: ``[r]``, distance between the two at the label's entry, unscaled, beyond the rounding.
        informative: how many entries of all errors stand clearly above the misfit: equations that say something.
    """

    a: Tensor
    misfit: Tensor
    scales: Tensor
    label_gaps: Tensor
    informative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    inverse: Tensor  # [r, r]
    given: Tensor  # [r, C]: the gradient's errors over K, labels' entries included
    p: Tensor
    d: Tensor  # [r, C]: the softmax's, label's entry aside
    norm: Tensor  # [r, 1]
    scale: Tensor  # [r, 1]: of the errors over K
    residual: Tensor  # [r, C]

    @property
    def cost(self) -> float:
        return float(self.residual.square().sum())


def refine_jointly(
    pencil: Balanced,
    classes: Tensor,
    a: Tensor,
    trusted: Tensor,
    *,
    examples: float,
    clipped: bool,
    steps: int = 12,
    free: bool = False,
) -> Joint | None:
    """Gauss-Newton on all embeddings; ``None`` if it is too large, or the embeddings are not independent.

    Args:
        pencil: the gradient.
        classes: ``[r]``.
        a: ``[r, r]`` coordinates, one example a row.
        trusted: ``[r]`` bool: whose equations count, and who move.
        examples: the batch size.
        clipped: whether each example may have been scaled by a number of its own.
        steps: at most so many.
        free: whether the rest moves as well, to where it explains the trusted best. Only its span means anything then.
    """
    if len(a) ** 3 * len(pencil.B) > _MOST or not bool(a.isfinite().all()):
        return None
    N = among_conjugate(pencil, a[:0])[1]
    state, damping = _state(pencil, classes, a, trusted, examples, clipped=clipped), 1e-6
    for _ in range(steps):
        if state is None:
            break
        moving = torch.ones_like(trusted) if free else trusted
        H, g = _normal_equations(pencil, classes, state, (trusted, moving), N, clipped=clipped)
        cost, moved = state.cost, None
        while damping <= 1e3 and moved is None:
            new = a + _damped(H, g, damping).view(len(a), -1) @ N.T
            tried = _state(pencil, classes, new, trusted, examples, clipped=clipped)
            if tried is not None and tried.cost < cost:
                a, moved, damping = new, tried, max(damping * 0.05, 1e-13)
            else:
                damping *= 30
        state = moved or state
        if state.cost > 0.95 * cost:
            break
    return None if state is None else _read(pencil, classes, a, state, examples)


def _damped(H: Tensor, g: Tensor, damping: float) -> Tensor:
    """Marquardt's step, NaN where the equations are singular."""
    size = H.diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)
    lifted = H / size / size[:, None]
    lifted.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(lifted)
    step: Tensor = torch.cholesky_solve((g / size)[:, None], factor)[:, 0] / size
    return step * float("nan") if failed else step


def _state(
    pencil: Balanced, classes: Tensor, a: Tensor, trusted: Tensor, examples: float, *, clipped: bool
) -> _State | None:
    inverse, singular = torch.linalg.inv_ex(a)
    given = ((pencil.U * pencil.S) @ inverse).T
    if singular or not bool(given.isfinite().all()):
        return None
    p, d = model_errors(pencil, classes, a)
    norm = d.norm(dim=1, keepdim=True).clamp_min(1e-300)
    compared = given.clone()
    compared[torch.arange(len(a)), classes] = 0.0
    scale = (compared * d).sum(1, keepdim=True) / norm**2 if clipped else torch.full_like(norm, 1 / examples)
    if bool((scale[trusted] <= 0).any()):
        return None
    residual = (compared / scale - d) / norm
    residual[~trusted] = 0.0
    return _State(inverse=inverse, given=given, p=p, d=d, norm=norm, scale=scale, residual=residual)


def _normal_equations(
    pencil: Balanced, classes: Tensor, state: _State, which: tuple[Tensor, Tensor], N: Tensor, *, clipped: bool
) -> tuple[Tensor, Tensor]:
    """``(J^T J, -J^T residual)``: J is [trusted examples and entries, every example's q coordinates].

    ``which`` holds who is trusted ``[r]``, and who moves ``[r]``.
    """
    trusted, moving = which
    chosen = trusted.nonzero()[:, 0]
    rows = torch.arange(len(chosen))
    seen = torch.ones_like(state.d[chosen])
    seen[rows, classes[chosen]] = 0.0
    weight = seen / (state.scale * state.norm)[chosen]
    J = -torch.einsum("kc,jc,qk->kcjq", weight, state.given, N.T @ state.inverse[:, chosen])
    M = pencil.rows[:, None] * slopes(pencil.B @ N, state.p[chosen]) * (seen / state.norm[chosen])[:, :, None]
    J[rows, :, chosen] -= M
    J[:, :, ~moving] = 0.0
    if clipped:  # the scale follows
        along = (state.d / state.norm)[chosen]
        J = J - along[:, :, None, None] * torch.einsum("kc,kcjq->kjq", along, J)[:, None]
    J = J.reshape(len(chosen) * len(pencil.B), -1)
    return J.T @ J, -(J.T @ state.residual[chosen].reshape(-1))


def _read(pencil: Balanced, classes: Tensor, a: Tensor, state: _State, examples: float) -> Joint:
    every = torch.arange(len(a))
    given = state.given / state.scale
    compared = given.clone()
    compared[every, classes] = 0.0
    misfit = ((compared - state.d) / state.norm).norm(dim=1)
    expected, found = state.p[every, classes] - 1, given[every, classes] / pencil.rows[classes]
    gaps = ((found - expected).abs() - 1e-3 * expected.abs() - 8 * pencil.eps).clamp_min(0.0)
    shares = state.d / state.norm
    informative = int((shares > 10 * misfit.clamp_min(pencil.eps)[:, None]).sum())
    return Joint(a=a, misfit=misfit, scales=state.scale[:, 0] * examples, label_gaps=gaps, informative=informative)
