"""What errors to expect at a layer, class by class: back-propagation of inputs that the server makes up."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.clientcopy import client_copy
from seepage.attacks.embeddings import noise_inputs
from seepage.attacks.labels import LastLayer, last_layer
from seepage.types import Observation

__all__ = ["expected_errors"]

_INPUTS, _LEAST_INPUTS = 64, 16  # made up
_ENTRIES = 1 << 22  # of all made-up inputs together
_MOST_CLASSES = 32


def expected_errors(
    observation: Observation, layer: str, *, awake: Tensor, generator: torch.Generator
) -> Tensor | None:
    """Mean error of each unit of a ReLU layer over made-up inputs that switch it on, by class.

    The classes are those of the labels, if the server knows them, else those that the last layer's gradient shows, else
    all; of more than 32 some. The network is run once, and back only as far as the layer.

    Args:
        observation: whose network is run.
        layer: path of a module whose outputs ``[N, m]`` go into a ReLU.
        awake: ``[m]`` bool, the units that count.
        generator: draws inputs and classes.

    Returns:
        ``[c, m']`` rows of unit mean square, float32; ``None`` if the layer is no module that is called once, or
        nothing comes back to it.
    """
    network = client_copy(observation.latest.network, batch_norm_trains=False).network.requires_grad_(False)
    module = dict(network.named_modules()).get(layer)
    if module is None:
        return None
    count = max(_LEAST_INPUTS, min(_INPUTS, _ENTRIES // math.prod(observation.input_shape)))
    inputs = noise_inputs(observation, count, generator).to(next(network.parameters()))
    seen: list[Tensor] = []

    def from_here(_module: nn.Module, _inputs: object, outputs: Tensor) -> Tensor:
        seen.append(outputs.detach().requires_grad_())
        return seen[-1]

    with torch.enable_grad():
        handle = module.register_forward_hook(from_here)
        logits = network(inputs)
        handle.remove()
        if len(seen) != 1 or seen[0].ndim != 2 or not logits.requires_grad:
            return None
        labels = [torch.full((count,), label, device=logits.device) for label in _classes(observation, generator)]
        losses = [cross_entropy(logits, label, reduction="sum") for label in labels]
        errors = [torch.autograd.grad(loss, seen[0], retain_graph=True)[0] for loss in losses]
    on = (seen[0] > 0).sum(dim=0).clamp_min(1)
    rows = torch.stack([error.sum(dim=0) / on for error in errors]).float()[:, awake.to(on.device)]
    size = rows.square().mean(dim=1, keepdim=True).sqrt()
    if not bool(rows.isfinite().all()) or not bool((size > 0).all()):
        return None
    return rows / size


def _classes(observation: Observation, generator: torch.Generator) -> list[int]:
    labels = observation.latest.labels
    if labels is not None:
        known = torch.tensor(sorted(set(labels.tolist())))
    else:
        layer = last_layer(observation)
        present = layer.present.nonzero().flatten() if isinstance(layer, LastLayer) else None
        known = torch.arange(observation.classes) if present is None or not len(present) else present
    order = torch.randperm(len(known), generator=generator, device=generator.device)[:_MOST_CLASSES]
    chosen: list[int] = known[order.to(known.device)].tolist()
    return chosen
