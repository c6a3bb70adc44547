"""The search for the examples of a balanced last-layer gradient: faint ones, and ones scaled by clipping, as well."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from seepage.attacks.balanced import Balanced, among_conjugate, client_errors, read_balanced
from seepage.attacks.balanceddescent import descend_balanced, distance_from_space
from seepage.attacks.balancedjoint import Joint, refine_jointly
from seepage.attacks.labels import LastLayer
from seepage.types import Progress, go_on

__all__ = ["Found", "Searching", "search_balanced"]

_TOLERANCES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1)  # residuals taken after 0, 1, 2, ... rounds without success
_APART = 0.3  # of the batch size, by which conjugate examples may fail to be so
_DISTINCT = 6  # classes beyond the rank that a proof takes
_PROOF = 3e-5  # share of its error by which a proved example may be off
_SCALE_OFF = 0.02  # and its scale, where nothing was clipped


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Searching:
    """Options, as in ``ExactLabels``.

    Args:
        rounds: of search.
        starts: random ones in a round after one without success.
        steps: of one descent.
        reach: not tried where the rank exceeds this share of the classes.
    """

    rounds: int
    starts: int
    steps: int
    reach: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    pencil: Balanced
    clipped: bool
    options: Searching
    generator: torch.Generator = field(repr=False)

    def round(self, found: Found, barren: int) -> Found:
        """What descents from the classes of the remainder find, after so many rounds that found nothing."""
        classes, a, a0, N = self._starts(found, barren)
        a, residual = descend_balanced(self.pencil, classes, a, a0=a0, N=N, steps=self.options.steps)
        errors = client_errors(self.pencil, classes, a)
        values = (a / self.pencil.S * errors).sum(1)  # K over the scale, says each
        for i in residual.argsort().tolist():
            if len(found.a) == self.pencil.rank or float(residual[i]) > _TOLERANCES[min(barren, 4)]:
                break
            value, examples = float(values[i]), found.examples
            if not examples and (float(residual[i]) > 1e-6 or value < 0.9):
                continue
            examples = examples or float(self.pencil.rank if self.clipped else round(value))
            most = float("inf") if self.clipped else (1 + _APART) * examples
            if (1 - _APART) * examples < value < most and self._apart(found, a[i], errors[i], value):
                found = Found(
                    classes=torch.cat([found.classes, classes[i : i + 1]]),
                    a=torch.cat([found.a, a[i : i + 1]]),
                    errors=torch.cat([found.errors, errors[i : i + 1]]),
                    examples=examples,
                )
        return self.settled(found)

    def settled(self, found: Found) -> Found:
        """Each example descended once more with all others' errors as constraints, where that does not lead away."""
        a, errors = found.a.clone(), found.errors.clone()
        before = distance_from_space(self.pencil, found.classes, a)
        for j in range(len(a)):
            others = torch.arange(len(a)) != j
            a0, N = among_conjugate(self.pencil, errors[others])
            label = found.classes[j : j + 1]
            new, residual = descend_balanced(self.pencil, label, a[j : j + 1], a0=a0, N=N, steps=12)
            if float(residual) < max(1e-4, 3 * float(before[j])):
                a[j], errors[j] = new[0], client_errors(self.pencil, label, new)[0]
        return Found(classes=found.classes, a=a, errors=errors, examples=found.examples)

    def completed(self, found: Found) -> Found:
        """The last example, whose embedding and error those of all others leave no choice."""
        a0, _ = among_conjugate(self.pencil, found.errors)
        label = (self.pencil.B @ a0).argmax()[None]
        return Found(
            classes=torch.cat([found.classes, label]),
            a=torch.cat([found.a, a0[None]]),
            errors=torch.cat([found.errors, client_errors(self.pencil, label, a0[None])]),
            examples=found.examples,
        )

    def _apart(self, found: Found, a: Tensor, error: Tensor, value: float) -> bool:
        """Whether a root is conjugate to all examples found, on the better known of the two sides."""
        if not len(found.a):
            return True
        own = (found.a / self.pencil.S * found.errors).sum(1).abs().sqrt() * value**0.5
        left, right = (found.a / self.pencil.S) @ error, (found.errors / self.pencil.S) @ a
        return float((torch.minimum(left.abs(), right.abs()) / own).max()) < _APART

    def _starts(self, found: Found, barren: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(classes [s], a [s, r], a0, N)``: what the remainder's rows say of their classes' embeddings."""
        pencil, left = self.pencil, self.pencil.rank - len(found.a)
        a0, N = among_conjugate(pencil, found.errors)
        rows = pencil.U @ _remainder(pencil, found)
        share = rows @ pencil.one
        order = share.argsort()
        present = int((share < -1e-9 * share.abs().max()).sum())
        present = min(len(order), max(present, 2 * left + 4)) if barren or not present else present
        classes = order[:present]
        a = rows[classes] / torch.where(share[classes].abs() > 1e-14, share[classes], 1e-14)[:, None]
        if barren:
            copies = max(1, self.options.starts // present)
            spread = (found.a if len(found.a) > 3 else a).std(0, correction=0)
            shape, device = (copies * present, a.shape[1]), self.generator.device
            noise = torch.randn(shape, generator=self.generator, device=device, dtype=a.dtype)
            noise *= torch.rand((len(noise), 1), generator=self.generator, device=device, dtype=a.dtype)
            a = torch.cat([a, a.repeat(copies, 1) + noise.cpu() * spread])
            classes = classes.repeat(copies + 1)
        a = a0 + ((a - a0) @ N) @ N.T
        likely = (a @ pencil.B.T).argmax(1)  # of an example fitted well
        other = likely != classes
        return torch.cat([classes, likely[other]]), torch.cat([a, a[other]]), a0, N


def search_balanced(
    layer: LastLayer,
    options: Searching,
    *,
    generator: torch.Generator,
    clipped: bool = False,
    progress: Progress = go_on,
) -> tuple[Balanced, Found] | None:
    """The examples of a last layer's gradient, from its balanced form; ``None`` where its rank cannot be told.

    Args:
        layer: with bias.
        options: how long to search.
        generator: draws starts.
        clipped: whether every example's gradient may have been scaled by a number of its own, at most 1.
        progress: as everywhere.
    """
    pencil = read_balanced(layer, reach=options.reach)
    if pencil is None:
        return None
    search = _Search(pencil=pencil, clipped=clipped, options=options, generator=generator)
    none = pencil.S.new_zeros(0, pencil.rank)
    found = Found(classes=torch.zeros(0, dtype=torch.int64), a=none, errors=none, examples=float(layer.examples or 0))
    barren = 0
    for _ in range(options.rounds):
        if len(found.a) == pencil.rank or barren > 4 or not progress(len(found.a), pencil.rank, "examples restored"):
            break
        before = len(found.a)
        found = search.round(found, barren)
        barren = 0 if len(found.a) > before else barren + 1
    return pencil, _proved(search, found)


def _proved(search: _Search, found: Found) -> Found:
    """All examples refined together, the last one filled in, and whether the whole holds."""
    pencil = search.pencil
    trusted = torch.ones(pencil.rank, dtype=torch.bool)
    whole = found
    if len(found.a) == pencil.rank - 1 and found.examples:
        whole, trusted[-1] = search.completed(found), False
    if len(whole.a) < pencil.rank:
        return found
    clipped, examples = search.clipped, whole.examples
    joint = refine_jointly(pencil, whole.classes, whole.a, trusted, examples=examples, clipped=clipped)
    if joint is None:
        return whole
    if not trusted.all():
        label = (pencil.B @ joint.a[-1]).argmax()[None]
        whole = Found(
            classes=torch.cat([found.classes, label]), a=joint.a, errors=whole.errors, examples=whole.examples
        )
        again = refine_jointly(pencil, whole.classes, joint.a, trusted | True, examples=examples, clipped=clipped)
        joint = again if again is not None and float(again.misfit.max()) < 1e-2 else joint
    return Found(
        classes=whole.classes,
        a=joint.a,
        errors=whole.errors,
        examples=whole.examples,
        proved=_holds(search, joint),
        misfit=float(joint.misfit.max()),
    )


def _holds(search: _Search, joint: Joint) -> bool:
    """Whether the softmax explains every example to the rounding, in more equations than there are unknowns."""
    pencil = search.pencil
    unknowns = pencil.rank * (pencil.rank - 1 + int(search.clipped))
    scales = joint.scales
    sized = bool((scales < 1 + _SCALE_OFF).all() and (scales > (0.0 if search.clipped else 1 - _SCALE_OFF)).all())
    fits = float(joint.misfit.max()) < _PROOF and float(joint.label_gaps.max()) == 0.0
    posed = len(pencil.B) - pencil.rank >= _DISTINCT and joint.informative > unknowns + 3 * pencil.rank
    return fits and sized and posed


def _remainder(pencil: Balanced, found: Found) -> Tensor:
    """``[r, r]``: the gradient in its own coordinates less the examples found, of rank ``r - f`` (Wedderburn)."""
    core = torch.diag(pencil.S)
    if not len(found.a):
        return core
    mixed = (found.a / pencil.S) @ found.errors.T
    left: Tensor = core - found.errors.T @ torch.linalg.solve(mixed, found.a)
    return left
