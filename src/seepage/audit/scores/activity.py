"""What a layer was fed with, and why an example is exposed: the units that it alone switches on, and their rows."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from seepage.errors import InputError
from seepage.networks.calling import call_with
from seepage.networks.layers import Activation, AffineLayer, LayerKind, read_layers
from seepage.networks.watching import WatchedLayer

__all__ = [
    "TOO_EASY",
    "Alike",
    "Client",
    "exposing_scores",
    "held_as_rows",
    "layer_inputs",
    "tells_apart",
    "units_alone",
]

TOO_EASY = "one example alone is too easy a case: the network tells inputs of this size hardly apart (are they scaled?)"

Alike = Callable[[Tensor, Tensor], Tensor]  # of guesses and originals, [b, *shape] each: which show their original
Client = Callable[[nn.Module], object]  # runs the network on the batch, as the client did whose update is attacked

_SAME_OUTPUT = 1e-4  # relative, as the errors of such examples are: float32 has three digits more
_LIKE_OUTPUT = 0.05  # the same where units tell: of digits at 2 to 8 units, of which many switch on the same, 0.12 on
_ROUGH = 0.01  # of an example's length, by which its row may differ from it: 40 dB, as numbers are recognisable


def exposing_scores(
    network: nn.Module,
    inputs: Tensor,
    update: Mapping[str, Tensor],
    *,
    layer: str = "",
    client: Client | None = None,
    shows: Alike | None = None,
) -> dict[str, list[int] | list[bool]]:
    """For each example why it is exposed: ``units_alone``, ``rows``, and ``rows_shown`` where that says more.

    Args:
        network, inputs, update: see :func:`held_as_rows`.
        layer: what the attack worked on, see :func:`units_alone`.
        client: see :func:`layer_inputs`.
        shows: of pictures, which are recognisable.
    """
    rows = held_as_rows(network, inputs, update)
    shown = None if shows is None else held_as_rows(network, inputs, update, shows)
    alone = units_alone(network, inputs, layer, client)
    found = {"units_alone": alone, "rows": rows, "rows_shown": shown if shown != rows else None}
    return {name: values for name, values in found.items() if values is not None}


def units_alone(network: nn.Module, inputs: Tensor, layer: str = "", client: Client | None = None) -> list[int] | None:
    """For each example, how many ReLU units it switches on and no other example of the batch does.

    In a plain gradient such a unit's row is that example's input times a number, and its bias entry is the number: one
    unit gives the example away without any search.

    Args:
        network: as the server sends it out; it stays as it is.
        inputs: the batch ``[b, *shape]``.
        layer: a layer's name, or ``""`` for the one that reads the network's own inputs.
        client: see :func:`layer_inputs`.

    Returns:
        ``b`` counts, or ``None`` if no linear layer with one row an example stands there before a ReLU.
    """
    found = _layer(network, inputs, layer)
    if found is None:
        return None
    alone, _ = _alone(network, inputs, found, client)
    return [int(count) for count in alone.sum(dim=1)]


def held_as_rows(
    network: nn.Module, inputs: Tensor, update: Mapping[str, Tensor], alike: Alike | None = None
) -> list[bool] | None:
    """For each example, whether a row of the update *is* the example: divided by the bias's entry it is within 1 %.

    Looked up with the originals in hand, in the update as the server has it, so that no rule or defense need be known:
    noise, dropped entries or an error of zero leave no such row.

    Args:
        network: as the server sends it out; it stays as it is.
        inputs: the batch ``[b, *shape]``.
        update: as the server has it.
        alike: what else counts, for example that a picture is recognisable.

    Returns:
        ``b`` answers, or ``None`` if no layer that fits reads the inputs, or its update was not sent.
    """
    found = _layer(network, inputs, "")
    if found is None or found.bias is None or not {found.weight, found.bias} <= set(update):
        return None
    alone, rows = _alone(network, inputs, found, None)
    weight, bias = found.matrix(update).double(), update[found.bias].double()
    sizes = bias.abs() * alone.to(bias)  # [b, m]
    units = sizes.argmax(dim=1)
    there = sizes.gather(1, units[:, None])[:, 0] > 0
    guesses = weight[units] / bias[units].where(there, 1.0)[:, None]  # [b, n]
    apart, lengths = (one.double().norm(dim=1) for one in (guesses - rows.to(guesses), rows))
    near = apart <= _ROUGH * lengths
    if alike is not None:
        near |= alike(guesses.reshape(inputs.shape), inputs.double())
    return [bool(value) for value in (there & (lengths > 0) & near).tolist()]


def tells_apart(network: nn.Module, inputs: Tensor) -> bool:
    """Whether the outputs of ``inputs [b, *shape]`` differ, or most of these switch on units of their own choice.

    Inputs that are tiny beside a network's biases do neither: they switch on the same units at the layer that reads
    them, and what the update then holds are sums over classes, which attacks that look for examples do not read. A
    batch of one comes out all the same, and its success says nothing of theirs.

    Args:
        network: as the server sends it out; it stays as it is.
        inputs: different examples, two or more.
    """
    found, outputs = _layer(network, inputs, ""), _one_pass(network, inputs)
    differ = float((outputs - outputs[0]).abs().max() / outputs.abs().max())
    if found is None or differ > _LIKE_OUTPUT:
        return differ > _SAME_OUTPUT
    on = _watched(network, found, inputs, None)[1].reshape(len(inputs), -1) > 0
    return 2 * len(torch.unique(on, dim=0)) > len(inputs)


def layer_inputs(network: nn.Module, layer: str, inputs: Tensor, client: Client | None = None) -> Tensor:
    """``[b, *shape]``: what a layer of this name is fed with where the network is fed with ``inputs``.

    Args:
        network: as the server sends it out; it stays as it is.
        layer: its name.
        inputs: the batch ``[b, *shape]``.
        client: takes the client's own steps again: where dropout or noise stands before the layer, another pass would
            feed it with other numbers than those that are in the update. ``None``: one pass will do.
    """
    return _watched(network, read_layers(network, tuple(inputs.shape[1:])).layer(layer), inputs, client)[0]


def _layer(network: nn.Module, inputs: Tensor, name: str) -> AffineLayer | None:
    try:
        layers = read_layers(network, tuple(inputs.shape[1:])).layers
    except InputError:  # it cannot be read: no layer is known to stand there
        return None
    return next((one for one in layers if _fits(one, name)), None)


def _alone(network: nn.Module, inputs: Tensor, layer: AffineLayer, client: Client | None) -> tuple[Tensor, Tensor]:
    """``[b, m]`` bool, units that one example alone switches on; and the layer's inputs ``[b, n]``."""
    rows, heights = (one.reshape(len(inputs), -1) for one in _watched(network, layer, inputs, client))
    on = heights > 0  # [b, m]
    return on & (on.sum(dim=0) == 1), rows


def _watched(network: nn.Module, layer: AffineLayer, inputs: Tensor, client: Client | None) -> tuple[Tensor, Tensor]:
    """A layer's input and output, ``b`` each, in the order of ``inputs``."""
    if client is not None:
        seen = _in_order(inputs, _passes(network, layer, client))
        if seen is not None:
            return seen
    return _passes(network, layer, lambda copied: _one_pass(copied, inputs))[0][1:]


def _one_pass(network: nn.Module, inputs: Tensor) -> Tensor:
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
