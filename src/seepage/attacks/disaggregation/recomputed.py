"""The gradient of a whole reconstructed batch against the update that the client sent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer
from seepage.networks.calling import call_with
from seepage.networks.watching import WatchedLayer
from seepage.types import Observation

__all__ = ["Batch", "batch_gradient", "update_gap", "within_rounding"]

_FELL_OTHERWISE = 1e-4  # relative distance of an example's error beyond which a unit fell the other way
_MOST_AGAIN = 16  # examples run by themselves; each costs two passes of 49 variants


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A reconstructed batch.

    Args:
        examples: ``[k, *input_shape]`` in the network's dtype.
        labels: ``[k]``.
        weights: ``[k]`` each example's share of the loss.
        errors: ``[k, m]`` what each should leave at the attacked layer, its share included.
    """

    examples: Tensor
    labels: Tensor
    weights: Tensor
    errors: Tensor

    def weighing(self, rows: Tensor) -> "Batch":
        """The same examples in the same company, but with a share of the loss only at ``rows [k]`` bool."""
        return replace(self, weights=self.weights.where(rows, torch.zeros_like(self.weights)))

    def variants(self, row: int, generator: torch.Generator) -> "Batch":
        """One example and others that rounding could not tell from it, 49 in all."""
        examples = within_rounding(self.examples[row], generator)
        count = len(examples)
        return Batch(
            examples=examples,
            labels=self.labels[row].expand(count),
            weights=self.weights[row].expand(count),
            errors=self.errors[row].expand(count, -1),
        )


def update_gap(observation: Observation, layer: AttackedLayer, batch: Batch, generator: torch.Generator) -> float:
    """Relative distance of the batch's gradient from the update.

    A deeper unit whose pre-activation is zero up to rounding may fall one way for the client and another way here: the
    order of a sum decides it, and with it the company in which an example is run. Examples whose error shows that are
    run again by themselves, in variants within rounding, one of which falls as it did for the client.

    Args:
        observation: its latest round gives the network and the update.
        layer: the attacked layer.
        batch: what was reconstructed.
        generator: draws variants of examples within rounding.

    Raises:
        RuntimeError: the network cannot be run on it.
    """
    update = observation.latest.update
    total, errors = batch_gradient(observation, layer, batch)
    gap = _distance(update, total)
    fell = _off(errors, batch) > _FELL_OTHERWISE
    if not 0 < int(fell.sum()) <= _MOST_AGAIN:
        return gap
    total, _ = batch_gradient(observation, layer, batch.weighing(~fell))
    for row in fell.nonzero().flatten().tolist():
        again = batch.variants(row, generator)
        _, errors = batch_gradient(observation, layer, again)
        best = torch.arange(len(errors), device=errors.device) == _off(errors, again).argmin()
        gradient, _ = batch_gradient(observation, layer, again.weighing(best))
        total = {name: value + gradient[name] for name, value in total.items()}
    return min(gap, _distance(update, total))


def _off(errors: Tensor, batch: Batch) -> Tensor:
    """``[k]`` relative distance of each example's error from what it should be."""
    distance: Tensor = (errors - batch.errors).norm(dim=1) / batch.errors.norm(dim=1)
    return distance


def batch_gradient(observation: Observation, layer: AttackedLayer, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Of the weighted loss with respect to what the update holds; and each example's error ``[k, m]``, float64."""
    network = observation.latest.network
    state = {name: value.detach() for name, value in (*network.named_parameters(), *network.named_buffers())}
    free = {name: state[name].detach().requires_grad_() for name in observation.latest.update if name in state}
    with torch.enable_grad():
        with WatchedLayer(layer.read) as watched:
            logits = call_with(network, {**state, **free}, batch.examples)
        if watched.outputs is None:
            raise RuntimeError(f"layer {layer.name} is not called")
        losses = cross_entropy(logits, batch.labels, reduction="none")
        loss = (batch.weights.to(losses) * losses).sum()
        *gradients, errors = torch.autograd.grad(loss, [*free.values(), watched.outputs], materialize_grads=True)
    return dict(zip(free, gradients, strict=True)), errors.double()


def _distance(update: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> float:
    """Relative; writes over ``gradient``, which may fill gigabytes."""
    size = sum(_length(update[name]) ** 2 for name in gradient)
    gap = sum(_length(value.sub_(update[name])) ** 2 for name, value in gradient.items())
    return float((gap / size) ** 0.5) if size > 0 and gap < math.inf else math.inf


def _length(value: Tensor) -> float:
    """Where squares leave the range of the dtype, in float64."""
    length = float(value.norm())
    return length if 0 < length < math.inf else float(value.double().norm())


def within_rounding(example: Tensor, generator: torch.Generator) -> Tensor:
    """The example and variants of it that the client's own rounding could not tell apart, ``[1 + 48, *shape]``.

    A deeper unit whose pre-activation is zero up to rounding may have been on for the client and off here, which moves
    the error by per cents; in some variant all such units fall as they did for the client.
    """
    scales = torch.logspace(-6, -5, 48, dtype=example.dtype, device=example.device) * example.square().mean().sqrt()
    draws = torch.randn(48, *example.shape, generator=generator, dtype=example.dtype, device=generator.device)
    moved = example + scales.reshape(-1, *[1] * example.ndim) * draws.to(example.device)
    return torch.cat([example[None], moved])
