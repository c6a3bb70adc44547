"""AuxiliaryData: labels of a trained network's batch from the confidences that similar data would have."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.labelcounts import among_present, on_simplex
from seepage.attacks.labels.labelsbetween import network_after
from seepage.errors import InputError
from seepage.types import Observation, Obstacle

__all__ = ["AuxiliaryData", "probabilities_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuxiliaryData(LabelAttack):
    """Counts by least squares on the simplex: ``min |(P^T - I) n - K gb|``, ``P`` the class means of the softmax.

    What is left to do on trained networks when K exceeds what the rank can tell apart. Unlabelled data serve too: then
    ``n = K (mean p - gb)``. Approximate. Of a client of several steps the probabilities are the mean of both ends.

    Args:
        inputs: ``[N, *shape]``, data like the client's.
        labels: ``[N]`` int64, ``None`` if they have none.
        steps: accelerated projected gradient steps.
    """

    inputs: Tensor
    labels: Tensor | None = None
    steps: int = 500

    def __post_init__(self) -> None:
        if len(self.inputs) == 0 or (self.labels is not None and self.labels.shape != self.inputs.shape[:1]):
            raise InputError(
                f"`inputs` should hold at least one example, `labels` one label for each; found {len(self.inputs)} and "
                f"{None if self.labels is None else len(self.labels)}."
            )

    @property
    def name(self) -> str:
        """``auxiliary``."""
        return "auxiliary"

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs a last linear layer, the batch size, and data of the network's input shape."""
        found = LabelAttack.obstacles(self, observation)
        if tuple(self.inputs.shape[1:]) != tuple(observation.input_shape):
            reason = f"should have shape {list(observation.input_shape)} each; found {list(self.inputs.shape[1:])}."
            found.append(Obstacle(where="auxiliary inputs", reason=reason))
        if self.labels is not None and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < observation.classes:
            span = f"{int(self.labels.min())} to {int(self.labels.max())}"
            reason = f"should lie in 0 to {observation.classes - 1}; found {span}."
            found.append(Obstacle(where="auxiliary labels", reason=reason))
        return found

    def typical_inputs(self, observation: Observation, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """The data themselves."""
        return self.inputs[:256]

    def counts(self, question: Question) -> Tensor:
        """``[C]``, by one forward pass over the data."""
        layer, examples = question.layer, question.examples
        states = [question.observation.latest.network, network_after(question.observation)]
        each = [probabilities_of(state, self.inputs) for state in states if state is not None]
        p = torch.stack(each).mean(0).to(layer.gb.device)  # [N, C]
        P = _class_means(p, self.labels)  # [C, C]
        system = P.T - torch.eye(len(P), dtype=P.dtype, device=P.device)
        counts = _least_squares(system, examples * layer.gb, examples, self.steps)
        return among_present(counts, layer.present, examples)


def probabilities_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """``[N, C]`` float64 softmax outputs of a copy of the network in evaluation mode."""
    judge = copy.deepcopy(network).eval()
    like = next(judge.parameters())
    with torch.no_grad():
        parts = [judge(part.to(like)) for part in torch.split(inputs, 256)]
    return torch.softmax(torch.cat(parts).double(), 1)


def _class_means(p: Tensor, labels: Tensor | None) -> Tensor:
    """``[C, C]``: row c the mean probabilities of class c; of all data where the class has none."""
    P = p.mean(0).repeat(p.shape[1], 1)
    if labels is not None:
        for c in torch.unique(labels).tolist():
            P[c] = p[labels.to(p.device) == c].mean(0)
    return P


def _least_squares(A: Tensor, v: Tensor, total: int, steps: int) -> Tensor:
    """``argmin |A n - v|`` over ``n >= 0``, ``sum n = total``, by FISTA."""
    rate = 1 / float(torch.linalg.matrix_norm(A, 2)) ** 2
    n = ahead = on_simplex(-v + total / len(v), total)
    momentum = 1.0
    for _ in range(steps):
        n_new = on_simplex(ahead - rate * (A.T @ (A @ ahead - v)), total)
        momentum_new = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = n_new + (momentum - 1) / momentum_new * (n_new - n)
        n, momentum = n_new, momentum_new
    return n
