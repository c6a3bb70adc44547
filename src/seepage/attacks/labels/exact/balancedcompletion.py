"""The last, faintest examples of a balanced gradient, from all others refined together while the rest is left free.

What the examples found leave of the gradient has a span that their rounding blurs: a faint example's share of it is
smaller than the others' errors. The joint refinement moves that span along, and needs no more than that each example
found is the softmax of its embedding. Whoever is missing is then searched in a
space of as many dimensions as are missing.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balanced import Balanced, among_conjugate, client_errors
from seepage.attacks.labels.exact.balanceddescent import descend_balanced, distance_from_space
from seepage.attacks.labels.exact.balancedjoint import Joint, refine_jointly
from seepage.attacks.labels.exact.balancedproof import CLOSE, Found, holds

__all__ = ["completed"]

_MISSING = 5  # examples at most
_ROUNDS = 6
_TRIED = 4  # candidates for one example
_GOOD = 1e-4  # misfit of all from which a candidate is taken without trying others
_SAME, _NEAR = 1e-2, 1e-2  # distance of one root from another, and of a root from an example found
_VISIBLE = 1e-7  # share of an error's largest entry from which its other entries say something


def completed(pencil: Balanced, found: Found, *, clipped: bool, steps: int) -> Found:
    """All examples if they can be had, else those that the rest may be added to; unchanged where too many are missing.

    Args:
        pencil: the gradient.
        found: what a search brought.
        clipped: whether every example's gradient may have been scaled by a number of its own.
        steps: of a descent.
    """
    if not found.examples or pencil.rank - len(found.a) > _MISSING:
        return found
    kept, rest = found, None
    for _ in range(_ROUNDS):
        if not len(kept.a):  # none of them fitted the others: there is nothing to add to
            return found
        joint = _refined(pencil, kept, rest, clipped=clipped)
        if joint is None:
            return found
        many = len(kept.a)
        misfits = joint.misfit[:many]
        if float(misfits.max()) > CLOSE:
            others = torch.arange(many) != int(misfits.argmax())
            kept, rest = _at(pencil, kept.classes[others], kept.a[others], kept), None
            continue
        kept = replace(_at(pencil, kept.classes, joint.a[:many], kept), misfit=float(misfits.max()))
        if many == pencil.rank:
            return replace(kept, proved=holds(pencil, joint, clipped=clipped))
        added = _with_one_more(pencil, kept, joint, clipped=clipped, steps=steps, last=rest is None)
        if added is None and rest is None:
            break
        # where none fits, once more from where the examples found say that the rest is
        kept, rest = (kept, None) if added is None else added
        if len(kept.a) == pencil.rank and kept.misfit > CLOSE:
            return kept
    return replace(kept, misfit=float("inf"))


def _at(pencil: Balanced, classes: Tensor, a: Tensor, found: Found) -> Found:
    return replace(found, classes=classes, a=a, errors=client_errors(pencil, classes, a))


def _refined(pencil: Balanced, found: Found, rest: Tensor | None, *, clipped: bool) -> Joint | None:
    """All found together, with anything that spans what they leave in the place of the rest."""
    many, missing = len(found.a), pencil.rank - len(found.a)
    if rest is None:
        a0, N = among_conjugate(pencil, found.errors)
        rest = torch.stack([a0, *(a0 + a0.norm() * N[:, i] for i in range(missing - 1))]) if missing else found.a[:0]
    return refine_jointly(
        pencil,
        torch.cat([found.classes, found.classes[:1].expand(missing)]),
        torch.cat([found.a, rest]),
        torch.arange(pencil.rank) < many,
        examples=found.examples,
        clipped=clipped,
        steps=20,
        free=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    rest: Tensor  # [k, r]: points whose affine span holds the missing examples
    given: Tensor  # [k, C]: the errors that go with them

    def starts(self, pencil: Balanced) -> Tensor:
        """``[s, r]``: what each class's row of the remainder says; of one example what its error says besides."""
        rows = self.given.T @ self.rest
        share = rows @ pencil.one
        points = rows[share != 0] / share[share != 0][:, None]
        if len(self.rest) == 1:
            points = torch.cat([self.rest, *_by_logarithm(pencil, self.given[0])])
        return points[points.isfinite().all(1)]


