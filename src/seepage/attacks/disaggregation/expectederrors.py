"""What errors to expect at a layer, class by class: back-propagation of inputs that the server makes up."""

import math

import torch
from torch import Tensor

from seepage.attacks.disaggregation.layererrors import LayerRun, errors_of_class
from seepage.attacks.labels.embeddings import noise_inputs
from seepage.attacks.labels.lastlayer import LastLayer, last_layer
from seepage.networks.layers import AffineLayer
from seepage.types import Observation

__all__ = ["expected_errors"]

_INPUTS, _LEAST_INPUTS = 64, 16  # made up, the same for each class
_ENTRIES = 1 << 22  # of all made-up inputs together
_MOST_CLASSES = 32


def expected_errors(
    observation: Observation, layer: AffineLayer, *, awake: Tensor, generator: torch.Generator
) -> Tensor | None:
    """Mean error of each unit of a ReLU layer over made-up inputs that switch it on, by class.

    The classes are those of the labels, if the server knows them, else those that the last layer's gradient shows, else
    all; of more than 32 some. A copy of the network runs once, forwards; it is a hint only, and none is no failure.

    Args:
        observation: whose network is run.
        layer: with outputs ``[N, m]`` that go into a ReLU.
        awake: ``[m]`` bool, the units that count.
        generator: draws inputs and classes.

    Returns:
        ``[c, m']`` rows of unit mean square, float32; ``None`` if the network cannot be copied or run on made-up
        inputs, the layer is no module that is called once, or nothing comes back to it.
    """
    count = max(_LEAST_INPUTS, min(_INPUTS, _ENTRIES // math.prod(observation.input_shape)))
    inputs = noise_inputs(observation, count, generator)
    classes = _classes(observation, generator)
    try:
        answer = LayerRun(observation.latest.network, layer)(inputs)
    except (RuntimeError, ValueError):  # no copy (computed weights), or the network refuses a batch like this one
        return None
    if answer is None:
        return None
    outputs, logits = answer
    classes = [label for label in classes if label < logits.shape[1]]
    if not classes:
        return None
    on = (outputs > 0).sum(dim=0).clamp_min(1)
    rows = torch.stack([errors_of_class(outputs, logits, label).sum(dim=0) / on for label in classes]).float()
    rows = rows[:, awake.to(rows.device)]
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
