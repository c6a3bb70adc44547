"""What errors to expect at a layer, class by class: back-propagation of inputs that the server makes up."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.clientcopy import client_copy
from seepage.attacks.embeddings import noise_inputs
from seepage.attacks.labels import LastLayer, last_layer
from seepage.types import Observation

__all__ = ["expected_errors"]

_INPUTS = 64  # made up for each class
_MOST_CLASSES = 32


def expected_errors(observation: Observation, layer: str, *, generator: torch.Generator) -> Tensor | None:
    """Mean error of each unit of a ReLU layer over made-up inputs that switch it on, by class.

    The classes are those of the labels, if the server knows them, else those that the last layer's gradient shows, else
    all; of more than 32 some.

    Args:
        observation: whose network is run.
        layer: path of a module whose outputs ``[N, m]`` go into a ReLU.
        generator: draws inputs and classes.

    Returns:
        ``[c, m]`` rows of unit mean square, float32; ``None`` if the layer is no module that is called once, or nothing
        comes back to it.
    """
    network = client_copy(observation.latest.network, batch_norm_trains=False).network
    module = dict(network.named_modules()).get(layer)
    if module is None:
        return None
    inputs = noise_inputs(observation, _INPUTS, generator).to(next(network.parameters()))
    means = []
    for label in _classes(observation, generator):
        answer = _outputs_and_errors(network, module, inputs, label)
        if answer is None:
            return None
        outputs, errors = answer
        means.append(errors.sum(dim=0) / (outputs > 0).sum(dim=0).clamp_min(1))
    rows = torch.stack(means).float()
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
        present = layer.present.nonzero().flatten() if isinstance(layer, LastLayer) else labels
        known = torch.arange(observation.classes) if present is None or not len(present) else present
    order = torch.randperm(len(known), generator=generator, device=generator.device)[:_MOST_CLASSES]
    chosen: list[int] = known[order.to(known.device)].tolist()
    return chosen


def _outputs_and_errors(
    network: nn.Module, module: nn.Module, inputs: Tensor, label: int
) -> tuple[Tensor, Tensor] | None:
    """``Z`` and ``dZ``, ``[N, m]`` each, of the module."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, outputs: seen.append(outputs))
    try:
        with torch.enable_grad():
            logits = network(inputs)
            if len(seen) != 1 or seen[0].ndim != 2:
                return None
            loss = cross_entropy(logits, torch.full((len(inputs),), label, device=logits.device), reduction="sum")
            (errors,) = torch.autograd.grad(loss, seen[0])
    finally:
        handle.remove()
    return seen[0].detach(), errors.detach()
