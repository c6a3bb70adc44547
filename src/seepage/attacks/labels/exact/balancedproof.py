"""The end of a search in a balanced gradient: the last example, the refinement of all, and what proves them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balanced import Balanced, among_conjugate, client_errors
from seepage.attacks.labels.exact.balanceddescent import descend_balanced, distance_from_space
from seepage.attacks.labels.exact.balancedjoint import Joint, refine_jointly

__all__ = ["APART", "CLOSE", "Found", "holds", "proved"]

APART = 0.3  # of the batch size, by which conjugate examples may fail to be so
CLOSE = 0.1  # share of its error by which an example may be off where a refinement is kept
_LIKELY = 5  # classes tried for the last example
_DISTINCT = 6  # classes beyond the rank that a proof takes
_PROOF = 3e-5  # share of its error by which a proved example may be off
_SCALE_OFF = 0.02  # and above 1 its scale, where examples were clipped; elsewhere all scales are 1 as they stand


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The examples found so far, or in the end.

    Args:
        classes: ``[f]``.
        a: ``[f, r]``.
        errors: ``[f, r]`` in U's coordinates.
        examples: the batch size, 0 while unknown.
        proved: whether they are all that the gradient holds, each as the softmax says.
        misfit: the largest distance of any from that, as a share.
    """

    classes: Tensor
    a: Tensor
    errors: Tensor
    examples: float
    proved: bool = False
    misfit: float = float("inf")

    def joined(self, label: Tensor, a: Tensor, errors: Tensor) -> "Found":
        """These and one more."""
        return replace(
            self,
            classes=torch.cat([self.classes, label[None]]),
            a=torch.cat([self.a, a[None]]),
            errors=torch.cat([self.errors, errors[None]]),
        )

    def first(self, count: int) -> "Found":
        """The first few, unproved."""
        return Found(classes=self.classes[:count], a=self.a[:count], errors=self.errors[:count], examples=self.examples)

    def apart(self, pencil: Balanced, a: Tensor, error: Tensor, value: float) -> bool:
        """Whether a root is conjugate to all examples found, on the better known of the two sides."""
        if not len(self.a):
            return True
        own = (self.a / pencil.S * self.errors).sum(1).abs().sqrt() * max(value, 0.0) ** 0.5 + 1e-300
        left, right = (self.a / pencil.S) @ error, (self.errors / pencil.S) @ a
        return float((torch.minimum(left.abs(), right.abs()) / own).max()) < APART


def proved(pencil: Balanced, found: Found, *, clipped: bool, steps: int) -> Found:
    """The last one filled in, all examples refined together, and whether the whole holds.

    Args:
        pencil: the gradient.
        found: what the search brought; returned as it is while more than one example is missing.
        clipped: whether every example's gradient may have been scaled by a number of its own.
        steps: of a descent.
    """
    versions: tuple[Found, ...] = (found,)
    if len(found.a) == pencil.rank - 1 > 0 and found.examples:
        versions = _filled(pencil, found, clipped=clipped, steps=steps)
    if len(versions[0].a) < pencil.rank:
        return found
    every, best = torch.ones(pencil.rank, dtype=torch.bool), versions[0]
    for one in versions:
        joint = refine_jointly(pencil, one.classes, one.a, every, examples=one.examples, clipped=clipped)
        misfit = float("inf") if joint is None else float(joint.misfit.max())
        if joint is not None and misfit < min(best.misfit, CLOSE):
            best = replace(one, a=joint.a, proved=holds(pencil, joint, clipped=clipped), misfit=misfit)
    return best


def holds(pencil: Balanced, joint: Joint, *, clipped: bool) -> bool:
    """Whether the softmax explains every example to the rounding, in more equations than there are unknowns."""
    unknowns = pencil.rank * (pencil.rank - 1 + int(clipped))
    scales = joint.scales
    sized = bool((scales < 1 + _SCALE_OFF).all() and (scales > 0.0).all())
    fits = float(joint.misfit.max()) < _PROOF and float(joint.label_gaps.max()) == 0.0
    posed = len(pencil.B) - pencil.rank >= _DISTINCT and joint.informative > unknowns + 3 * pencil.rank
    return fits and sized and posed


def _filled(pencil: Balanced, found: Found, *, clipped: bool, steps: int) -> tuple[Found, Found]:
    """With the last example, from all others' errors as they come out of a joint refinement."""
    others = torch.arange(pencil.rank) < pencil.rank - 1
    for _ in range(2):
        a0, _ = among_conjugate(pencil, found.errors)
        joint = refine_jointly(
            pencil,
            torch.cat([found.classes, found.classes[:1]]),
            torch.cat([found.a, a0[None]]),
            others,
            examples=found.examples,
            clipped=clipped,
        )
        if joint is None or float(joint.misfit[:-1].max()) > CLOSE:
            break
        found = replace(found, a=joint.a[:-1], errors=client_errors(pencil, found.classes, joint.a[:-1]))
    return _completed(pencil, found, steps)


def _completed(pencil: Balanced, found: Found, steps: int) -> tuple[Found, Found]:
    """The last example, whose embedding and error those of all others leave little choice, in two versions.

    As they say; and, since they determine a faint one to a few digits only, where a descent from there without
    their constraints ends, provided it stays apart from them.
    """
    a0, _ = among_conjugate(pencil, found.errors)
    free, N = among_conjugate(pencil, found.errors[:0])
    likely = (pencil.B @ a0).topk(min(_LIKELY, len(pencil.B))).indices
    starts = a0.repeat(len(likely), 1)
    near, _ = descend_balanced(pencil, likely, starts, a0=free, N=N, steps=steps)
    classes, a = torch.cat([likely[:1], likely]), torch.cat([starts[:1], near])
    errors, residual = client_errors(pencil, classes, a), distance_from_space(pencil, classes, a)
    values = (a / pencil.S * errors).sum(1)
    apart = [found.apart(pencil, a[i], errors[i], float(values[i])) for i in range(1, len(a))]
    best = int(residual.where(torch.tensor([True, *apart]) & (values > 0), torch.inf).argmin())
    return found.joined(classes[best], a[best], errors[best]), found.joined(classes[0], a[0], errors[0])
