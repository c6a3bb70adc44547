"""The layer that a disaggregation works on: one affine map, mostly into a ReLU, and what the update says about it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from seepage.networks.layers import Activation, AffineLayer, LayerKind, LayerReading, read_layers
from seepage.types import Observation, Obstacle, Traces

__all__ = ["AttackedLayer", "find_input_layer", "find_layer", "find_relu_layer"]

_ENTRIES_AT_ONCE = 1 << 21  # of W converted to float64 at a time: 16 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackedLayer:
    """``Z = X W^T + bias`` and its gradients; a ReLU follows, if nothing else is said.

    Args:
        name: the layer's path in the network.
        read: all that was read of it.
        weight: ``W [m, n]``.
        bias: ``[m]``.
        weight_gradient: ``gW = dZ^T X [m, n]``.
        bias_gradient: ``gb = dZ^T 1 [m]``.
        bias_name: the bias as ``named_parameters()`` has it.
        input_shape: shape of one input of this layer.
        reads_input: whether its inputs are the network's own.
        rounding: of the entries of ``weight_gradient``, beyond that of its dtype.
        gated: whether an example's error is zero where its input, at the weights sent out, switches a unit off, and
            elsewhere by accident only: not known of other weights (local steps), and dropout makes zeros of its own.
        relu: whether a ReLU follows; of other activations errors have no zeros.
    """

    name: str
    read: AffineLayer
    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    bias_name: str
    input_shape: tuple[int, ...]
    reads_input: bool
    rounding: float = 0.0
    gated: bool = True
    relu: bool = True

    def heights(self, rows: Tensor) -> Tensor:
        """``W rows^T [m, k]`` float64 of ``rows [k, n]``: what each adds to the pre-activations."""
        step = max(1, _ENTRIES_AT_ONCE // self.weight.shape[1])
        return torch.cat([part.double() @ rows.T for part in torch.split(self.weight, step)])


def find_relu_layer(observation: Observation, name: str | None = None) -> AttackedLayer | list[Obstacle]:
    """The named layer, or the first that a disaggregation can work on; the obstacles if there is none.

    A layer fits if it is linear, sees one row for each example, is called once, has a bias, is followed directly by a
    ReLU, and both its gradients are in the update, finite and not all zero.

    Raises:
        InputError: the network has no layer called ``name``.
    """
    reading = read_layers(observation.latest.network, observation.input_shape)
    layers = (reading.layer(name),) if name is not None else reading.layers
    obstacles: list[Obstacle] = []
    for layer in layers:
        reason = _misfit(layer, observation)
        if reason is None:
            return _read(layer, observation)
        obstacles.append(Obstacle(where=f"layer {layer.name}", reason=reason))
    unread = [one for one in reading.unaccounted if one in observation.latest.update] if name is None else []
    if unread:
        obstacles.append(Obstacle(where=", ".join(unread[:3]), reason="not understood: in no layer that was read."))
    return obstacles or [Obstacle(where="network", reason="has no affine layer.")]


def find_layer(observation: Observation, name: str | None = None) -> AttackedLayer | list[Obstacle]:
    """A layer that goes into a ReLU, or else the first, whose inputs later layers tell apart.

    Raises:
        InputError: the network has no layer called ``name``.
    """
    layer = find_relu_layer(observation, name)
    if isinstance(layer, AttackedLayer):
        return layer
    other = find_input_layer(observation, name)
    if isinstance(other, AttackedLayer):
        return other
    return [*(one for one in layer if one.where != other[0].where), *other]


def find_input_layer(observation: Observation, name: str | None = None) -> AttackedLayer | list[Obstacle]:
    """The named layer, or the first, if it reads the network's input and is linear, whatever follows; or obstacles.

    What its errors say without zeros only a replay can tell: the update has to be a plain gradient, and unless the
    batch is a single example, a later linear layer has to say which inputs are the batch's.

    Raises:
        InputError: the network has no layer called ``name``.
    """
    reading = read_layers(observation.latest.network, observation.input_shape)
    layer = reading.layer(name) if name is not None else next(iter(reading.layers), None)
    if layer is None:
        return [Obstacle(where="network", reason="has no affine layer.")]
    reason = _misfit(layer, observation, relu=False)
    if reason is None and not layer.reads_input:
        reason = "does not read the network's input: without a ReLU nothing is known of its inputs."
    if reason is None and (observation.rule is None or not observation.rule.is_gradient):
        reason = f"is followed by {layer.followed_by}, and without a ReLU the update has to be a plain gradient."
    if reason is None and observation.latest.batch_size != 1 and not _later_layers(reading, layer, observation):
        reason = (
            f"is followed by {layer.followed_by}, and no linear layer comes later that would tell its inputs apart."
        )
    return _read(layer, observation) if reason is None else [Obstacle(where=f"layer {layer.name}", reason=reason)]


def _later_layers(reading: LayerReading, first: AffineLayer, observation: Observation) -> bool:
    """Whether a later linear layer with more outputs and inputs than the batch has examples is in the update.

    Where the batch size is not known: with more than one.
    """
    return any(
        later.kind is LayerKind.LINEAR
        and later.weight in observation.latest.update
        and min(later.inputs, later.outputs) > max(observation.latest.batch_size or 1, 1)
        for later in reading.layers
        if later.name != first.name
    )


def _misfit(layer: AffineLayer, observation: Observation, *, relu: bool = True) -> str | None:
    update = observation.latest.update
    if layer.kind is not LayerKind.LINEAR:
        return "is a convolution: its gradient sums over positions, so its rank says nothing about the batch."
    if relu and layer.activation is not Activation.RELU:
        return f"is followed by {layer.followed_by}, not by a ReLU: its errors have no zeros to read examples off."
    if layer.positions != 1 or layer.calls != 1:
        return f"sees {layer.positions * layer.calls} rows for each example: examples cannot be told from positions."
    if layer.bias is None:
        return "has no bias: the gradient leaves the scale of each example open."
    size = (layer.outputs, layer.inputs)
    for parameter, shape in (
        (layer.weight, size[::-1] if layer.transposed else size),
        (layer.bias, (layer.outputs,)),
    ):
        if parameter not in update:
            return f"the update holds no gradient of {parameter} (frozen, encrypted or withheld)."
        if tuple(update[parameter].shape) != shape:
            return (
                f"the gradient of {parameter} should have shape {list(shape)}; found {list(update[parameter].shape)}."
            )
        if not bool(update[parameter].any()):
            return f"the gradient of {parameter} is all zero: the update says nothing about this layer."
    return None


def _read(layer: AffineLayer, observation: Observation) -> AttackedLayer:
    parameters = dict(observation.latest.network.named_parameters())
    update, weight = observation.latest.update, layer.matrix(parameters).detach()
    assert layer.bias is not None  # _misfit refused layers without one
    with torch.no_grad():
        return AttackedLayer(
            name=layer.name,
            read=layer,
            weight=weight,
            bias=parameters[layer.bias].detach(),
            weight_gradient=layer.matrix(update),
            bias_gradient=update[layer.bias],
            bias_name=layer.bias,
            input_shape=layer.input_shape,
            reads_input=layer.reads_input,
            rounding=0.0
            if observation.rule is None
            else observation.rule.rounding(weight, batch_size=observation.latest.batch_size),
            gated=_gated(layer, observation),
            relu=layer.activation is Activation.RELU,
        )


def _gated(layer: AffineLayer, observation: Observation) -> bool:
    rule, modules = observation.rule, observation.latest.network.modules()
    if any(isinstance(module, _DropoutNd) and module.training and module.p > 0 for module in modules):
        return False
    return (
        layer.activation is Activation.RELU
        and rule is not None
        and (rule.is_gradient or rule.traces is Traces.AT_START)
    )
