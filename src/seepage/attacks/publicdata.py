"""What any attack network should be compared with: the mean of the public data, and the nearest public example."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.walk.distances import Squared
from seepage.attacks.walk.objective import make_objective
from seepage.types import Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["NearestPublic", "PublicMean"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublicMean:
    """The mean of public inputs, once for each example: looks at nothing that the client sent.

    Args:
        inputs: ``[N, *shape]`` public inputs as the network sees them.
        examples: batch size where the server does not know it.
    """

    inputs: Tensor
    examples: int = 1

    def __post_init__(self) -> None:
        _refuse_empty(self.inputs)

    @property
    def name(self) -> str:
        """``public-mean``."""
        return "public-mean"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """The public inputs should have the shape of the client's."""
        return _misfit(self.inputs, observation)

    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,  # noqa: ARG002 - draws nothing
        progress: Progress = go_on,  # noqa: ARG002 - quick
    ) -> Reconstruction:
        """See the class."""
        size = observation.latest.known_size or self.examples
        return _uncertified(self.inputs.mean(dim=0, keepdim=True).expand(size, *self.inputs.shape[1:]).clone(), None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NearestPublic:
    """The public examples whose own gradients point most in the direction of the update.

    Args:
        inputs: ``[N, *shape]`` public inputs as the network sees them.
        labels: ``[N]`` their labels.
        examples: batch size where the server does not know it.
    """

    inputs: Tensor
    labels: Tensor
    examples: int = 1

    def __post_init__(self) -> None:
        _refuse_empty(self.inputs)
        if self.labels.shape != self.inputs.shape[:1]:
            raise ValueError(f"`labels` should be {len(self.inputs)}, one an input; found {list(self.labels.shape)}.")

    @property
    def name(self) -> str:
        """``nearest-public``."""
        return "nearest-public"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """The public inputs should have the shape of the client's, and labels that the network knows."""
        found = _misfit(self.inputs, observation)
        if not bool(((self.labels >= 0) & (self.labels < observation.classes)).all()):
            reason = f"should lie in 0 to {observation.classes - 1}; found {int(self.labels.max())}."
            found.append(Obstacle(where="public labels", reason=reason))
        return found

    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,  # noqa: ARG002 - draws nothing
        progress: Progress = go_on,
    ) -> Reconstruction:
        """See the class."""
        objective = make_objective(observation, distance=Squared(), priors=())
        inputs = self.inputs.to(objective.target[0])
        cosines: list[float] = []
        for index in range(len(inputs)):
            with torch.enable_grad():
                own = objective.gradients(inputs[index : index + 1], self.labels[index : index + 1])
            towards = sum(float((g.detach() * t).sum()) for g, t in zip(own, objective.target, strict=True))
            size = sum(float(g.detach().square().sum()) for g in own) ** 0.5
            cosines.append(towards / max(size, 1e-30))
            if not progress(index, len(inputs), "public examples compared"):
                break
        size = min(observation.latest.known_size or self.examples, len(cosines))
        chosen = torch.tensor(cosines).topk(size).indices
        return _uncertified(self.inputs[chosen].clone(), self.labels[chosen].clone())


def _refuse_empty(inputs: Tensor) -> None:
    if not len(inputs):
        raise ValueError("`inputs` should hold one public input at least; found none.")


def _misfit(inputs: Tensor, observation: Observation) -> list[Obstacle]:
    if tuple(inputs.shape[1:]) == tuple(observation.input_shape):
        return []
    found = f"should have the shape {list(observation.input_shape)}; found {list(inputs.shape[1:])}."
    return [Obstacle(where="public inputs", reason=found)]


def _uncertified(inputs: Tensor, labels: Tensor | None) -> Reconstruction:
    return Reconstruction(
        outcome=Outcome.APPROXIMATE,
        inputs=inputs,
        labels=labels,
        certified=torch.zeros(len(inputs), dtype=torch.bool),
        reason="A baseline from public data; nothing proves it.",
    )
