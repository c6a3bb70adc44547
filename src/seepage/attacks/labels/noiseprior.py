"""NoisePrior: the pooled embedding, weighted by class and drawn towards what noise inputs say embeddings are like."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.embeddings import embeddings_at, noise_inputs
from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.lastlayer import usable
from seepage.types import Observation, Obstacle

__all__ = ["NoisePrior"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePrior(LabelAttack):
    """``n = K (p - gb)``, the mean embedding ``mu`` at its most probable value, p averaged over a cloud about it.

    Row i of the gradient is ``gb_i mu - (n_i / K) delta_i``, with ``delta_i`` the distance of class i's mean from mu.
    Prior: ``delta_i ~ N(0, S (1 / n_i + between))``, ``mu ~ N(mu_0, shift S)``, with ``mu_0`` and S from noise inputs.
    S is common to all terms and drops out: mu is a weighted mean. For untrained networks; approximate. How strong the
    noise should be is read off the update: its mean embedding is to come near the pooled one.

    Args:
        noises: noise inputs: standard normal, or uniform in the observation's bounds.
        strengths: shares of that noise to choose among; weaker noise lies nearer the lowest input (or zero).
        shift: variance of the mean embedding, in units of S.
        between: variance between classes, in units of S.
        rounds: how often the counts in the weights are estimated again.
    """

    noises: int = 300
    strengths: tuple[float, ...] = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)
    shift: float = 1.0
    between: float = 1.0
    rounds: int = 4

    def __post_init__(self) -> None:
        for word in ("noises", "rounds"):
            if getattr(self, word) < 1:
                raise ValueError(f"`{word}` should be at least 1; found {getattr(self, word)}.")
        if not self.strengths:
            raise ValueError("`strengths` should hold at least one share; found none.")
        if not (self.shift > 0 and self.between >= 0):
            found = f"{self.shift} and {self.between}"
            raise ValueError(f"`shift` should be positive and `between` at least 0; found {found}.")

    @property
    def name(self) -> str:
        """``noise-prior``."""
        return "noise-prior"

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs a last linear layer that is a module, and the batch size."""
        found = LabelAttack.obstacles(self, observation)
        if not found and usable(observation).name not in dict(observation.latest.network.named_modules()):
            name = usable(observation).name
            found.append(
                Obstacle(where=f"layer {name}", reason="is no module of its own, so its inputs cannot be read.")
            )
        return found

    def counts(self, question: Question) -> Tensor:
        """``[C]``, by a forward pass for each noise input and strength."""
        layer, examples, observation = question.layer, question.examples, question.observation
        inputs = noise_inputs(observation, self.noises, question.generator)
        dark = torch.zeros_like(inputs[0]) if observation.bounds is None else observation.bounds[0].to(inputs)
        pooled = layer.gW.T @ layer.gb / layer.gb.square().sum()
        clouds = [
            embeddings_at(observation.latest.network, layer.name, dark + share * (inputs - dark)).to(layer.W)
            for share in self.strengths
        ]
        cloud = min(clouds, key=lambda one: float((one.mean(0) - pooled).norm()))  # [N, m]
        start, p = cloud.mean(0), layer.probabilities(cloud).mean(0)
        for _ in range(self.rounds):
            n = (examples * (p - layer.gb)).clamp_min(0.5)
            weight = 1 / ((n / examples).square() * (1 / n + self.between))  # [C], in units of 1 / S
            mu = start / self.shift + (weight * layer.gb) @ layer.gW
            mu = mu / (1 / self.shift + (weight * layer.gb.square()).sum())
            p = layer.probabilities(cloud - start + mu).mean(0)
        return examples * (p - layer.gb)
