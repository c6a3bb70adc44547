"""The search for the examples of a last-layer gradient: where to start, what to take, what to drop again."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.exact.descent import descend
from seepage.attacks.labels.exact.terms import Pencil, Terms, excess, offsets, refine, remainder, unmixed

__all__ = ["Search"]

_SIZES = (0.25, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0)  # of an example's own share in its class's row, where no bias tells
_AGREED = 0.2  # share by which a term may differ from the others about the batch size
_LEAST_SHARE = 1e-3  # of label smoothing
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)  # of label smoothing from which to start
_MOST_SHARES = 3  # tried
_SOFT_STARTS = 128  # classes that a search with soft labels starts from
_TOLERANCES = (1e-4, 1e-3, 1e-2, 0.1)  # residuals taken after 0, 1, 2, ... rounds without success


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One round of search. Options as in ``ExactLabels``.

    Args:
        pencil: the gradient in its own coordinates.
        starts: random starts after a round without success.
        steps: Levenberg-Marquardt steps.
        precision: how many times the floor the refined terms may leave.
        tilt: angle by which noise is expected to turn the gradient's spaces; residuals are taken from three times that.
    """

    pencil: Pencil
    starts: int
    steps: int
    precision: float
    tilt: float = 0.0

    def __call__(self, terms: Terms, examples: float, barren: int, generator: torch.Generator) -> tuple[Terms, float]:
        """The terms and the batch size after one round; ``barren`` rounds before it found nothing."""
        pencil = self.pencil
        space = unmixed(pencil, terms, examples)
        classes, a = _starts(pencil, terms, examples, self.starts if barren else 0, generator)
        a, residual, _ = descend(pencil, space, classes, a, steps=self.steps)
        near = residual < 0.3
        classes, a, residual = classes[near], a[near], residual[near]
        if not len(a):
            return terms, examples
        if len(terms):  # where all are free again: what was subtracted need not be right yet
            everywhere = unmixed(pencil, terms.first(0), examples)
            polished, polished_residual, _ = descend(pencil, everywhere, classes, a, steps=self.steps // 2)
            classes, a = classes.repeat(2), torch.cat([polished, a])
            residual = torch.cat([polished_residual, residual * 10])
        residual = residual.where(residual < max(_TOLERANCES[min(barren, 3)], 3 * self.tilt), torch.inf)
        terms, examples = _taken(pencil, terms, examples, (classes, a, residual))
        return (_settled(pencil, terms, examples, self.precision), examples) if examples else (terms, examples)

    def smoothing(self) -> list[float]:
        """Shares of label smoothing worth a try: where most roots with soft labels agree, rounded and as they are.

        A root in too few equations has some share or other: only what the whole gradient obeys is proved.
        """
        pencil = self.pencil
        nothing = Terms(classes=torch.zeros(0, dtype=torch.int64), a=pencil.S.new_zeros(0, pencil.rank))
        classes, a = _starts(pencil, nothing, 0.0, 0, torch.Generator(), soft=True)
        shares = a.new_tensor(_SHARES).repeat_interleave(len(a))
        classes, a = classes.repeat(len(_SHARES)), a.repeat(len(_SHARES), 1)
        free = unmixed(pencil, nothing, 0.0)
        _, residual, share = descend(pencil, free, classes, a, steps=self.steps * 2, soft=shares)
        roots = share[(residual < 1e-4) & (share > _LEAST_SHARE)]
        worth: list[float] = []
        while len(roots) and len(worth) < 2 * _MOST_SHARES:
            near = (roots[:, None] - roots).abs() < 1e-3
            most = near[int(near.sum(1).argmax())]
            middle = float(roots[most].median())
            whole = round(middle, 3)
            worth += [whole, middle] if abs(whole - middle) < 1e-4 else [middle]
            roots = roots[~most]
        return worth


def _taken(
    pencil: Pencil, terms: Terms, examples: float, candidates: tuple[Tensor, Tensor, Tensor]
) -> tuple[Terms, float]:
    """The terms with those candidates, best first, that are conjugate to all others."""
    classes, a, residual = candidates
    d = offsets(pencil, Terms(classes=classes, a=a))
    values = (d @ pencil.U / pencil.S * a).sum(1)  # K, says each
    tight = (residual < max(1e-6, float(residual.min()) * 10)) & (values > 0.9)
    if not examples and bool(tight.any()):
        examples = float(values[tight].median().round())
    for i in residual.argsort().tolist():
        if len(terms) == pencil.rank or residual[i].isinf() or not examples:
            break
        if abs(float(values[i]) - examples) > _AGREED * examples:
            continue
        own = offsets(pencil, terms) @ pencil.U / pencil.S  # [f, r]
        across = torch.cat([own @ a[i], terms.a @ (d[i] @ pencil.U / pencil.S)])
        if len(terms) == 0 or float(across.abs().max()) < 0.3 * examples:
            terms = terms.joined(classes[i : i + 1], a[i : i + 1])
    odd = (residual < 1e-6) & ((values - examples).abs() > _AGREED * examples)
    return replace(terms, odd=terms.odd or bool(odd.any())), examples


def _settled(pencil: Pencil, terms: Terms, examples: float, precision: float) -> Terms:
    """The terms refined together, less those without which the others leave nothing but noise."""
    for _ in range(3):
        terms = refine(pencil, terms, examples)
        if len(terms) < 2 or excess(pencil, terms, examples) < precision * pencil.floor:
            break
        alone = [excess(pencil, terms.without(i), examples) for i in range(len(terms))]
        terms = terms.without(min(range(len(terms)), key=alone.__getitem__))
    return terms


def _starts(
    pencil: Pencil, terms: Terms, examples: float, random: int, generator: torch.Generator, *, soft: bool = False
) -> tuple[Tensor, Tensor]:
    """``(classes [s], a [s, r])``: what each class's row of the remainder says its embedding is."""
    rows = remainder(pencil, terms, examples) if len(terms) else pencil.U * pencil.S
    share = _shares(pencil, rows)
    order = share.argsort()
    present = int((share < -1e-9 * share.abs().max()).sum())
    if soft or pencil.smoothing:  # a label's own entry is positive where the network is surer than its target
        order = share.abs().argsort(descending=True)
        present = min(len(order), max(_SOFT_STARTS, present))
    if random or not present:
        present = min(len(order), max(present, 2 * (pencil.rank - len(terms)) + 4))
    classes = order[:present]
    if pencil.one is not None:
        a = rows[classes] / torch.where(share[classes].abs() > 1e-12, share[classes], 1e-12)[:, None]
    else:
        sizes = max(examples, pencil.rank) * torch.tensor(_SIZES, dtype=rows.dtype)
        a = (-sizes[:, None, None] * rows[classes]).flatten(0, 1)
        classes, present = classes.repeat(len(_SIZES)), present * len(_SIZES)
    if not random:
        return classes, a
    copies = max(1, random // present)
    spread = (terms.a if len(terms) > 3 else a).std(0, correction=0)
    shape, device = (copies * present, a.shape[1]), generator.device
    noise = torch.randn(shape, generator=generator, device=device, dtype=a.dtype)
    noise *= torch.rand((len(noise), 1), generator=generator, device=device, dtype=a.dtype)
    return classes.repeat(copies), a.repeat(copies, 1) + noise.cpu() * spread


def _shares(pencil: Pencil, rows: Tensor) -> Tensor:
    """``[C]``: the bias gradient; without bias what most resembles it, most negative where a class is there."""
    if pencil.one is not None:
        return rows @ pencil.one
    share: Tensor = rows @ torch.linalg.svd(rows, full_matrices=False).Vh[0]
    return share if float(share.min()) < -float(share.max()) else -share
