"""Why an example is exposed: the units of a layer that it alone switches on, and their rows in the update."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from seepage.audit.scores.watched import Client, fitting_layer, watched_rows
from seepage.networks.layers import AffineLayer

__all__ = ["Alike", "exposing_scores", "held_as_rows", "units_alone"]

Alike = Callable[[Tensor, Tensor], Tensor]  # of guesses and originals, [b, *shape] each: which show their original

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
        client: see :func:`seepage.audit.scores.watched.layer_inputs`.
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
        client: see :func:`seepage.audit.scores.watched.layer_inputs`.

    Returns:
        ``b`` counts, or ``None`` if no linear layer with one row an example stands there before a ReLU.
    """
    found = fitting_layer(network, inputs, layer)
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
    found = fitting_layer(network, inputs, "")
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


def _alone(network: nn.Module, inputs: Tensor, layer: AffineLayer, client: Client | None) -> tuple[Tensor, Tensor]:
    """``[b, m]`` bool, units that one example alone switches on; and the layer's inputs ``[b, n]``."""
    rows, heights = (one.reshape(len(inputs), -1) for one in watched_rows(network, layer, inputs, client))
    on = heights > 0  # [b, m]
    return on & (on.sum(dim=0) == 1), rows
