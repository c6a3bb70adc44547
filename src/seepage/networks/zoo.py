"""Builds a network from how it is written on the command line: ``mlp:400,400``, ``vit``, ``my_package.nets:make``."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from seepage.errors import InputError
from seepage.networks.architectures import ACTIVATIONS, ViT, lenet, mlp, resnet18, resnet20
from seepage.networks.auditable import auditable
from seepage.networks.factories import call_factory, source_sha256
from seepage.networks.tracing import trace_forward
from seepage.networks.weights import load_weights

__all__ = ["ZOO", "build_network", "network_source_sha256"]

ZOO = ("mlp", "lenet", "resnet18", "resnet20", "vit")
"""The names that the zoo knows; anything else is a user's ``module:factory``."""


def build_network(
    spec: str, *, input_shape: tuple[int, ...], classes: int, seed: int, weights: Path | str | None = None
) -> nn.Module:
    """The network that ``spec`` stands for, freshly initialised as PyTorch does by default, or with weights of a file.

    PyTorch's initialisers draw from the global random state alone. It is put back afterwards, and only the CPU's is
    seeded (``torch.manual_seed`` would reseed the GPUs as well): the caller's random numbers stay as they were.

    Args:
        spec: ``mlp:400,400`` or ``mlp:400,400:gelu`` (hidden widths, activation), ``lenet`` or ``lenet:sigmoid``,
            ``resnet18``, ``resnet20``, ``vit``, or ``module:factory``, where the factory is called with those of
            ``input_shape`` and ``classes`` that its signature names. The current directory can be imported from.
        input_shape: the shape of one input, for example ``(3, 32, 32)``.
        classes: how many classes the network tells apart.
        seed: decides every initial weight; at least 0.
        weights: a safetensors file, as :func:`seepage.networks.weights.load_weights` takes it.

    Raises:
        InputError: ``spec`` is not understood, the factory fails, the network cannot be audited
            (:func:`seepage.networks.auditable.auditable`) or does not give ``[b, classes]``, or the file does not fit.
    """
    if not input_shape or min(input_shape) < 1:
        raise InputError(f"`input_shape` should hold positive sizes; found {list(input_shape)}.")
    if classes < 1 or not 0 <= seed < 2**63:
        raise InputError(f"`classes` should be at least 1 and `seed` in [0, 2**63); found {classes} and {seed}.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        name = spec.partition(":")[0]
        network = _ours(spec, input_shape, classes) if name in ZOO else _users(spec, input_shape, classes)
    found = trace_forward(network, tuple(input_shape)).classes
    if found != classes:
        raise InputError(f"The network `{spec}` should give [b, {classes}], one output a class; found [b, {found}].")
    if weights is not None:
        load_weights(network, weights)
    return network


def network_source_sha256(spec: str) -> str | None:
    """Of the file of one's own ``module:factory``: parameters do not tell how the network uses them. ``None``: ours."""
    return None if spec.partition(":")[0] in ZOO else source_sha256(spec)


def _ours(spec: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    name, *options = spec.split(":")
    if name == "mlp":
        if len(options) not in (1, 2):
            raise InputError(f"An MLP should be written `mlp:400,400` or `mlp:400,400:gelu`; found `{spec}`.")
        widths, activation = _widths(spec, options[0]), _activation(spec, options[1:])
        try:
            return mlp(math.prod(input_shape), widths, classes, activation)
        except (RuntimeError, MemoryError, TypeError, OverflowError) as error:  # the last two: beyond 64 bits
            reason = str(error).splitlines()[0][:200].rstrip(".")
            raise InputError(f"The network `{spec[:80]}` should fit into memory; found: {reason}.") from error
    if len(input_shape) != 3:
        raise InputError(f"`{name}` should get inputs [channels, height, width]; found shape {list(input_shape)}.")
    channels, height, width = input_shape
    if name == "lenet" and len(options) <= 1:
        return lenet((channels, height, width), classes, _activation(spec, options))
    if options:
        form = "`lenet` or `lenet:sigmoid`" if name == "lenet" else f"`{name}`, it has no options"
        raise InputError(f"The network should be written {form}; found `{spec}`.")
    if name == "vit":
        return ViT((channels, height, width), classes)
    return (resnet18 if name == "resnet18" else resnet20)(channels, classes)


def _widths(spec: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"The widths of `{spec}` should be positive whole numbers such as `400,400`; found `{text}`.")
    return [int(part) for part in parts]


def _activation(spec: str, options: list[str]) -> Callable[[], nn.Module]:
    name = options[0] if options else "relu"
    if name not in ACTIVATIONS:
        raise InputError(f"The activation of `{spec}` should be one of {', '.join(ACTIVATIONS)}; found `{name}`.")
    return ACTIVATIONS[name]


def _users(spec: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    module, colon, factory = spec.partition(":")
    if not colon or not module or not factory or module.startswith("."):
        raise InputError(
            f"The network should be one of {', '.join(ZOO)}, or `module:factory` for one of your own; found `{spec}`."
        )
    network = call_factory(spec, what="network", offered={"input_shape": input_shape, "classes": classes})
    if not isinstance(network, nn.Module):
        raise InputError(f"The factory `{spec}` should return a torch.nn.Module; found {type(network).__name__}.")
    return auditable(network)
