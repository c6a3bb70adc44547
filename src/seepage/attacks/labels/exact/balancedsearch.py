"""The search for the examples of a balanced last-layer gradient: faint ones, and ones scaled by clipping, as well."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balanced import Balanced, among_conjugate, client_errors, read_balanced
from seepage.attacks.labels.exact.balancedcompletion import completed
from seepage.attacks.labels.exact.balanceddescent import descend_balanced, distance_from_space
from seepage.attacks.labels.exact.balancedentries import sharpened
from seepage.attacks.labels.exact.balancedproof import APART, CLOSE, Found, proved
from seepage.attacks.labels.exact.lonecolumns import lone_classes
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.types import Progress, go_on

__all__ = ["MOST_EXAMPLES", "Search", "Searching", "search_balanced"]

MOST_EXAMPLES = 16  # a class, far beyond where the rank tells the batch size
_TOLERANCES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1)  # residuals taken after 0, 1, 2, ... rounds without success


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
class Search:
    """One round of search in a balanced gradient."""

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
        ceiling = float("inf") if self.clipped else MOST_EXAMPLES * len(self.pencil.B)
        for i in residual.argsort().tolist():
            if len(found.a) == self.pencil.rank or float(residual[i]) > _TOLERANCES[min(barren, 4)]:
                break
            value, examples = float(values[i]), found.examples
            if not examples and not (float(residual[i]) < 1e-6 and 0.9 < value < ceiling):
                continue
            examples = examples or float(self.pencil.rank if self.clipped else round(value))
            most = float("inf") if self.clipped else (1 + APART) * examples
            if (1 - APART) * examples < value < most and found.apart(self.pencil, a[i], errors[i], value):
                found = replace(found.joined(classes[i], a[i], errors[i]), examples=examples)
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
        return replace(found, a=a, errors=errors)

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
    search = Search(pencil=pencil, clipped=clipped, options=options, generator=generator)
    none = pencil.S.new_zeros(0, pencil.rank)
    found = Found(classes=torch.zeros(0, dtype=torch.int64), a=none, errors=none, examples=float(layer.examples or 0))
    barren = 0
    for _ in range(options.rounds):
        if len(found.a) == pencil.rank or barren > 4 or not progress(len(found.a), pencil.rank, "examples restored"):
            break
        before = len(found.a)
        found = search.round(found, barren)
        barren = 0 if len(found.a) > before else barren + 1
        if barren and len(found.a) == pencil.rank - 1:
            break  # the others leave the last one no room to search
    best = proved(pencil, found, clipped=clipped, steps=options.steps)
    if best.proved or 2 * len(found.a) < pencil.rank:
        return pencil, best
    return _finished(layer, pencil, found, best, clipped=clipped, steps=options.steps)


def _finished(
    layer: LastLayer, pencil: Balanced, found: Found, best: Found, *, clipped: bool, steps: int
) -> tuple[Balanced, Found]:
    """What the sharpened gradient adds where nothing was proved: the last examples, or the proof."""
    sharp = sharpened(layer, pencil)
    explained = len(best.a) == pencil.rank and best.misfit < CLOSE
    start = best if explained else found
    if sharp is None:
        if explained:
            return pencil, best
        sharp = pencil
    else:
        start = _carried(pencil, sharp, start)
    whole = completed(sharp, start, clipped=clipped, steps=steps)
    if len(whole.a) == sharp.rank and whole.misfit < min(best.misfit, CLOSE):
        return sharp, whole
    if explained:
        return pencil, best
    if len(whole.a) > len(found.a):
        pencil, best = sharp, whole
    named = lone_classes(layer).cpu()
    named[best.classes] = False
    if len(best.a) == pencil.rank and bool(named.any()):
        best = best.first(pencil.rank - 1)  # the last one was the most plausible, and no more
    return pencil, best


def _carried(pencil: Balanced, sharp: Balanced, found: Found) -> Found:
    """The same examples in the coordinates of another pencil of the same gradient."""
    a = found.a @ pencil.V.T @ sharp.V
    a = a / (a @ sharp.one)[:, None]
    return replace(found, a=a, errors=client_errors(sharp, found.classes, a))


def _remainder(pencil: Balanced, found: Found) -> Tensor:
    """``[r, r]``: the gradient in its own coordinates less the examples found, of rank ``r - f`` (Wedderburn)."""
    core = torch.diag(pencil.S)
    if not len(found.a):
        return core
    mixed = (found.a / pencil.S) @ found.errors.T
    left: Tensor = core - found.errors.T @ torch.linalg.pinv(mixed) @ found.a
    return left
