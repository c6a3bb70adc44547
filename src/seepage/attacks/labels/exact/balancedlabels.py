"""What the balanced gradient adds to a restoration: faint examples of memorised batches, and examples clipped apart."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balanced import Balanced
from seepage.attacks.labels.exact.balanceddescent import distance_from_space
from seepage.attacks.labels.exact.balancedproof import Found
from seepage.attacks.labels.exact.balancedsearch import Searching, search_balanced
from seepage.attacks.labels.exact.lonecolumns import lone_classes
from seepage.attacks.labels.labelcounts import round_counts
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.types import Progress, go_on

__all__ = ["RestoredExamples", "from_balanced", "with_balanced"]

_TIGHT = 1e-3  # residual of a root that is no chance fit


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredExamples:
    """What the rank of the last layer's gradient gave away. Order: as found.

    Args:
        labels: ``[f]`` int64.
        embeddings: ``[f, m]`` float64, inputs of the last layer.
        certified: ``[f]`` bool.
        examples: the batch size, restored or known; 0 if neither.
        rank: how many examples the gradient has room for.
        residual: what is left of the gradient beyond the rank it should have, as a share of it; of a balanced gradient
            the largest share by which an example differs from its softmax.
        rest: ``[C]`` counts of the examples not found, estimated.
        smoothing: share of label smoothing with which the examples reproduce the gradient, 0 for hard labels.
        fitting: how many examples the layer before the last gave, each with an error that goes with its input.
        sized: whether the batch size is known, or the scale of the gradient tells it: not where clipping took it.
    """

    labels: Tensor
    embeddings: Tensor
    certified: Tensor
    examples: int
    rank: int
    residual: float
    rest: Tensor
    smoothing: float = 0.0
    fitting: int = 0
    sized: bool = True

    @property
    def whole(self) -> bool:
        """Whether every example is there and certified."""
        return self.sized and self.examples == len(self.labels) > 0 and bool(self.certified.all())


def from_balanced(
    layer: LastLayer,
    options: Searching,
    *,
    generator: torch.Generator,
    clipped: bool = False,
    progress: Progress = go_on,
) -> RestoredExamples | None:
    """The examples behind the balanced gradient of a layer, ``None`` if its rank tells nothing or most are chance fits.

    Args:
        layer: the last one.
        options: how long to search.
        generator: draws starts.
        clipped: whether every example's gradient may have been scaled by a number of its own. The batch size, if
            unknown, is then the number of examples seen.
        progress: as everywhere.
    """
    answer = search_balanced(layer, options, generator=generator, clipped=clipped, progress=progress)
    if answer is None:
        return None
    pencil, found = answer
    tight = distance_from_space(pencil, found.classes, found.a) < _TIGHT
    if not len(found.a) or not found.examples or float(tight.double().mean()) < 0.5:
        return None
    proved = found.proved and round(found.examples) >= pencil.rank  # a mean of fewer examples has no such rank
    return RestoredExamples(
        labels=found.classes,
        embeddings=pencil.embeddings(found.a),
        certified=torch.full_like(found.classes, proved, dtype=torch.bool),
        examples=round(found.examples),
        rank=pencil.rank,
        residual=found.misfit,
        rest=_rest(layer, pencil, found),
    )


def with_balanced(
    layer: LastLayer,
    options: Searching,
    first: RestoredExamples | str,
    *,
    generator: torch.Generator,
    progress: Progress = go_on,
) -> RestoredExamples | str:
    """The better of a first restoration and that from the balanced gradient; what either certifies stays certified."""
    if layer.deviation or (not isinstance(first, str) and (first.whole or first.smoothing)):
        return first
    second = from_balanced(layer, options, generator=generator, progress=progress)
    if second is None or (not isinstance(first, str) and len(second.labels) < len(first.labels)):
        return first
    if isinstance(first, str) or second.certified.all():
        return second
    if first.examples != second.examples:
        return first if first.certified.any() else second
    sure = torch.bincount(first.labels[first.certified], minlength=layer.classes)
    certified = second.certified.clone()
    for i, label in enumerate(second.labels.tolist()):
        certified[i] |= bool(sure[label] > 0)
        sure[label] -= 1
    kept = bool((sure <= 0).all())  # else the second lacks a label that the first has proved
    return replace(second, certified=certified) if kept else first


def _rest(layer: LastLayer, pencil: Balanced, found: Found) -> Tensor:
    """``[C]``: the examples not found, by columns that name their classes; else a guess from the bias gradient."""
    missing = max(round(found.examples) - len(found.a), 0)
    if not missing:
        return torch.zeros(layer.classes, dtype=torch.int64)
    named = lone_classes(layer).cpu()
    named[found.classes] = False
    rest = torch.zeros(layer.classes, dtype=torch.int64)
    rest[named.nonzero()[:missing, 0]] = 1
    missing -= int(rest.sum())
    p = torch.softmax(found.a @ pencil.B.T, 1)
    p[torch.arange(len(p)), found.classes] -= 1
    share = layer.gb.cpu() - p.sum(0) / found.examples
    return rest + round_counts(missing / layer.classes - found.examples * share, missing)
