"""What the last layer says of labels, and what keeps a label attack from reading it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.errors import InputError
from seepage.networks.layers import Activation, AffineLayer, LayerKind, read_layers
from seepage.types import (
    GRANT_SIZE,
    LocalTraining,
    NoisyRule,
    Observation,
    Obstacle,
    Traces,
)

__all__ = [
    "LastLayer",
    "batch_size",
    "label_obstacles",
    "last_layer",
    "usable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastLayer:
    """The layer that ends in one logit a class, and what the client sent for it. All float64.

    Args:
        name: as in ``named_modules()`` where it is a module (:class:`seepage.networks.layers.AffineLayer`).
        W: ``[C, m]``.
        b: ``[C]``, zeros if the layer has none.
        gW: ``[C, m]``.
        gb: ``[C]``; of zeros if the layer has no bias.
        has_bias: whether ``b`` and ``gb`` are there at all.
        examples: the batch size, ``None`` if the server does not know it.
        rectified: whether the embeddings are outputs of a ReLU (never negative, often zero).
        eps: rounding unit of the dtype in which the client computed.
        after: ``(W, b)`` where several local steps ended, ``None`` if the client sent one gradient.
        deviation: standard deviation of the noise on every entry of ``gW`` and ``gb``; 0 if there is none known.
    """

    name: str
    W: Tensor
    b: Tensor
    gW: Tensor  # noqa: N815 - the paper's letters
    gb: Tensor
    has_bias: bool
    examples: int | None
    rectified: bool
    eps: float
    after: tuple[Tensor, Tensor] | None = None
    deviation: float = 0.0

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.W)

    @property
    def joined(self) -> tuple[Tensor, Tensor]:
        """``(gradient, weights)`` on the CPU, ``[C, m + 1]`` with the bias as last column, ``[C, m]`` without."""
        if not self.has_bias:
            return self.gW.cpu(), self.W.cpu()
        return torch.cat([self.gW, self.gb[:, None]], 1).cpu(), torch.cat([self.W, self.b[:, None]], 1).cpu()

    @property
    def room(self) -> int:
        """The largest batch whose gradient has a rank that tells it: below the classes, and a row's entries."""
        return min(self.classes, self.W.shape[1] + int(self.has_bias)) - 1

    @property
    def present(self) -> Tensor:
        """``[C]`` bool: classes whose row of ``gW`` has a negative entry: only their own examples bring one.

        All of them where embeddings may be negative, or noise was added. Without one a class is mostly absent.
        """
        if not self.rectified or self.deviation:
            return torch.ones_like(self.gb, dtype=torch.bool)
        return self.gW.amin(1) < -8 * self.eps * self.gW.abs().max()

    def probabilities(self, embeddings: Tensor, *, sharpness: float = 1.0) -> Tensor:
        """``[..., C]`` softmax of ``sharpness`` times the logits of ``[..., m]``.

        Of a client that took several steps: the mean over states on the line from where it began to where it ended.
        """
        start = embeddings @ self.W.T + self.b
        if self.after is None:
            return torch.softmax(sharpness * start, -1)
        end = embeddings @ self.after[0].T + self.after[1]
        shares = torch.linspace(0, 1, _STATES).tolist()
        return torch.stack([torch.softmax(sharpness * torch.lerp(start, end, share), -1) for share in shares]).mean(0)


_STATES = 11  # on the line between two states, both ends included

_UNKNOWN = f"is unknown to the server; `exact-labels` restores it if the rank allows, or {GRANT_SIZE}."


