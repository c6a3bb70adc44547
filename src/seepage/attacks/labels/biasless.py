"""The gradient of a bias that the last layer does not have, from its weights' and from what embeddings are like."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from seepage.attacks.labels.embeddings import embeddings_at
from seepage.attacks.labels.lastlayer import LastLayer, batch_size

__all__ = ["with_bias_gradient"]

_FACTORS = torch.logspace(-1.0, 0.7, 400, dtype=torch.float64)  # of the typical embedding's size
_TRUST = 0.002  # squared distance from integers that a size twice the typical one has to make up for


def with_bias_gradient(layer: LastLayer, network: nn.Module, typical: Tensor) -> LastLayer:
    """The layer with ``gb`` estimated: it is the projection of ``gW`` on the mean embedding, over its squared length.

    If all examples had the same embedding ``mu``, the gradient would be ``gb mu^T``. The direction is that of typical
    inputs' mean embedding, drawn towards the gradient's own rows. The length is the one at which the counts
    ``K (p - gb)`` come nearest to integers, all of them at least zero; where none does, that of the typical inputs.

    Args:
        layer: without bias, of a known batch size.
        network: whose last layer it is.
        typical: ``[N, *shape]`` inputs, noise if there is nothing better.

    Raises:
        InputError: the batch size is unknown, or the embeddings cannot be read.
    """
    examples = batch_size(layer)
    usual = embeddings_at(network, layer.name, typical).to(layer.W).mean(0)
    length = float(usual.norm().clamp_min(1e-12))
    direction = usual / length
    gb = layer.gW @ direction
    towards = layer.gW.T @ gb
    direction = towards / towards.norm().clamp_min(1e-300) if bool(gb.any()) else direction
    shadow = layer.gW @ direction  # gb times |mu|
    usual_length = float(usual @ direction)
    lengths = _FACTORS.to(shadow) * max(usual_length, 1e-3 * length)
    p = layer.probabilities(lengths[:, None] * direction)  # [F, C]
    counts = examples * (p - shadow / lengths[:, None])
    distance = (counts - counts.round().clamp_min(0)).square().mean(1)
    cost = distance + _TRUST * _FACTORS.to(shadow).log2().square()
    return replace(layer, gb=shadow / lengths[int(cost.argmin())])
