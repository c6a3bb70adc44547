"""What the attacks at one linear layer share: they differ in how they propose directions, and in nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.disaggregate import PATIENCE, disaggregate
from seepage.attacks.disaggregation.found import Proposer
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.rows import with_rows
from seepage.types import Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["LEAST_SHARE", "LayerAttack", "invert_layer"]

Find = Callable[[Observation, str | None], AttackedLayer | list[Obstacle]]

LEAST_SHARE = 0.2  # of zeros; far below an example's own share, since leverages decide (seepage.linalg.nullspace)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAttack(ABC):
    """Exact inversion of a batch at one linear layer, mostly into a ReLU; a subclass says how directions are proposed.

    Args:
        layer: path of the layer to attack; the first that fits if ``None``. An inner layer yields its inputs.
        budget: when to stop without a certificate.
    """

    layer: str | None = None
    budget: Budget = field(default_factory=Budget)

    patience: ClassVar[int] = PATIENCE

    @property
    @abstractmethod
    def name(self) -> str:
        """As the catalogue has it."""

    @abstractmethod
    def proposer(self, observation: Observation) -> Proposer:
        """The way of proposing that fits the inputs of this observation."""

    def least_share(self, width: int) -> float:  # noqa: ARG002 - of SPEAR alone
        """Zeros that a direction needs, as a share of the ``width`` units of the layer."""
        return LEAST_SHARE

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """Why no layer of the network fits; empty if one does."""
        layer = self.find_layer(observation, self.layer)
        return [] if isinstance(layer, AttackedLayer) else layer

    def find_layer(self, observation: Observation, name: str | None) -> AttackedLayer | list[Obstacle]:
        """The layer to attack, or why none fits; one that goes into a ReLU if a subclass does not say otherwise."""
        return find_relu_layer(observation, name)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """EXACT if every example carries a certificate; APPROXIMATE with what was found; FAILED with the reason."""
        return invert_layer(
            observation,
            self.proposer(observation),
            layer=self.layer,
            find=self.find_layer,
            least_share=self.least_share,
            budget=self.budget,
            generator=generator,
            progress=progress,
            patience=self.patience,
        )


def invert_layer(
    observation: Observation,
    propose: Proposer,
    *,
    layer: str | None,
    budget: Budget,
    generator: torch.Generator,
    progress: Progress,
    find: Find = find_relu_layer,
    least_share: Callable[[int], float] = lambda _: LEAST_SHARE,
    patience: int = PATIENCE,
) -> Reconstruction:
    """Factor the gradient of a layer and disaggregate it; FAILED with the reason where it cannot be factored.

    Args:
        observation: has a layer that fits.
        propose: the method.
        layer: path of the layer; the first that fits if ``None``.
        budget: when to stop without a certificate.
        generator: all chance of the attack.
        progress: told about directions found, and asked whether to go on; within a fit as well.
        find: the layer to attack.
        least_share: zeros that a direction needs, as a share of the layer's units, from how many they are.
        patience: samples to spend on better directions once there are enough of them.

    Raises:
        ValueError: no layer fits; obstacles should have been asked for before.
    """
    target = find(observation, layer)
    if not isinstance(target, AttackedLayer):
        raise ValueError(f"`observation` should have no obstacles; found {'; '.join(map(str, target))}")
    mixture = mix(target, least_share=least_share(len(target.bias)), generator=generator)
    workable = _workable(target, mixture)
    if isinstance(workable, Reconstruction):
        found = workable
    else:
        found = disaggregate(
            workable, observation, propose, budget=budget, generator=generator, progress=progress, patience=patience
        )
    return with_rows(found, observation, target, mixture.factors if mixture else None, generator=generator)


def _workable(layer: AttackedLayer, mixture: Mixture | None) -> Mixture | Reconstruction:
    """The mixture, or FAILED where no direction could be found in it."""
    stats: dict[str, float | int | str | bool] = {"layer": layer.name}
    if mixture is None:
        reason = (
            f"The gradient of layer {layer.name} has no rank below its size {list(layer.weight.shape)}: "
            "the batch is as large as the layer, or the update was noised, sparsified or quantised."
        )
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    if mixture.least_zeros > len(mixture.L):
        reason = (
            f"A batch of {mixture.batch_size} needs {mixture.least_zeros} zeros of each example to be sure of it, and "
            f"layer {layer.name} has {len(mixture.L)} units awake: a wider layer would be needed."
        )
        stats["batch_size"] = mixture.batch_size
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    return mixture