def last_layer(observation: Observation) -> LastLayer | Obstacle:
    """The last layer of the latest round's network, or why there is none to restore labels from."""
    latest = observation.latest
    try:
        layers = read_layers(latest.network, observation.input_shape).layers
    except InputError as refusal:
        return Obstacle(where="network", reason=str(refusal))
    layer = layers[-1] if layers else None
    if layer is None or layer.kind is not LayerKind.LINEAR or layer.activation is not Activation.NONE:
        return Obstacle(where="network", reason="should end in a linear layer whose outputs are the logits.")
    refusal_ = _misfit(layer, observation)
    if refusal_ is not None:
        return Obstacle(where=f"layer {layer.name}", reason=refusal_)
    parameters = dict(latest.network.named_parameters())
    gW, bias, rule = layer.matrix(latest.update), layer.bias, observation.rule
    examples = latest.known_size
    deviation = rule.deviation(batch_size=examples) if isinstance(rule, NoisyRule) else 0.0
    none = torch.zeros(len(gW), dtype=torch.float64, device=gW.device)
    read = LastLayer(
        name=layer.name,
        W=layer.matrix(parameters).detach().double(),
        b=none if bias is None else parameters[bias].detach().double(),
        gW=gW.double(),
        gb=none if bias is None else latest.update[bias].double(),
        has_bias=bias is not None,
        examples=examples,
        rectified=len(layers) > 1 and layers[-2].activation is Activation.RELU,
        eps=torch.finfo(gW.dtype).eps,
        deviation=deviation or 0.0,
    )
    if rule is None or rule.is_gradient or not isinstance(rule, LocalTraining):
        return read
    W = rule.ended(read.W, read.gW, batch_size=latest.batch_size)
    b = rule.ended(read.b, read.gb, batch_size=latest.batch_size)
    return read if W is None or b is None else replace(read, after=(W, b))


def _misfit(layer: AffineLayer, observation: Observation) -> str | None:
    update = observation.latest.update
    if layer.outputs != observation.classes:
        return f"should have one output for each of {observation.classes} classes; found {layer.outputs}."
    if layer.positions != 1 or layer.calls != 1:
        return f"sees {layer.positions * layer.calls} rows for each example: their errors cannot be told apart."
    for parameter in (layer.weight, layer.bias):
        if parameter is not None and parameter not in update:
            return f"the update holds no gradient of {parameter} (frozen, encrypted or withheld)."
    return None


def label_obstacles(
    observation: Observation, *, bias: bool = True, examples: bool = True, gradient: bool = False
) -> list[Obstacle]:
    """What keeps a label attack from running.

    Args:
        observation: what the server has.
        bias: whether the attack reads the bias gradient, which is estimated from the inputs of a layer without bias.
        examples: whether it needs the batch size.
        gradient: whether it needs the gradient of one batch, not the sum of several steps or clipped ones.
    """
    layer = last_layer(observation)
    if isinstance(layer, Obstacle):
        return [layer]
    found = []
    if observation.latest.labels is not None:
        found.append(Obstacle(where="labels", reason="are known to the server already: there is nothing to restore."))
    if bias and not layer.has_bias and layer.name not in dict(observation.latest.network.named_modules()):
        reason = "has no bias and is no module of its own: the size of its inputs cannot be read."
        found.append(Obstacle(where=f"layer {layer.name}", reason=reason))
    if examples and layer.examples is None:
        found.append(Obstacle(where="batch_size", reason=_UNKNOWN))
    rule = observation.rule
    if rule is None:
        return found
    if gradient and not rule.is_gradient:
        found.append(Obstacle(where=f"rule {rule.name}", reason="sends more than one batch's gradient in one update."))
    elif layer.after is not None and rule.traces is Traces.NONE:
        found.append(Obstacle(where=f"rule {rule.name}", reason="sends no sum of gradients: their sizes are lost."))
    return found


def usable(observation: Observation) -> LastLayer:
    """The last layer of an observation without obstacles.

    Raises:
        InputError: there are obstacles after all; the message is the first one.
    """
    layer = last_layer(observation)
    if isinstance(layer, Obstacle):
        raise InputError(str(layer))
    return layer


def batch_size(layer: LastLayer) -> int:
    """The batch size the server knows.

    Raises:
        InputError: it does not.
    """
    if layer.examples is None:
        raise InputError("`batch_size` should be known to this method; found None. ExactLabels may restore it.")
    return layer.examples
