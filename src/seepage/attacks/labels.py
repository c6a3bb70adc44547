"""The frame of every label attack: what the last layer says, and how an estimate of counts becomes labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labelcounts import counts_to_labels, on_simplex, round_counts
from seepage.errors import InputError
from seepage.networks.layers import Activation, AffineLayer, LayerKind, read_layers
from seepage.types import Observation, Obstacle, Outcome, Reconstruction

__all__ = [
    "LastLayer",
    "batch_size",
    "estimate",
    "label_obstacles",
    "last_layer",
    "silent",
    "to_labels",
    "usable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastLayer:
    """The layer that ends in one logit a class, and what the client sent for it. All float64.

    Args:
        name: as in ``named_modules()``.
        W: ``[C, m]``.
        b: ``[C]``, zeros if the layer has none.
        gW: ``[C, m]``.
        gb: ``[C]``; of zeros if the layer has no bias.
        has_bias: whether ``b`` and ``gb`` are there at all.
        examples: the batch size, ``None`` if the server does not know it.
        rectified: whether the embeddings are outputs of a ReLU (never negative, often zero).
        eps: rounding unit of the dtype in which the client computed.
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

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.W)

    def probabilities(self, embeddings: Tensor) -> Tensor:
        """``[..., C]`` softmax of the logits of ``[..., m]``."""
        return torch.softmax(embeddings @ self.W.T + self.b, -1)


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
    gW, bias = latest.update[layer.weight], layer.bias
    none = torch.zeros(len(gW), dtype=torch.float64, device=gW.device)
    return LastLayer(
        name=layer.name,
        W=parameters[layer.weight].detach().double(),
        b=none if bias is None else parameters[bias].detach().double(),
        gW=gW.double(),
        gb=none if bias is None else latest.update[bias].double(),
        has_bias=bias is not None,
        examples=latest.batch_size if latest.labels is None else len(latest.labels),
        rectified=len(layers) > 1 and layers[-2].activation is Activation.RELU,
        eps=torch.finfo(gW.dtype).eps,
    )


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
        bias: whether the attack needs the last layer's bias.
        examples: whether it needs the batch size.
        gradient: whether it needs the gradient of one batch, not the sum of several steps or clipped ones.
    """
    layer = last_layer(observation)
    if isinstance(layer, Obstacle):
        return [layer]
    found = []
    if bias and not layer.has_bias:
        found.append(
            Obstacle(where=f"layer {layer.name}", reason="has no bias, whose gradient this method divides by.")
        )
    if examples and layer.examples is None:
        found.append(
            Obstacle(where="batch_size", reason="is unknown to the server; ExactLabels restores it if the rank allows.")
        )
    if gradient and observation.rule is not None and not observation.rule.is_gradient:
        found.append(
            Obstacle(
                where=f"rule {observation.rule.name}", reason="sends more than one batch's gradient in one update."
            )
        )
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


def silent(layer: LastLayer, method: str) -> Reconstruction | None:
    """A failed reconstruction if the last layer's gradient is all zero, else ``None``."""
    if bool(layer.gW.any()) and (bool(layer.gb.any()) or not layer.has_bias):
        return None
    return Reconstruction(
        outcome=Outcome.FAILED,
        reason=f"The gradient of {layer.name} is all zero: the client fits its batch exactly, or sent nothing.",
        stats={"method": method},
    )


def estimate(
    counts: Tensor,
    examples: int,
    *,
    method: str,
    confidence: str = "estimated",
    stats: Mapping[str, float] | None = None,
) -> Reconstruction:
    """Real-valued counts ``[C]`` rounded, with what their distance from integers says of the error.

    True counts are integers. Where those above a quarter lie ``s`` (root mean square) from the next integer, an error
    of that size has been made on every class, and a class goes wrong with probability ``erfc(0.5 / (s sqrt 2))``; above
    0.22 they are as good as uniform, and the labels are called a guess, without an expected error.
    """
    projected = on_simplex(counts, examples)
    shown = projected[projected > 0.25]
    spread = float((shown - shown.round()).square().mean().sqrt())
    wrong = math.erfc(0.5 / (math.sqrt(2) * max(spread, 1e-9))) * len(shown) / (2 * examples)
    sure = "guess" if spread > 0.22 else confidence
    return to_labels(
        round_counts(projected, examples),
        method=method,
        confidence=sure,
        stats={
            **({} if sure == "guess" else {"expected_error": min(1.0, wrong)}),
            "rounding_distance": spread,
            **(stats or {}),
        },
    )


def to_labels(
    counts: Tensor, *, method: str, confidence: str, stats: Mapping[str, float | int | str] | None = None
) -> Reconstruction:
    """Integer counts ``[C]`` as an uncertified reconstruction."""
    labels = counts_to_labels(counts)
    return Reconstruction(
        outcome=Outcome.APPROXIMATE,
        labels=labels,
        certified=torch.zeros(len(labels), dtype=torch.bool),
        reason=f"{method}: {confidence}; nothing in the update proves these labels.",
        stats={"method": method, "confidence": confidence, "examples": len(labels), **(stats or {})},
    )
