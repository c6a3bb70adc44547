"""Why an example is exposed: the units of the attacked layer that it alone switches on."""

import torch
from torch import Tensor, nn

from seepage.networks.layers import Activation, AffineLayer, LayerKind, read_layers

__all__ = ["units_alone"]


def units_alone(network: nn.Module, inputs: Tensor, layer: str = "") -> list[int] | None:
    """For each example, how many ReLU units it switches on and no other example of the batch does.

    In a plain gradient such a unit's row is that example's input times a number, and its bias entry is the number: one
    unit gives the example away without any search.

    Args:
        network: as the server sends it out; it stays as it is.
        inputs: the batch ``[b, *shape]``.
        layer: a layer's name, or ``""`` for the one that reads the network's own inputs.

    Returns:
        ``b`` counts, or ``None`` if no linear layer with one row an example stands there before a ReLU.
    """
    found = [one for one in read_layers(network, tuple(inputs.shape[1:])).layers if _fits(one, layer)]
    modules = dict(network.named_modules())
    if not found or found[0].name not in modules:
        return None
    seen: list[Tensor] = []
    handle = modules[found[0].name].register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        handle.remove()
    on = seen[0].reshape(len(inputs), -1) > 0  # [b, m]
    return [int(count) for count in (on & (on.sum(dim=0) == 1)).sum(dim=1)]


def _fits(one: AffineLayer, layer: str) -> bool:
    here = one.name == layer if layer else one.reads_input
    plain = one.kind is LayerKind.LINEAR and one.activation is Activation.RELU
    return here and plain and one.positions == 1 and one.calls == 1
