"""ClassMeans: each class's mean input from the first layer's gradient, and from these the batch's probabilities."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.embeddings import embeddings_at
from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.lastlayer import usable
from seepage.attacks.labels.pooled import pooled_probabilities
from seepage.networks.layers import AffineLayer, LayerKind, read_layers
from seepage.types import Observation, Obstacle

__all__ = ["ClassMeans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMeans(LabelAttack):
    """``n = K (p - gb)``, with p over made-up inputs that have the mean input of each class.

    The first layer's gradient is ``sum_c (n_c / K) A_c mean_c^T``, with ``A_c`` the error signal of class c, which the
    network itself tells: near its initial state it hardly depends on the input. That gives the class means up to one
    image ``t``, the same for all classes (the ``A_c``, weighted by p, add up to zero, and so a balanced batch hides its
    overall mean). But no input lies below the lowest valid one, and nearly everywhere some class is there: ``t`` is the
    least that lifts all means to that bound. Inputs are then drawn entry by entry, lowest or highest, with those means.

    For untrained networks whose first layer reads the input, of data that are often at their lowest (ink on white);
    approximate. Of data that never are, ``t`` comes out too small, and the method is no better than its relatives.

    Args:
        draws: made-up inputs of all classes together, at least four a class.
        rounds: how often error signals, means and counts are estimated again.
    """

    draws: int = 1000
    rounds: int = 4

    def __post_init__(self) -> None:
        for word in ("draws", "rounds"):
            if getattr(self, word) < 1:
                raise ValueError(f"`{word}` should be at least 1; found {getattr(self, word)}.")

    @property
    def name(self) -> str:
        """``class-means``."""
        return "class-means"

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs what all do, a linear first layer with bias that reads the input, and the bounds of valid inputs."""
        found = LabelAttack.obstacles(self, observation)
        if found:
            return found
        modules = dict(observation.latest.network.named_modules())
        first = _first(observation)
        if observation.bounds is None:
            return [Obstacle(where="bounds", reason="of valid inputs are unknown to the server.")]
        if first is None or first.name not in modules or usable(observation).name not in modules:
            return [Obstacle(where="network", reason="should begin with a linear layer with bias, reading the input.")]
        sent = {first.weight, first.bias} <= set(observation.latest.update)
        if first.outputs < observation.classes or not sent:
            reason = f"tells {observation.classes} class means apart only with as many outputs, and its gradient sent."
            return [Obstacle(where=f"layer {first.name}", reason=reason)]
        return []

    def counts(self, question: Question) -> Tensor:
        """``[C]``."""
        layer, examples, observation = question.layer, question.examples, question.observation
        first, classes = _first(observation), layer.classes
        if first is None or observation.bounds is None or first.bias is None:
            raise ValueError("`question` should have no obstacles; found a network whose first layer cannot be read.")
        network, update = observation.latest.network, observation.latest.update
        low, high = (bound.expand(observation.input_shape).flatten().double() for bound in observation.bounds)
        span = (high - low).clamp_min(1e-12)
        g = (update[first.weight].double() - update[first.bias].double()[:, None] * low) / span  # [m1, d], of 0 to 1
        each = max(4, self.draws // classes)
        labels = torch.arange(classes).repeat_interleave(each)
        means, p = torch.full((classes, first.inputs), 0.25, dtype=torch.float64), pooled_probabilities(layer)
        share = torch.full((classes,), 1 / classes, dtype=torch.float64)
        for _ in range(self.rounds):
            chance = torch.rand((len(labels), first.inputs), generator=question.generator).double()
            drawn = low + span * (chance < means[labels])
            inputs = drawn.reshape(-1, *observation.input_shape)
            E = embeddings_at(network, layer.name, inputs).to(layer.W)  # [N, m]
            middle = share @ E.view(classes, each, -1).mean(1)
            mu = torch.maximum(middle, (layer.gW / p[:, None]).amax(0)) if layer.rectified else middle
            p = share @ layer.probabilities(E - middle + mu).view(classes, each, -1).mean(1)
            share = (p - layer.gb).clamp_min(0.0)
            share = share / share.sum()
            A = _errors(network, first.name, inputs, labels).view(classes, each, -1).mean(1)  # [C, m1]
            means = _lifted(A, g, share, examples)
        return examples * (p - layer.gb)


def _first(observation: Observation) -> AffineLayer | None:
    """The layer that reads the input, if it is linear, has a bias and sees one row an example."""
    for layer in read_layers(observation.latest.network, observation.input_shape).layers:
        fits = layer.kind is LayerKind.LINEAR and layer.positions == layer.calls == 1 and layer.bias is not None
        if layer.reads_input:
            return layer if fits else None
    return None


def _errors(network: nn.Module, layer: str, inputs: Tensor, labels: Tensor) -> Tensor:
    """``[N, m1]``: derivative of each input's loss by the outputs of ``layer``."""
    judge = copy.deepcopy(network).eval()
    seen: list[Tensor] = []
    judge.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output))
    like = next(judge.parameters())
    with torch.enable_grad():
        loss = cross_entropy(judge(inputs.to(like).requires_grad_()), labels.to(like.device), reduction="sum")
        return torch.autograd.grad(loss, seen[0])[0].double()


def _lifted(A: Tensor, g: Tensor, share: Tensor, examples: int) -> Tensor:
    """``[C, d]`` in [0, 1]: class means from ``g [m1, d] = A^T Z``, lifted until nothing is negative.

    Args:
        A: ``[C, m1]`` error signals.
        g: the first layer's gradient, of inputs in [0, 1].
        share: ``[C]`` of the batch.
        examples: batch size; classes with less than half an example get the overall mean.
    """
    U, S, Vh = torch.linalg.svd(A.T, full_matrices=False)  # the last direction is the one that g does not see
    Z = Vh[:-1].T @ ((U[:, :-1].T @ g) / S[:-1, None].clamp_min(1e-12 * float(S[0])))  # [C, d], means times shares
    hidden = (Vh[-1] * Vh[-1].sum().sign()).clamp_min(1e-3 * float(Vh[-1].abs().max()))
    Z = (Z + hidden[:, None] * (-Z / hidden[:, None]).amax(0)).clamp_min(0.0)
    means = Z / share.clamp_min(0.5 / examples)[:, None]
    return torch.where((share * examples < 0.5)[:, None], Z.sum(0), means).clamp(0.0, 1.0)
