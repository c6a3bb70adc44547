"""What a layer is fed with and gives, seen while the network is run as the client runs it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seepage.errors import InputError
from seepage.networks.calling import call_with
from seepage.networks.layers import Activation, AffineLayer, LayerKind, read_layers
from seepage.networks.watching import WatchedLayer

__all__ = ["Client", "fitting_layer", "layer_inputs", "one_pass", "watched_rows"]

Client = Callable[[nn.Module], object]  # runs the network on the batch, as the client did whose update is attacked


def layer_inputs(network: nn.Module, layer: str, inputs: Tensor, client: Client | None = None) -> Tensor:
    """``[b, *shape]``: what a layer of this name is fed with where the network is fed with ``inputs``.

    Args:
        network: as the server sends it out; it stays as it is.
        layer: its name.
        inputs: the batch ``[b, *shape]``.
        client: takes the client's own steps again: where dropout or noise stands before the layer, another pass would
            feed it with other numbers than those that are in the update. ``None``: one pass will do.
    """
    return watched_rows(network, read_layers(network, tuple(inputs.shape[1:])).layer(layer), inputs, client)[0]


def fitting_layer(network: nn.Module, inputs: Tensor, name: str) -> AffineLayer | None:
    """The linear layer of this name before a ReLU, one row an example; ``""``: the one that reads the inputs."""
    try:
        layers = read_layers(network, tuple(inputs.shape[1:])).layers
    except InputError:  # it cannot be read: no layer is known to stand there
        return None
    return next((one for one in layers if _fits(one, name)), None)


def watched_rows(
    network: nn.Module, layer: AffineLayer, inputs: Tensor, client: Client | None
) -> tuple[Tensor, Tensor]:
    """A layer's input and output, ``b`` each, in the order of ``inputs``."""
    if client is not None:
        seen = _in_order(inputs, _passes(network, layer, client))
        if seen is not None:
            return seen
    return _passes(network, layer, lambda copied: one_pass(copied, inputs))[0][1:]


def one_pass(network: nn.Module, inputs: Tensor) -> Tensor:
    """Batch norm in train mode would move its statistics, so it moves those of copies; dropout draws from a fork."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs: Tensor = call_with(network, buffers, inputs.clone())  # some networks work in place
        return outputs


def _passes(network: nn.Module, layer: AffineLayer, client: Client) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each pass: what the network was fed with, and the layer's input and output. Copies keep the hooks."""
    fed: list[Tensor] = []
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    watched = WatchedLayer(layer)

    def begin(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        fed.append(given[0].detach())
        watched.restart()

    def end(_: nn.Module, __: object, ___: object) -> None:
        if watched.inputs is not None and watched.outputs is not None:
            seen.append((fed[-1], watched.inputs.detach(), watched.outputs.detach()))

    handles = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
    try:
        with watched:
            client(network)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _in_order(inputs: Tensor, passes: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """Rows of a single pass over the whole batch, put into the order of ``inputs``; ``None`` if it was none such."""
    if len(passes) != 1 or any(len(part) != len(inputs) for part in passes[0]):
        return None
    fed, *rows = passes[0]
    left, places = list(range(len(fed))), []
    for example in inputs:
        place = next((place for place in left if torch.equal(fed[place], example)), None)
        if place is None:
            return None
        left.remove(place)
        places.append(place)
    return rows[0][places], rows[1][places]


def _fits(one: AffineLayer, layer: str) -> bool:
    here = one.name == layer if layer else one.reads_input
    plain = one.kind is LayerKind.LINEAR and one.activation is Activation.RELU
    return here and plain and one.positions == 1 and one.calls == 1
