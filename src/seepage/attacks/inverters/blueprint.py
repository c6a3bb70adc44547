"""What an attack network was built for: enough to build it again, and to refuse what it does not fit."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from torch import nn

from seepage.errors import InputError
from seepage.networks.layers import Activation, LayerKind, read_layers

__all__ = ["Blueprint", "GradientLayer", "InverterKind", "draw_blueprint", "read_blueprint"]

_MOST = 10**8  # numbers in one tensor of an attack network that a file may ask for


class InverterKind(StrEnum):
    """Which attack network."""

    COARSE_GIT = "coarse-git"
    EXACT_GIT = "exact-git"
    LTI = "lti"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientLayer:
    """One affine layer of the audited network, as its gradient shows it.

    Args:
        weight: name as in ``named_parameters()``.
        bias: the same, ``None`` without one.
        shape: of the weight.
        activation: what follows the layer.
        linear: a linear layer that sees one row an example.
        reads_input: its input is the network's input, at most reshaped.
    """

    weight: str
    bias: str | None
    shape: tuple[int, ...]
    activation: str
    linear: bool
    reads_input: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Everything that decides an attack network's form.

    Args:
        kind: which.
        layers: of the audited network, from the input on.
        input_shape: of one input.
        examples: batch size it is trained for.
        width: units of its hidden layers.
        buckets: a tensor of more numbers is hashed into so many.
        hash_seed: decides the hashing.
    """

    kind: InverterKind
    layers: tuple[GradientLayer, ...]
    input_shape: tuple[int, ...]
    examples: int = 1
    width: int = 512
    buckets: int = 1024
    hash_seed: int = 0

    def __post_init__(self) -> None:
        for word in ("examples", "width", "buckets"):
            if not 1 <= getattr(self, word) <= 65_536:
                raise InputError(f"`{word}` should lie in 1 to 65536; found {getattr(self, word)}.")
        if not self.layers:
            raise InputError("The audited network should have an affine layer; found none.")
        for size in (*(layer.shape for layer in self.layers), self.input_shape):
            count = 1
            for side in size:
                count *= side
            if not 1 <= count <= _MOST:
                raise InputError(f"A tensor should hold 1 to {_MOST} numbers; found the shape {list(size)}.")
        if self.kind is InverterKind.EXACT_GIT:
            _refuse_inexact(self)

    @property
    def gradients(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the gradients that it reads, by the parameter's name."""
        found = {}
        for layer in self.layers:
            found[layer.weight] = tuple(layer.shape)
            if layer.bias is not None:
                found[layer.bias] = tuple(layer.shape[:1])
        return found

    def to_json(self) -> str:
        """As text, for a file's header."""
        return json.dumps(asdict(self), sort_keys=True)


def _refuse_inexact(blueprint: Blueprint) -> None:
    if blueprint.examples != 1:
        raise InputError(
            f"Exact-GIT should get batches of 1: its division is by one vector; found {blueprint.examples}."
        )
    reversible = {Activation.RELU, Activation.SIGMOID, Activation.TANH, Activation.NONE}
    for layer in blueprint.layers:
        if not layer.linear or Activation(layer.activation) not in reversible:
            raise InputError(
                "Exact-GIT should get linear layers with ReLU, sigmoid or tanh alone, where a gradient determines the "
                f"layer's input; found {layer.weight} followed by {layer.activation}. Coarse-GIT takes any."
            )
    if not blueprint.layers[0].reads_input or blueprint.layers[-1].bias is None:
        raise InputError("Exact-GIT should get a first layer that reads the input and a last one with bias.")


def draw_blueprint(
    network: nn.Module,
    *,
    kind: InverterKind,
    input_shape: tuple[int, ...],
    examples: int = 1,
    width: int = 512,
    buckets: int = 1024,
) -> Blueprint:
    """The blueprint for a network, from the list of its layers.

    Raises:
        InputError: the network cannot be read, or this kind does not fit it.
    """
    read = [one for one in read_layers(network, input_shape).layers if network.get_parameter(one.weight).requires_grad]
    if turned := [layer.weight for layer in read if layer.transposed]:
        raise InputError(
            f"Weights should be stored [outputs, inputs] for an attack network; found {', '.join(turned)}."
        )
    layers = tuple(
        GradientLayer(
            weight=layer.weight,
            bias=layer.bias,
            shape=tuple(network.get_parameter(layer.weight).shape),
            activation=layer.activation.value,
            linear=layer.kind is LayerKind.LINEAR and layer.positions == 1 and layer.calls == 1,
            reads_input=layer.reads_input,
        )
        for layer in read
    )
    return Blueprint(
        kind=kind, layers=layers, input_shape=tuple(input_shape), examples=examples, width=width, buckets=buckets
    )


def read_blueprint(text: str) -> Blueprint:
    """The blueprint in a file's header.

    Raises:
        InputError: it is none.
    """
    try:
        found: Mapping[str, Any] = json.loads(text)
        layers = tuple(GradientLayer(**{**layer, "shape": _sizes(layer["shape"])}) for layer in found["layers"])
        for layer in layers:
            Activation(layer.activation)
        return Blueprint(
            kind=InverterKind(found["kind"]),
            layers=layers,
            input_shape=_sizes(found["input_shape"]),
            **{word: int(found[word]) for word in ("examples", "width", "buckets", "hash_seed")},
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"The header of an attack network should be a blueprint; found none ({error!r}).") from error


def _sizes(found: Any) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in found)
    if len(sizes) > 5 or any(size < 1 for size in sizes):
        raise ValueError(f"a shape should hold up to 5 positive sizes; found {list(sizes)}")
    return sizes
