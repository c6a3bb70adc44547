"""Reads every affine layer of a network in the order in which an input meets it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from seepage.errors import InputError
from seepage.networks.functions import (
    AFFINE,
    DROPOUTS,
    OTHER_ACTIVATIONS,
    REORDERS,
    RESHAPES,
    UNDERSTOOD,
    WORDS,
    Activation,
)
from seepage.networks.tracing import Call, Trace, trace_forward

__all__ = ["Activation", "AffineLayer", "LayerKind", "LayerReading", "read_layers"]


class LayerKind(StrEnum):
    """How a layer's weight meets its input: row by row, or patch by patch."""

    LINEAR = "linear"
    CONV = "conv"


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineLayer:
    """One layer ``Z = X W^T + bias``, with ``X [rows, inputs]``, ``W [outputs, inputs]``.

    Args:
        name: the module's path such as ``fc.0``; for a bare parameter its own name.
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
    trace = trace_forward(network, tuple(input_shape))
    calls = _live(trace)
    layer_calls: dict[str, list[Call]] = {}
    for call in calls:
        if _is_layer(call) and call.weight is not None:
            layer_calls.setdefault(call.weight, []).append(call)
    stray = _stray(calls)
    shared = Counter(bias for group in layer_calls.values() for bias in {call.bias for call in group} if bias)
    layers = tuple(
        _layer(weight, group, trace, calls, stray | {bias for bias, count in shared.items() if count > 1})
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


def _live(trace: Trace) -> list[Call]:
    """The calls that the output depends on, in order: an auxiliary head or a printed norm gives no gradient."""
    wanted = {trace.output}
    live: list[Call] = []
    for call in reversed(trace.calls):
        if wanted & set(call.gives) or (not call.takes and call.name in AFFINE):
            wanted |= set(call.takes)
            live.append(call)
    return live[::-1]


def _is_layer(call: Call) -> bool:
    return call.name in AFFINE and call.weight is not None and (call.name != "linear" or len(call.weight_shape) == 2)


def _stray(calls: Iterable[Call]) -> set[str]:
    """Parameters with a use that is not understood, or with two uses of which one is a layer's."""
    stray: set[str] = set()
    affine: set[str] = set()
    other: set[str] = set()
    for call in calls:
        own = {name for name in (call.weight, call.bias) if name} if _is_layer(call) else set()
        affine |= own
        other |= call.parameters - own
        if call.name not in UNDERSTOOD:
            stray |= call.parameters - own
    return stray | (affine & other)


def _layer(weight: str, group: list[Call], trace: Trace, calls: Sequence[Call], unusable: set[str]) -> AffineLayer:
    first = group[0]
    conv = first.name != "linear"
    rows = math.prod(first.output_shape[2:]) if conv else math.prod(first.input_shape[:-1])
    followers = list(dict.fromkeys(found for call in group for found in _followers(call.gives[0], trace, calls)))
    activation, words = _verdict(followers)
    return AffineLayer(
        name=weight.removesuffix(".weight"),
        kind=LayerKind.CONV if conv else LayerKind.LINEAR,
        weight=weight,
        bias=first.bias if first.bias not in unusable and len({call.bias for call in group}) == 1 else None,
        inputs=math.prod(first.weight_shape[1:]),
        outputs=first.weight_shape[0],
        activation=activation,
        followed_by=words,
        positions=rows if conv or rows % trace.batch else rows // trace.batch,
        input_shape=_one_example(first.input_shape, trace.batch),
        reads_input=all(_is_input(call.takes, calls) for call in group),
        calls=len(group),
    )


def _followers(value: int, trace: Trace, calls: Sequence[Call], note: str = "") -> list[tuple[Activation, str]]:
    found = [(Activation.NONE, "output" + note)] if value == trace.output else []
    for call in calls:
        if value not in call.takes:
            continue
        if call.name in RESHAPES | REORDERS | DROPOUTS:
            after = " (after dropout)" if call.name in DROPOUTS else note
            found += _followers(call.gives[0], trace, calls, after)
        elif call.name in {activation.value for activation in WORDS}:
            activation = Activation(call.name)
            found.append((activation, WORDS[activation] + note))
        else:
            other = call.name in OTHER_ACTIVATIONS
            found.append((Activation.OTHER if other else Activation.NONE, call.words + note))
    return found


def _verdict(followers: list[tuple[Activation, str]]) -> tuple[Activation, str]:
    kinds = {activation for activation, _ in followers}
    words = " and ".join(dict.fromkeys(word for _, word in followers))
    return (kinds.pop() if len(kinds) == 1 else Activation.OTHER), words


def _one_example(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The shape without its batch: the first axis as long as the batch, or the first that holds it merged."""
    if batch in shape:
        at = shape.index(batch)
        return shape[:at] + shape[at + 1 :]
    merged = [axis for axis, size in enumerate(shape) if size % batch == 0][:1]
    return tuple(size // batch if axis in merged else size for axis, size in enumerate(shape))


def _is_input(takes: tuple[int, ...], calls: Sequence[Call]) -> bool:
    makers = {value: call for call in calls for value in call.gives}
    value = takes[0]
    while value != 0 and makers[value].name in RESHAPES:
        value = makers[value].takes[0]
    return value == 0
