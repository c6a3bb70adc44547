"""GIT (arXiv 2505.20026): an attack network with the wiring of the audited one, walked from the loss to the input."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from seepage.attacks.inverters.blueprint import Blueprint, GradientLayer
from seepage.attacks.inverters.embeddingmap import EmbeddingMap
from seepage.attacks.inverters.gradientfeatures import LayerFeatures, divided
from seepage.attacks.inverters.pairs import Pair
from seepage.networks.layers import Activation

__all__ = ["CoarseGIT", "ExactGIT"]


class CoarseGIT(nn.Module):
    """Each step a learned module: ``state_l = module_l(features of layer l's gradient, state_{l+1})``.

    Begins with :class:`~seepage.attacks.inverters.embeddingmap.EmbeddingMap` where the last layer allows it; modules
    learn the correction. Where the first layer is linear with bias and reads the input, its ``gW^T gb / |gb|^2`` is
    added through a learned gate. Images get a small convolutional correction at the end.

    Reference:
        Gradient Inversion Transcript, arXiv 2505.20026, Coarse-GIT; the step's features and the map are ours.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.blueprint = blueprint
        b, shape, width = blueprint.examples, blueprint.input_shape, blueprint.width
        self.map = EmbeddingMap(blueprint) if EmbeddingMap.fits(blueprint) else None
        backwards = list(enumerate(blueprint.layers))[::-1]
        self.features = nn.ModuleList(
            LayerFeatures(layer, buckets=blueprint.buckets, seed=blueprint.hash_seed + 3 * place)
            for place, layer in backwards
        )
        sizes = [each.outputs for each in self.features if isinstance(each, LayerFeatures)]
        known = [b * self.map.outputs if self.map is not None else 0] + [width] * (len(sizes) - 1)
        self.steps = nn.ModuleList(_step(size + more, width) for size, more in zip(sizes, known, strict=True))
        self.head = nn.Linear(width, b * math.prod(shape))
        if self.map is not None:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        first = blueprint.layers[0]
        self.direct = first.linear and first.reads_input and first.bias is not None
        self.gate = nn.Parameter(torch.full((b, 1), 0.5)) if self.direct else None
        self.tail = _correction(shape[0]) if len(shape) == 3 else None

    def forward(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """``[k, b, *shape]`` from gradients ``[k, *shape]`` by name."""
        state: Tensor | None = None
        mapped: Tensor | None = None
        if self.map is not None:
            mapped, embeddings = self.map(gradients)
            state = embeddings.flatten(1)
        for features, step in zip(self.features, self.steps, strict=True):
            seen = features(gradients)
            state = step(seen if state is None else torch.cat([seen, state], dim=1))
        inputs = self.head(state).reshape(-1, self.blueprint.examples, math.prod(self.blueprint.input_shape))
        if mapped is not None:
            inputs = inputs + mapped.flatten(2)
        if self.gate is not None:
            first = self.blueprint.layers[0]
            known = divided(gradients[first.weight], gradients[str(first.bias)])
            inputs = inputs * (1 - self.gate) + self.gate * known[:, None]
        inputs = inputs.reshape(-1, *self.blueprint.input_shape)
        if self.tail is not None:
            inputs = inputs + self.tail(inputs)
        found: Tensor = inputs.reshape(-1, self.blueprint.examples, *self.blueprint.input_shape)
        return found

    def labels(self, gradients: Mapping[str, Tensor]) -> Tensor | None:
        """``[k, b]`` in the order of the inputs, ``None`` where the last layer does not give them away."""
        return self.map.labels(gradients) if self.map is not None else None

    def fit(self, training: Iterable[Pair], held_out: Iterable[Pair], predictions: Tensor) -> None:
        """Everything that needs no training: the map from embeddings to inputs; ``predictions [C]`` are the mean."""
        if self.map is not None:
            with torch.no_grad():
                self.map.fit(training, held_out, predictions)


class ExactGIT(nn.Module):
    """The inverse recursion as written, for one example and linear layers; unknown weights are parameters ``Theta``.

    ``d_L = gb_L``; then ``x_l = gW_l^T d_l / |d_l|^2`` and ``d_{l-1} = (Theta_l^T d_l) * act'(x_l)``. Every other bias
    gradient is left unused, as in the paper: it would give ``d_l`` away.

    Reference:
        Gradient Inversion Transcript, arXiv 2505.20026, Exact-GIT.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.blueprint = blueprint
        # Of the first layer nothing is needed but its gradient.
        self.theta = nn.ParameterList(
            nn.Parameter(torch.randn(layer.shape) / math.sqrt(layer.shape[1])) for layer in blueprint.layers[1:]
        )

    def forward(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """``[k, 1, *shape]`` from gradients ``[k, *shape]`` by name."""
        layers = self.blueprint.layers
        errors = gradients[str(layers[-1].bias)]
        for (before, layer), theta in zip(list(pairwise(layers))[::-1], list(self.theta)[::-1], strict=True):
            entering = divided(gradients[layer.weight], errors, largest=None)
            errors = (errors @ theta) * _slope(before, entering)
        found = divided(gradients[layers[0].weight], errors, largest=None)
        return found.reshape(-1, 1, *self.blueprint.input_shape)

    def start_from(self, network: nn.Module) -> None:
        """Put the server's own weights in place of random ones."""
        with torch.no_grad():
            for layer, theta in zip(self.blueprint.layers[1:], self.theta, strict=True):
                theta.copy_(network.get_parameter(layer.weight))

    def distance_to(self, network: nn.Module) -> float:
        """Relative distance of all ``Theta`` from the network's weights; scale counts, although no input needs it."""
        pairs = [
            (theta.detach(), network.get_parameter(layer.weight).detach())
            for layer, theta in zip(self.blueprint.layers[1:], self.theta, strict=True)
        ]
        apart = sum(float((theta - true).square().sum()) for theta, true in pairs)
        return math.sqrt(apart / max(1e-30, sum(float(true.square().sum()) for _, true in pairs)))


def _slope(layer: GradientLayer, outputs: Tensor) -> Tensor:
    kind = Activation(layer.activation)
    if kind is Activation.SIGMOID:
        return outputs * (1 - outputs)
    if kind is Activation.TANH:
        return 1 - outputs.square()
    return (outputs > 0).to(outputs.dtype) if kind is Activation.RELU else torch.ones_like(outputs)


def _step(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width), nn.GELU())


def _correction(channels: int) -> nn.Module:
    last = nn.Conv2d(32, channels, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 32, 3, padding=1), nn.GELU(), last
    )
