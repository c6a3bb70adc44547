"""LabelAttack: the frame of every method that turns one last layer into labels; a file a method says the rest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.biasless import with_bias_gradient
from seepage.attacks.labels.clippedrules import clips
from seepage.attacks.labels.embeddings import noise_inputs
from seepage.attacks.labels.labelcounts import estimate
from seepage.attacks.labels.lastlayer import LastLayer, batch_size, label_obstacles, usable
from seepage.attacks.labels.unclipped import with_clipping_undone
from seepage.types import Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["LabelAttack", "Question", "silent"]

_TYPICAL = 64  # noise inputs whose embeddings' size is averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a method is asked with: the last layer, and the rest for methods that run the network.

    Args:
        layer: the layer that ends in one logit a class, and what the client sent for it.
        observation: all that the server has.
        generator: for methods that draw.
        progress: for methods that take long.
    """

    layer: LastLayer
    observation: Observation
    generator: torch.Generator
    progress: Progress

    @property
    def examples(self) -> int:
        """The batch size, which a method that does not restore it needs to know."""
        return batch_size(self.layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAttack:
    """Obstacles, silence and rounding, the same for all; a method gives its ``name`` and ``counts``.

    One that does not end in real-valued counts overrides ``restored`` instead.
    """

    @property
    def name(self) -> str:
        """How it is written on the command line."""
        raise NotImplementedError

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """A last layer whose bias gradient is there or can be estimated, and the batch size, unless it differs."""
        return label_obstacles(observation)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """The labels, or a failure that says why.

        Raises:
            InputError: there are obstacles.
        """
        layer = usable(observation)
        if self.divides_by_bias and not layer.has_bias and layer.gW.any():
            typical = self.typical_inputs(observation, generator)
            layer = with_bias_gradient(layer, observation.latest.network, typical)
        if self.divides_by_bias and layer.examples is not None and clips(observation.rule):
            layer = with_clipping_undone(layer)
        question = Question(layer=layer, observation=observation, generator=generator, progress=progress)
        return silent(layer, self.name) or self.restored(question)

    @property
    def divides_by_bias(self) -> bool:
        """Whether the method reads ``gb``, which is estimated where the layer has no bias."""
        return True

    def typical_inputs(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """``[N, *shape]``: inputs whose embeddings show the size of the client's; noise."""
        return noise_inputs(observation, _TYPICAL, generator)

    def restored(self, question: Question) -> Reconstruction:
        """The counts rounded, with what their distance from integers says of the error."""
        spread = question.examples * question.layer.deviation
        return estimate(self.counts(question), question.examples, method=self.name, deviation=spread)

    def counts(self, question: Question) -> Tensor:
        """``[C]`` real numbers, before rounding."""
        raise NotImplementedError


def silent(layer: LastLayer, method: str) -> Reconstruction | None:
    """A failed reconstruction if the gradient of the last layer's weights or of its bias is all zero, else ``None``."""
    weights, bias = bool(layer.gW.any()), bool(layer.gb.any())
    if weights and (bias or not layer.has_bias):
        return None
    reason = f"The gradient of {layer.name} is all zero: the client fits its batch exactly, or sent nothing."
    if weights or bias:
        zero, other = ("bias", "weights") if weights else ("weights", "bias")
        reason = f"The gradient of {layer.name}'s {zero} is all zero, that of its {other} is not: frozen, or withheld."
    return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats={"method": method})