def _with_one_more(
    pencil: Balanced, found: Found, joint: Joint, *, clipped: bool, steps: int, last: bool
) -> tuple[Found, Tensor] | None:
    """The example most likely to be missing by the joint misfit it brings, and what else is left.

    ``last`` says that no other attempt follows: a single one missing is then added though it does not fit.
    """
    many = len(found.a)
    given = ((pencil.U * pencil.S) @ torch.linalg.inv(joint.a)).T
    left = _Left(rest=joint.a[many:], given=given[many:])
    classes, a = _candidates(pencil, found, left, steps)
    best: tuple[Found, Tensor] | None = None
    for i in range(len(a)):
        more = _at(pencil, torch.cat([found.classes, classes[i : i + 1]]), torch.cat([found.a, a[i : i + 1]]), found)
        far = (left.rest - a[i]).norm(dim=1).argsort(descending=True)[: len(left.rest) - 1]
        tried = _refined(pencil, more, left.rest[far], clipped=clipped)
        misfit = float("inf") if tried is None else float(tried.misfit[: many + 1].max())
        if tried is not None and misfit < (CLOSE if best is None else best[0].misfit):
            best = replace(more, a=tried.a[: many + 1], misfit=misfit), tried.a[many + 1 :]
        if misfit < _GOOD:
            break
    if best is None and last and len(left.rest) == 1 and len(a):  # no proof, but more than a guess
        more = _at(pencil, torch.cat([found.classes, classes[:1]]), torch.cat([found.a, a[:1]]), found)
        return replace(more, misfit=float("inf")), a[:0]
    return best


def _candidates(pencil: Balanced, found: Found, left: _Left, steps: int) -> tuple[Tensor, Tensor]:
    """``(classes [k], a [k, r])``, best first: roots within the span that is left, and near it but free of it."""
    starts = left.starts(pencil)
    likely = (starts @ pencil.B.T).topk(3 if len(left.rest) == 1 else 2).indices
    classes, a = likely.flatten(), starts.repeat_interleave(likely.shape[1], 0)
    a0, N = _span(left.rest)
    within, _ = descend_balanced(pencil, classes, a, a0=a0, N=N, steps=steps) if N.shape[1] else (a, None)
    free, every = among_conjugate(pencil, found.errors[:0])
    near, residual = descend_balanced(pencil, classes, within, a0=free, N=every, steps=steps)
    residual = torch.cat([residual, 3 * distance_from_space(pencil, classes, within)])
    classes, a = classes.repeat(2), torch.cat([near, within])
    values = (a / pencil.S * client_errors(pencil, classes, a)).sum(1)
    apart = torch.cdist(a, found.a).amin(1) > _NEAR * a.norm(dim=1)
    residual = residual.where(apart & (values > 0) & a.isfinite().all(1), torch.inf)
    chosen: list[int] = []
    for i in residual.argsort().tolist():
        if len(chosen) == _TRIED or not bool(residual[i].isfinite()):
            break
        same = [classes[i] == classes[j] and float((a[i] - a[j]).norm()) < _SAME * float(a[i].norm()) for j in chosen]
        if not any(same):
            chosen.append(i)
    return classes[chosen], a[chosen]


def _span(points: Tensor) -> tuple[Tensor, Tensor]:
    """``(a0 [r], N [r, k - 1])`` of the affine span of points ``[k, r]``."""
    N = torch.linalg.qr((points[1:] - points[:1]).T).Q
    return points[0] - N @ (N.T @ points[0]), N


def _by_logarithm(pencil: Balanced, given: Tensor) -> list[Tensor]:
    """Points ``[1, r]`` whose softmax is proportional to an error of either sign, where that stands out."""
    found = []
    a0, N = among_conjugate(pencil, pencil.V[:0])
    M = torch.cat([pencil.B @ N, torch.ones_like(pencil.B[:, :1])], 1)
    for error in (given, -given):
        level = _VISIBLE * error.abs().max()
        seen = error > level
        if int(seen.sum()) < pencil.rank + 3:
            continue
        target = (error / pencil.rows)[seen].log() - pencil.B[seen] @ a0
        trust = 1 / (1e-6 + level / error[seen])
        weight = trust
        for _ in range(30):  # outliers: the label's own entry, and what noise has turned round
            solved = torch.linalg.lstsq(M[seen] * weight[:, None], (target * weight)[:, None], driver="gelsy").solution
            off = ((target - (M[seen] @ solved)[:, 0]) * trust).abs()
            weight = trust / (off / (3 * off.median().clamp_min(1e-12))).clamp_min(1.0).sqrt()
        found.append((a0 + N @ solved[:-1, 0])[None])
    return found
