"""Networks that are a chain of linear layers and convolutions with activations between: what a recursion walks."""

import torch
from torch import Tensor, nn

from seepage.attacks.recursion.link import REVERSIBLE, Link
from seepage.errors import InputError
from seepage.networks.clientcopy import client_copy
from seepage.networks.layers import AffineLayer, read_layers
from seepage.types import Obstacle

__all__ = ["read_chain"]


def read_chain(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[Link, ...] | Obstacle:
    """The chain from the input on, or why the network is none.

    One input of noise decides whether each layer is given what the one before it put out, activated.
    """
    try:
        layers = read_layers(network, input_shape).layers
    except InputError as error:
        return Obstacle(where="network", reason=f"cannot be read: {error}")
    client = client_copy(network).network
    modules = dict(client.named_modules())
    for layer in layers:
        why = _unfit(layer, modules.get(layer.name))
        if why:
            return Obstacle(where=layer.name, reason=why)
    probe, logits, seen = _probed(client, [modules[layer.name] for layer in layers], input_shape)
    links: list[Link] = []
    before = probe
    for layer, (given, out) in zip(layers, seen, strict=True):
        if not _same(given, before):
            return Obstacle(where=layer.name, reason="is not given what the layer before puts out, activated.")
        module = modules[layer.name]
        assert isinstance(module, nn.Linear | nn.Conv2d), "asked above"
        links.append(
            Link(
                module=module,
                weight_name=layer.weight,
                bias_name=layer.bias,
                activation=layer.activation,
                input_shape=tuple(given.shape[1:]),
                output_shape=tuple(out.shape[1:]),
            )
        )
        before = links[-1].activate(out)
    if not links or links[-1].is_convolution or not _same(before, logits):
        return Obstacle(where="network", reason="should end with a linear layer that gives the logits.")
    return tuple(links)


def _unfit(layer: AffineLayer, module: nn.Module | None) -> str:
    if type(module) not in (nn.Linear, nn.Conv2d):
        return "should be an nn.Linear or nn.Conv2d module."
    if layer.activation not in REVERSIBLE:
        return f"is followed by {layer.followed_by}; ReLU, sigmoid and tanh can be walked back."
    if layer.calls != 1 or (isinstance(module, nn.Linear) and layer.positions != 1):
        return "should be called once, on one row an example."
    if isinstance(module, nn.Conv2d) and (
        module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return "should be a convolution without groups, padded with zeros by numbers."
    return ""


def _probed(
    client: nn.Module, modules: list[nn.Module], input_shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """A probe ``[1, *shape]``, its logits, and what each module was given and put out."""
    seen: list[tuple[Tensor, Tensor]] = []
    probe = torch.randn((1, *input_shape), generator=torch.Generator().manual_seed(0))
    probe = probe.to(next(client.parameters()))
    handles = [
        module.register_forward_hook(lambda _, given, out: seen.append((given[0].detach(), out.detach())))
        for module in modules
    ]
    with torch.no_grad():
        logits: Tensor = client(probe)
    for handle in handles:
        handle.remove()
    return probe, logits, seen


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.allclose(one.flatten(), other.flatten(), rtol=1e-5, atol=1e-6)
