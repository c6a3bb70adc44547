"""What errors to expect at a layer, class by class: back-propagation of inputs that the server makes up."""

import math

import torch
from torch import Tensor, nn

from seepage.attacks.clientcopy import client_copy
from seepage.attacks.embeddings import noise_inputs
from seepage.attacks.labels import LastLayer, last_layer
from seepage.types import Observation

__all__ = ["expected_errors"]

_INPUTS, _LEAST_INPUTS = 64, 16  # made up, the same for each class
_ENTRIES = 1 << 22  # of all made-up inputs together
_MOST_CLASSES = 32


def expected_errors(
    observation: Observation, layer: str, *, awake: Tensor, generator: torch.Generator
) -> Tensor | None:
    """Mean error of each unit of a ReLU layer over made-up inputs that switch it on, by class.

    The classes are those of the labels, if the server knows them, else those that the last layer's gradient shows, else
    all; of more than 32 some. A copy of the network runs once, forwards; it is a hint only, and none is no failure.

    Args:
        observation: whose network is run.
        layer: path of a module whose outputs ``[N, m]`` go into a ReLU.
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
        answer = _outputs_and_logits(observation.latest.network, layer, inputs)
    except (RuntimeError, ValueError):  # no copy (computed weights), or the network refuses a batch like this one
        return None
    if answer is None or not answer[1].requires_grad:
        return None
    outputs, logits = answer
    classes = [label for label in classes if label < logits.shape[1]]
    if not classes:
        return None
    on = (outputs > 0).sum(dim=0).clamp_min(1)
    rows = torch.stack([_errors(outputs, logits, label).sum(dim=0) / on for label in classes]).float()
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


def _outputs_and_logits(network: nn.Module, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
    """``Z [N, m]`` of the layer and the logits ``[N, C]`` as a function of it; gradients end at the layer."""
    own = client_copy(network, batch_norm_trains=False).network.requires_grad_(False)
    module = dict(own.named_modules()).get(layer)
    if module is None:
        return None
    seen: list[Tensor] = []

    def cut(_: nn.Module, __: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        seen.append(outputs.detach().requires_grad_())
        return seen[-1].clone()  # a ReLU in place would write into it

    module.register_forward_hook(cut)
    with torch.enable_grad():
        logits = own(inputs.to(next(own.parameters())))
    once = len(seen) == 1 and seen[0].ndim == 2
    return (seen[0], logits) if once and isinstance(logits, Tensor) and logits.ndim == 2 else None


def _errors(outputs: Tensor, logits: Tensor, label: int) -> Tensor:
    """``dZ [N, m]`` of the summed cross-entropy, were all examples of one class."""
    slope = logits.detach().softmax(dim=1)
    slope[:, label] -= 1
    (errors,) = torch.autograd.grad(logits, outputs, slope, retain_graph=True, materialize_grads=True)
    return errors
