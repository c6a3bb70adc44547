"""A network called with other parameters and buffers than its own, which it keeps."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["call_with"]


def call_with(network: nn.Module, values: Mapping[str, Tensor], inputs: Tensor) -> Any:
    """As :func:`torch.func.functional_call`, and without a trace also where a module stands in several places.

    There torch exchanges a tensor under each of its names, one after the other, and so puts its own stand-in back in
    the end (seen in 2.13): the network keeps ``values``. Here each place is exchanged once, and places that share a
    tensor together.

    Args:
        network: left as it is.
        values: in place of the parameters and buffers of these names, as ``named_parameters()`` has them.
        inputs: ``[N, *shape]``.

    Returns:
        What the network returns.
    """
    tensors = chain(network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    names = {id(tensor): name for name, tensor in tensors if name in values}
    places = {
        f"{path}.{name}" if path else name: values[names[id(tensor)]]
        for path, module in network.named_modules()  # each once
        for name, tensor in chain(
            module.named_parameters(recurse=False, remove_duplicate=False),
            module.named_buffers(recurse=False, remove_duplicate=False),
        )
        if id(tensor) in names
    }
    return functional_call(network, places, (inputs,), tie_weights=False)
