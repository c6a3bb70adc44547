"""How much clipping shrank the examples of a batch on average, from what the bias gradient says of absent classes."""

from dataclasses import replace

import torch
from torch import Tensor

from seepage.attacks.labels.lastlayer import LastLayer, batch_size

__all__ = ["with_clipping_undone"]

_WHOLE = 0.1  # root mean square distance from integers of counts that need no correction
_ABSENT = 0.05  # counts up to which classes are taken for absent
_NOISE = 0.05  # of the counts, above which nothing is corrected
_MOST = 1e4  # times that examples are taken to have been shrunk


def with_clipping_undone(layer: LastLayer) -> LastLayer:
    """The layer with its gradient multiplied by one number, the mean of what clipping divided the examples by.

    An absent class has ``gb = c p`` with ``c`` the mean scale, all of them the same, and no class can have fewer than
    no examples. So the largest ``gb / p`` is ``1 / c`` if two classes at least agree on it. If not, classes are taken
    to be equally likely, and the factor is that at which the counts vary as much as they then would. ``p`` is that of
    the pooled embedding, which no scale changes. Nothing is done where the counts are near integers as they are.

    Args:
        layer: with ``gb`` or an estimate of it, of a known batch size.
    """
    examples = batch_size(layer)
    if not bool(layer.gb.any()) or examples * layer.deviation > _NOISE:
        return layer
    p = layer.probabilities(layer.gW.T @ layer.gb / layer.gb.square().sum())
    counts = examples * (p - layer.gb)
    if float((counts - counts.round().clamp_min(0)).square().mean().sqrt()) < _WHOLE:
        return layer
    factor = _factor(p, layer.gb, examples)
    return replace(layer, gW=factor * layer.gW, gb=factor * layer.gb, deviation=factor * layer.deviation)


def _factor(p: Tensor, gb: Tensor, examples: int) -> float:
    positive = gb > 1e-12 * gb.abs().max()
    most = float((p[positive] / gb[positive]).min()) if bool(positive.any()) else 1.0
    most = min(max(most, 1.0), _MOST)
    if int((examples * (p - most * gb) < _ABSENT).sum()) >= 2:
        return most
    even = float((examples * (1 - 1 / len(gb))) ** 0.5 / (examples * torch.linalg.vector_norm(gb - gb.mean())))
    return min(max(even, 1.0), most)
