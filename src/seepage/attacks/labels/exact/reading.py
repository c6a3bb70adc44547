"""The last layer's gradient read at its numerical rank, which is the batch size where that can be told."""

import torch
from torch import Tensor

from seepage.attacks.labels.exact.terms import Pencil
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.linalg.lowrank import sketched_svd
from seepage.types import GRANT_SIZE

__all__ = ["read_pencil"]

_ABOVE_NOISE = 1.5  # times the noise's largest singular value
_SKETCH = 64  # examples, where the batch size is unknown: half the width of the first sketch
_POWERS = 2  # passes that turn a sketch to the singular vectors
_FLOAT32 = 1e-9  # rounding unit of the client's above which a sketch, which squares the gradient, loses nothing
_FLOOR = 0.1  # rounding units of the largest singular value, below which all are alike


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
        return f"Under noise the rank does not tell the batch size: {GRANT_SIZE}."
    seen = int((S[:examples] > _ABOVE_NOISE * noise).sum())
    if seen < examples:
        return f"The noise ({layer.deviation:.2g} on each entry) leaves {seen} of {examples} examples above it."
    return examples
