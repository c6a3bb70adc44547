"""Any rough reconstruction made exact, where a linear layer allows it (PRISM, steps 2 and 3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_layer
from seepage.attacks.disaggregation.directions import round_inputs
from seepage.attacks.disaggregation.found import Found, Proposals, Proposer
from seepage.attacks.disaggregation.layerattack import invert_layer
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.portfolio import Arm
from seepage.attacks.disaggregation.spans import read_spans
from seepage.attacks.disaggregation.spansearch import SpanSearch, random_guesses
from seepage.attacks.spearpp import Completion
from seepage.types import INTERRUPTED, Attack, Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["Exactify"]

_LEFT = 0.1  # of a guess's length outside of what is found, below which it was a guess of that
_LONGEST = 4  # times the effort that a turn begins with


@dataclass(frozen=True, slots=True, kw_only=True)
class Exactify:
    """Runs an attack, then takes its inputs as guesses at a linear layer and rounds them to the client's own.

    A guess says which units its example switches off, and those determine the example's direction, exactly; what is
    exact leaves the mixture, and the guesses that remain are rounded again in what is left of it. Where units are too
    few for that, later layers say where to move it (:class:`~seepage.attacks.disaggregation.spansearch.SpanSearch`).
    White noise of 8 dB is near enough to start from (benchmarks/results/exactify.md).

    Args:
        attack: whatever reconstructs inputs of the network.
        layer: a layer that goes into a ReLU, or any if later ones are wider than the batch; the first that fits if
            ``None``. It has to be the first layer of the network.
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
        """Those of the attack; a network without a layer that fits leaves its reconstruction as it is."""
        return self.attack.obstacles(observation)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """EXACT if every example became exact; else what the attack returned, with the exact ones in their places."""
        rough = self.attack(observation, generator=generator, progress=progress)
        over = rough.outcome is Outcome.EXACT or rough.stats.get("stopped") == INTERRUPTED
        if over or rough.inputs is None or rough.layer:
            return rough
        layer = find_layer(observation, self.layer)
        if not isinstance(layer, AttackedLayer):
            return _noted(rough, f"no layer to round at ({'; '.join(map(str, layer))})")
        if not layer.reads_input:
            return _noted(rough, f"layer {layer.name} is not the first: what was reconstructed are not its inputs")
        exact = invert_layer(
            observation,
            guesses_first(rough.inputs, observation),
            layer=self.layer,
            find=find_layer,
            budget=self.budget,
            generator=generator,
            progress=progress,
        )
        return _merged(rough, exact)


def guesses_first(inputs: Tensor, observation: Observation) -> Proposer:
    """Proposes directions of rough ``inputs [k, *shape]``, again after each growth, then of random ones; then longer.

    Guesses are rounded to the units that they switch off, and where that finds no more, moved until what they cause in
    later layers lies in the row spaces of those gradients.
    """

    def propose(mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:
        rough = Rough(inputs=inputs.flatten(1).double() @ mixture.factors.right.T)
        spans = cache(partial(read_spans, observation, mixture, generator))
        near = SpanSearch(spans=spans, guess=rough.left, patient=True)
        anywhere = SpanSearch(spans=spans, guess=random_guesses)
        arms: list[Arm] = [rough, near, Completion(), anywhere] if mixture.layer.relu else [near, anywhere]
        effort = 1
        while len(found) < mixture.batch_size and effort <= _LONGEST:
            before = len(found)
            for arm in arms:
                yield arm(mixture, found, generator, effort=effort)
                if len(found) > before:
                    break
            effort = 1 if len(found) > before else 2 * effort

    return propose


@dataclass(frozen=True, slots=True, kw_only=True)
class Rough:
    """One arm: the guesses, rounded in what is left of the mixture.

    Args:
        inputs: ``[k, b]`` as ``p`` of ``x = right^T p``: what lies off the row space is gone.
    """

    inputs: Tensor

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; of any ``effort``."""
        left = self.left(mixture, found, generator)
        return Proposals(directions=round_inputs(mixture, left), cost=max(len(left), effort))

    def left(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Tensor:
        """Those of examples that are still missing, ``[k', b]``, in random order."""
        basis = mixture.missing(found.directions)
        left = (self.inputs @ basis.T) @ basis
        kept = left[left.norm(dim=1) > _LEFT * self.inputs.norm(dim=1)]
        return kept[torch.randperm(len(kept), generator=generator, device=generator.device).to(kept.device)]


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
        distance = (inputs - exact.inputs[index]).flatten(1).double().norm(dim=1)  # squares of float32 may overflow
        place = int(distance.masked_fill(certified.to(distance.device), torch.inf).argmin())
        if bool(certified[place]):  # more exact examples than guesses
            continue
        inputs[place], certified[place] = exact.inputs[index], True
        if exact.labels is not None:
            labels[place] = exact.labels[index]
    became = f"Rounded at layer {exact.stats['layer']}: {int(certified.sum())} of {len(inputs)} became exact."
    reason = f"{rough.reason} {became} {exact.reason}".strip()
    return replace(rough, inputs=inputs, labels=labels, certified=certified, reason=reason, stats=stats)
