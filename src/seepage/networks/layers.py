"""Reads every affine layer of a network in the order in which an input meets it."""

import math
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn

from seepage.errors import InputError
from seepage.networks.flow import Flow, is_layer, stray_parameters
from seepage.networks.functions import AFFINE, Activation
from seepage.networks.recorder import Call
from seepage.networks.tracing import trace_forward

__all__ = ["Activation", "AffineLayer", "LayerKind", "LayerReading", "read_layers", "read_once"]

_Key = tuple[int, tuple[int, ...], tuple[bool, ...]]
_READ: ContextVar["dict[_Key, tuple[weakref.ref[nn.Module], LayerReading]] | None"] = ContextVar("_READ", default=None)


class LayerKind(StrEnum):
    """How a layer's weight meets its input: row by row, or patch by patch."""

    LINEAR = "linear"
    CONV = "conv"


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineLayer:
    """One layer ``Z = X W^T + bias``, with ``X [rows, inputs]``, ``W [outputs, inputs]``.

    Args:
        name: the module's path such as ``fc.0``; the weight's own name where no module puts out ``Z``: of a bare
            parameter, of a module that ends in its activation, of a weight stored transposed.
        kind: linear or convolution.
        weight: the weight's name as in ``named_parameters()``.
        bias: the bias's name; ``None`` if there is none, or if another layer uses the same one.
        inputs: features of one row; of a convolution ``channels / groups * kernel``.
        outputs: features that come out for one row.
        activation: what follows directly; dropout, reshaping and identity are looked through.
        followed_by: the same in words: ``ReLU``, ``ReLU (after dropout)``, ``BatchNorm2d bn1``, ``output``, ``add``.
        positions: rows for one example in one call: 1, or tokens, or a convolution's output pixels.
        input_shape: shape of the layer's input for one example.
        reads_input: its input is the network's input itself, at most reshaped.
        calls: how often one forward pass calls it; the shapes are those of the first call.
        fed, born: the functions that take ``X`` and put out ``Z`` at the first call, and how many calls of that name
            come before; they differ where the bias is added after the product.
        transposed: whether the weight is stored ``[inputs, outputs]``, as in ``x @ W``; see :meth:`matrix`.
    """

    name: str
    kind: LayerKind
    weight: str
    bias: str | None
    inputs: int
    outputs: int
    activation: Activation
    followed_by: str
    positions: int
    input_shape: tuple[int, ...]
    reads_input: bool
    calls: int
    fed: tuple[str, int]
    born: tuple[str, int]
    transposed: bool = False

    def matrix(self, values: Mapping[str, Tensor]) -> Tensor:
        """``[outputs, inputs, *kernel]``: of weights or gradients by parameter name, this layer's, as ``W`` stands."""
        found = values[self.weight]
        return found.T if self.transposed else found


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReading:
    """All that was read. Each parameter is in exactly one place: a layer, ``others`` or ``unaccounted``.

    Args:
        layers: in the order met.
        others: parameters understood to be no affine layer's: norms, embeddings, attention's ``in_proj``, tokens.
        unaccounted: parameters that no output depends on, or whose part in it was not understood.
        classes: size of the network's output.
    """

    layers: tuple[AffineLayer, ...]
    others: tuple[str, ...]
    unaccounted: tuple[str, ...]
    classes: int

    def layer(self, name: str) -> AffineLayer:
        """The layer of this name.

        Raises:
            InputError: there is none; the message lists those there are.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers) or "none"
        raise InputError(f"`layer` should be one of the affine layers ({known}); found `{name}`.")


def read_layers(network: nn.Module, input_shape: tuple[int, ...]) -> LayerReading:
    """Reads the network from one forward pass of a copy: its parameters, buffers, mode and the random state stay.

    A weight counts as a layer's only if nothing but affine calls uses it, so that its gradient is that layer's alone.

    Raises:
        InputError: the forward pass fails for ``[b, *input_shape]``, or its output is not ``[b, classes]``.
    """
    known = _READ.get()
    if known is None:
        return _read(network, tuple(input_shape))
    key = (id(network), tuple(input_shape), tuple(module.training for module in network.modules()))
    if key not in known or known[key][0]() is not network:  # ids are given again
        known[key] = weakref.ref(network), _read(network, tuple(input_shape))
    return known[key][1]


@contextmanager
def read_once() -> Iterator[None]:
    """Within it a network is read once for each shape of its inputs and mode: nobody may put other layers into it."""
    before = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(before)


def _read(network: nn.Module, input_shape: tuple[int, ...]) -> LayerReading:
    trace = trace_forward(network, input_shape)
    flow = Flow(trace)
    calls = flow.calls
    layer_calls: dict[str, list[Call]] = {}
    for call in calls:
        if is_layer(call) and call.weight is not None:
            layer_calls.setdefault(call.weight, []).append(call)
    stray = stray_parameters(calls)
    modules = dict(network.named_modules())
    shared = Counter(bias for group in layer_calls.values() for bias in {call.bias for call in group} if bias)
    unusable = stray | {bias for bias, count in shared.items() if count > 1}
    layers = tuple(
        _layer(_name(modules, weight, group), group, trace.batch, flow, unusable)
        for weight, group in layer_calls.items()
        if weight not in stray
    )
    claimed = {name for layer in layers for name in (layer.weight, layer.bias)}
    affine = {name for call in calls if call.name in AFFINE for name in call.parameters}
    understood = {name for call in calls for name in call.parameters} - affine - stray
    names = [name for name, _ in network.named_parameters() if name not in claimed]
    return LayerReading(
        layers=layers,
        others=tuple(name for name in names if name in understood),
        unaccounted=tuple(name for name in names if name not in understood),
        classes=trace.classes,
    )


def _layer(name: str, group: list[Call], batch: int, flow: Flow, unusable: set[str]) -> AffineLayer:
    first = group[0]
    conv = first.name != "linear"
    rows = math.prod(first.output_shape[2:]) if conv else math.prod(first.input_shape[:-1])
    activation, words = flow.followed_by(group)
    return AffineLayer(
        name=name,
        kind=LayerKind.CONV if conv else LayerKind.LINEAR,
        weight=str(first.weight),
        bias=first.bias if first.bias not in unusable and len({call.bias for call in group}) == 1 else None,
        inputs=math.prod(first.weight_shape[1:]),
        outputs=first.weight_shape[0],
        activation=activation,
        followed_by=words,
        positions=rows if conv or rows % batch else rows // batch,
        input_shape=_one_example(first.input_shape, batch),
        reads_input=all(flow.is_input(call.takes) for call in group),
        calls=len(group),
        fed=first.fed,
        born=first.place,
        transposed=first.transposed,
    )


def _name(modules: Mapping[str, nn.Module], weight: str, group: list[Call]) -> str:
    path = weight.removesuffix(".weight")
    module = modules.get(path) if path != weight else None
    whole = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or all(path in c.modules for c in group)
    return weight if group[0].transposed or (module is not None and not whole) else path


def _one_example(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The shape without its batch: the first axis as long as the batch, or the first that holds it merged."""
    if batch in shape:
        at = shape.index(batch)
        return shape[:at] + shape[at + 1 :]
    merged = [axis for axis, size in enumerate(shape) if size % batch == 0][:1]
    return tuple(size // batch if axis in merged else size for axis, size in enumerate(shape))
