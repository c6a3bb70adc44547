"""What of an update no attack at a layer looked at, since nobody understood what the network does with it."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from seepage.errors import InputError
from seepage.networks.layers import read_layers

__all__ = ["unread_parameters", "unread_words"]


def unread_parameters(network: nn.Module, update: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> list[str]:
    """Matrices with a gradient whose part in the network was not understood: each may be a layer in other words.

    Such a layer would give examples away to an attack that could read it, so that silence says nothing. Recurrent
    layers and computed weights are among them.

    Args:
        network: as the server sends it out.
        update: as the server has it.
        input_shape: of one example.
    """
    try:
        names = read_layers(network, input_shape).unaccounted
    except InputError:
        names = tuple(name for name, _ in network.named_parameters())
    return [name for name in names if name in update and update[name].ndim > 1 and bool(update[name].any())]


def unread_words(names: Sequence[str]) -> str:
    """One clause for people."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"what the network does with {shown} was not understood, and it may be a layer that gives examples away"
