"""What can be said of a network before any data is seen."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_input_layer, find_relu_layer
from seepage.attacks.labels.lastlayer import label_obstacles
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.networks.layers import AffineLayer, LayerKind, LayerReading, read_layers, read_once
from seepage.types import PrivateBatch, ThreatModel

__all__ = ["Preflight", "inspect_network"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """A network's layers and what stands in the way of exact inversion at each.

    Args:
        reading: the layers, and parameters of other kinds.
        obstacles: one sentence for each layer, ``None`` where exact inversion is possible.
        spanned: the first layer, if it goes into no ReLU and later layers tell its inputs apart (PRISM); else ``None``.
        parameters: how many numbers the network has.
        classes: how many the labels tell apart.
        label_obstacle: why labels cannot be restored from the last layer, ``None`` if they can.
    """

    reading: LayerReading
    obstacles: tuple[str | None, ...]
    spanned: AffineLayer | None
    parameters: int
    classes: int
    label_obstacle: str | None

    @property
    def attackable(self) -> AffineLayer | None:
        """The first layer whose zeros exact inversion can read."""
        pairs = zip(self.reading.layers, self.obstacles, strict=True)
        return next((layer for layer, obstacle in pairs if obstacle is None), None)

    @property
    def span_limit(self) -> int:
        """Batches below so many examples have spans at some layer behind ``spanned``; 0 if there is none."""
        later = [layer for layer in self.reading.layers if layer.kind is LayerKind.LINEAR and layer != self.spanned]
        return max((min(layer.inputs, layer.outputs) for layer in later), default=0) if self.spanned else 0


def inspect_network(network: nn.Module, *, input_shape: tuple[int, ...], classes: int) -> Preflight:
    """Read the layers and ask each for its obstacles, on the gradient of two examples of noise.

    Raises:
        InputError: the network does not take inputs of that shape.
    """
    reading = read_layers(network, input_shape)
    generator = torch.Generator().manual_seed(0)
    noise = PrivateBatch(
        inputs=torch.randn(2, *input_shape, generator=generator), labels=torch.tensor([0, classes - 1])
    )
    rule, network = FedSGD(), copy.deepcopy(network).float()  # as an audit takes weights of half precision
    try:
        update = rule(network, noise, generator)
    except RuntimeError as error:
        raise InputError(f"The network should take inputs of shape {list(input_shape)}; found: {error}.") from error
    observation = ThreatModel().view(network=network, update=update, batch=noise, rule=rule, classes=classes)
    with read_once():
        unlabelled = label_obstacles(observation, examples=False)
        found = [find_relu_layer(observation, layer.name) for layer in reading.layers]
        first = find_input_layer(observation)
    return Preflight(
        reading=reading,
        obstacles=tuple(None if isinstance(one, AttackedLayer) else one[0].reason for one in found),
        spanned=reading.layer(first.name) if isinstance(first, AttackedLayer) and not first.relu else None,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        classes=classes,
        label_obstacle=str(unlabelled[0]) if unlabelled else None,
    )
