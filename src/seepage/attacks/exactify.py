"""Any rough reconstruction made exact, where a ReLU layer allows it (PRISM, steps 2 and 3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.attacks.directions import round_inputs
from seepage.attacks.found import Found, Proposals, Proposer
from seepage.attacks.layerattack import invert_layer
from seepage.attacks.mixture import Mixture
from seepage.attacks.relulayer import ReLULayer, find_relu_layer
from seepage.attacks.spearpp import Completion
from seepage.types import Attack, Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["Exactify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exactify:
    """Runs an attack, then takes its inputs as guesses at a ReLU layer and rounds them to the client's own.

    A guess says which units its example switches off, and those determine the example's direction, exactly; what is
    exact leaves the mixture, and the guesses that remain are rounded again in what is left of it. White noise of 8 dB
    is near enough to start from (benchmarks/results/prism.md).

    Args:
        attack: whatever reconstructs inputs of the network.
        layer: the ReLU layer; the first that fits if ``None``. It has to be the first layer of the network.
        budget: of the rounding; a sample is one guess.
    """

    attack: Attack
    layer: str | None = None
    budget: Budget = field(default_factory=lambda: Budget(samples=200_000, seconds=300.0))

    @property
    def name(self) -> str:
        """``exactify:`` and the name of the attack."""
        return f"exactify:{self.attack.name}"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """Those of the attack; a network without a ReLU layer that fits leaves its reconstruction as it is."""
        return self.attack.obstacles(observation)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """EXACT if every example became exact; else what the attack returned, with the exact ones in their places."""
        rough = self.attack(observation, generator=generator, progress=progress)
        if rough.outcome is Outcome.EXACT or rough.inputs is None or rough.layer:
            return rough
        layer = find_relu_layer(observation, self.layer)
        if not isinstance(layer, ReLULayer):
            return _noted(rough, f"no layer to round at ({'; '.join(map(str, layer))})")
        if not layer.reads_input:
            return _noted(rough, f"layer {layer.name} is not the first: what was reconstructed are not its inputs")
        exact = invert_layer(
            observation,
            guesses_first(rough.inputs),
            layer=self.layer,
            budget=self.budget,
            generator=generator,
            progress=progress,
        )
        return _merged(rough, exact)


def guesses_first(inputs: Tensor) -> Proposer:
    """Proposes the directions of rough ``inputs [k, *shape]``, again after each growth, then of random guesses."""

    def propose(mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:
        guesses = inputs.flatten(1).double() @ mixture.factors.right.T  # [k, b], noise off the row space is gone
        before = -1
        while before < len(found) < mixture.batch_size:
            before = len(found)
            basis = mixture.missing(found.directions)
            left = (guesses @ basis.T) @ basis
            kept = left.norm(dim=1) > 0.1 * guesses.norm(dim=1)  # the others were guesses of what is found
            yield Proposals(directions=round_inputs(mixture, left[kept]), cost=int(kept.sum()))
        completion = Completion()
        before = -1
        while before < len(found) < mixture.batch_size:
            before = len(found)
            yield completion(mixture, found, generator, effort=1)

    return propose


def _noted(rough: Reconstruction, why: str) -> Reconstruction:
    return replace(rough, stats={**rough.stats, "exactify": why})


def _merged(rough: Reconstruction, exact: Reconstruction) -> Reconstruction:
    """The exact reconstruction if it is whole, else the rough one with every certified example at its nearest guess."""
    stats = {**rough.stats, **{f"exactify_{key}": value for key, value in exact.stats.items()}}
    if exact.outcome is Outcome.EXACT:
        return replace(exact, stats=stats)
    if rough.inputs is None or exact.inputs is None or not bool(exact.certified.any()):
        return replace(rough, stats={**stats, "exactify": exact.reason})
    inputs = rough.inputs.clone()
    labels = torch.full((len(inputs),), -1) if rough.labels is None else rough.labels.clone()
    certified = torch.zeros(len(inputs), dtype=torch.bool)
    for index in exact.certified.nonzero().flatten().tolist():
        distance = (inputs - exact.inputs[index]).flatten(1).norm(dim=1)
        place = int(distance.masked_fill(certified.to(distance.device), torch.inf).argmin())
        if bool(certified[place]):  # more exact examples than guesses
            continue
        inputs[place], certified[place] = exact.inputs[index], True
        if exact.labels is not None:
            labels[place] = exact.labels[index]
    reason = f"{rough.reason} Rounded at a ReLU layer: {int(certified.sum())} of {len(inputs)} became exact.".strip()
    return replace(rough, inputs=inputs, labels=labels, certified=certified, reason=reason, stats=stats)
