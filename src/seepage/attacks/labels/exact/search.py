"""The search for the examples of a last-layer gradient: where to start, what to take, what to drop again."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.exact.descent import descend
from seepage.attacks.labels.exact.terms import Pencil, Terms, excess, offsets, refine, remainder, unmixed
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.linalg.lowrank import sketched_svd

__all__ = ["Search", "read_pencil"]

_SIZES = (0.25, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0)  # of an example's own share in its class's row, where no bias tells
_ABOVE_NOISE = 1.5  # times the noise's largest singular value
_SKETCH = 64  # examples, where the batch size is unknown: half the width of the first sketch
_POWERS = 2  # passes that turn a sketch to the singular vectors
_FLOAT32 = 1e-9  # rounding unit of the client's above which a sketch, which squares the gradient, loses nothing
_FLOOR = 0.1  # rounding units of the largest singular value, below which all are alike
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


def read_pencil(layer: LastLayer, *, reach: float) -> Pencil | str:
    """The gradient at its numerical rank, or a sentence on why its examples cannot be told apart."""
    G, W = layer.joined
    if layer.examples is not None and layer.examples > layer.room:
        return f"{layer.examples} examples exceed the rank {layer.room} that the last layer's gradient can have."
    U, S, Vh = _leading(layer, G)
    rank = _rank(layer, S)
    if isinstance(rank, str):
        return rank
    if rank > reach * layer.classes:
        return f"The last layer's gradient has rank {rank} of {layer.classes} classes: too many examples to tell apart."
    V = Vh[:rank].T
    floor = max(float(S[rank]), 0.3 * layer.eps * float(S[0]))
    return Pencil(U=U[:, :rank], S=S[:rank], V=V, B=W @ V, floor=floor, one=V[-1] if layer.has_bias else None)


def _leading(layer: LastLayer, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular triples of ``G [C, m+1]``: of a large gradient those before its rounding, from a sketch.

    What is cut off lies at the rounding, where no drop can be larger than the largest that is seen.
    """
    width = 2 * (layer.examples or _SKETCH)
    while layer.eps > _FLOAT32 and not layer.deviation and 4 * width < min(G.shape):
        generator = torch.Generator().manual_seed(0)
        left, values, right = sketched_svd(G, width, generator, powers=_POWERS)
        last = float(values[-1] / values[0].clamp_min(1e-300)) / layer.eps
        if last < 10 * _FLOOR and float(_drops(layer, values, width - 1).max()) > last / _FLOOR:
            return left, values, right
        width *= 2
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    return U, S, Vh


def _drops(layer: LastLayer, S: Tensor, room: int) -> Tensor:
    """``[room]``: how many times each singular value is larger than the next, or than what rounding may leave."""
    return S[:room] / S[1 : room + 1].clamp_min(_FLOOR * layer.eps * float(S[0]))


def _rank(layer: LastLayer, S: Tensor) -> int | str:
    if layer.deviation:
        return _rank_under_noise(layer, S)
    drops = _drops(layer, S, min(layer.room, len(S) - 1))
    rank = int(drops.argmax()) + 1 if len(drops) else 0
    if layer.examples is not None and float(drops[layer.examples - 1]) > 4:
        rank = layer.examples
    if rank == 0 or float(S[rank]) > 1e-3 * float(S[0]) or (float(drops[rank - 1]) < 10 and rank != layer.examples):
        return "The singular values of the last layer's gradient have no end: too many examples, or too much noise."
    if rank >= layer.classes - 1:
        return f"The last layer's gradient has full rank {rank}: the batch has {rank} examples or more."
    if layer.examples is not None and rank > layer.examples:
        return f"The last layer's gradient has rank {rank}, above {layer.examples} examples: several steps, or noise."
    return rank


def _rank_under_noise(layer: LastLayer, S: Tensor) -> int | str:
    """The batch size, if the noise's largest singular value stays below the batch's smallest."""
    columns = layer.W.shape[1] + int(layer.has_bias)
    noise = layer.deviation * (layer.classes**0.5 + columns**0.5)  # what a Gaussian matrix has
    examples = layer.examples or 0
    if not examples:
        return "Under noise the rank does not tell the batch size: grant it (`--knows batch-size`)."
    seen = int((S[:examples] > _ABOVE_NOISE * noise).sum())
    if seen < examples:
        return f"The noise ({layer.deviation:.2g} on each entry) leaves {seen} of {examples} examples above it."
    return examples


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
