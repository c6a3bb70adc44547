"""What examples leave in later layers: their activations lie in the row spaces of those gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.tail import Tail
from seepage.linalg.levenberg import jacobian
from seepage.linalg.lowrank import low_rank_factors
from seepage.networks.layers import LayerKind, read_layers
from seepage.types import Observation

__all__ = ["Spans", "read_spans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """What the gradients of later layers say of every example of the batch.

    Args:
        tail: the network from the attacked layer on, with those layers' inputs.
        bases: ``[b, w]`` orthonormal rows for each: the span of the batch's inputs of that layer.
        heights: ``[m, b]``: pre-activations without bias of ``x = right^T p`` are ``heights @ p``.
        bias: ``[m]`` float64.
    """

    tail: Tail
    bases: tuple[Tensor, ...]
    heights: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> "Spans":
        """The same in another precision."""
        return Spans(
            tail=self.tail.to(dtype),
            bases=tuple(basis.to(dtype) for basis in self.bases),
            heights=self.heights.to(dtype),
            bias=self.bias.to(dtype),
        )

    def outside(self, outputs: Tensor) -> Tensor:
        """The parts of activations outside of their spans, as shares of their lengths, ``[r]``; 0 for an example."""
        _, activations = self.tail(outputs)
        parts = [
            (value - (basis @ value) @ basis) / value.norm().clamp_min(1e-12)
            for value, basis in zip(activations, self.bases, strict=True)
        ]
        return torch.cat(parts)


def read_spans(observation: Observation, mixture: Mixture, generator: torch.Generator) -> Spans | None:
    """Spans of the linear layers behind the attacked one whose gradient has the rank of the batch below their size.

    ``None`` where the update is no gradient at the state sent, is noised, the attacked layer is an inner one, no layer
    fits (one hidden layer, or later layers narrower than the batch), or the network cannot be run on one example.
    """
    layer, b = mixture.layer, mixture.batch_size
    if observation.rule is None or not observation.rule.is_gradient or mixture.noisy or not layer.reads_input:
        return None
    layers, bases = [], []
    for later in read_layers(observation.latest.network, observation.input_shape).layers:
        if later.name == layer.name or later.kind is not LayerKind.LINEAR or later.positions * later.calls != 1:
            continue
        if later.weight not in observation.latest.update:
            continue
        gradient = later.matrix(observation.latest.update)
        if min(gradient.shape) <= b or not bool(gradient.isfinite().all()):
            continue
        factors = low_rank_factors(gradient, generator=generator)
        if factors is not None and factors.rank == b and not factors.spread:
            layers.append(later)
            bases.append(factors.right)
    if not layers:
        return None
    heights, bias = layer.heights(mixture.factors.right), layer.bias.double()
    try:
        spans = Spans(tail=Tail(observation, layer, layers), bases=tuple(bases), heights=heights, bias=bias)
        vmap(jacobian(spans.outside))(bias[None])
    except (RuntimeError, TypeError, ValueError):  # it cannot be run on one example, or is no tree of modules
        return None
    return spans
