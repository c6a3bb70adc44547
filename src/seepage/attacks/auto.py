"""The strongest attack that fits: exact at a linear layer or for one image of a transformer, else gradient matching."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_input_layer, find_layer, find_relu_layer
from seepage.attacks.disaggregation.found import Found, Proposals
from seepage.attacks.disaggregation.layerattack import LayerAttack, invert_layer
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.matching import ig, refined
from seepage.attacks.prism import PRISM
from seepage.attacks.solvedgit import SolvedGIT
from seepage.attacks.spear import SPEAR
from seepage.attacks.spearpp import SPEARPlusPlus
from seepage.attacks.vitpatches import ViTPatches
from seepage.types import (
    INTERRUPTED,
    NOT_BEGUN,
    Attack,
    Observation,
    Obstacle,
    Outcome,
    Progress,
    Reconstruction,
    Stats,
    go_on,
)

__all__ = ["Auto", "choose_attack"]

_AMPLE = 6.0  # units an example from which even a small batch has zeros enough for all
_PLENTY = 12.0  # units an example from which the search on zeros alone is the quickest (benchmarks/results/phase.md)
_SOLVED = 1e-3  # of the update, unexplained: beyond it there is noise, and matching takes all of the gradient
_FEW = 8  # examples up to which SPEAR is through at its first draws (benchmarks/results/spearpp.md)

_PROPOSERS: dict[str, LayerAttack] = {attack.name: attack for attack in (SPEAR(), SPEARPlusPlus(), PRISM())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """At a ReLU layer the exact attack that :func:`choose_attack` names from the gradient's rank; elsewhere matching.

    Where no layer goes into a ReLU, PRISM takes the first one if it is linear and later ones are wider than the batch.
    Else one image of a vision transformer is solved for, and certified if rounding allows. Else gradients are matched,
    for one example from the solved recursion of GIT where that fits. That needs the batch size, known or restored.

    Args:
        layer: path of the layer to attack; the first that fits if ``None``. An inner layer yields its inputs.
        budget: when to stop without a certificate; what is tried after spans has what they leave, a tenth at least.
        inverts: whether layers are inverted before gradients are matched.
    """

    layer: str | None = None
    budget: Budget = field(default_factory=lambda: Budget(seconds=600.0))
    inverts: bool = True

    @property
    def name(self) -> str:
        """``auto``."""
        return "auto"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """Why no layer of the network fits, and why gradients cannot be matched; empty if either can be done."""
        if not self.inverts:
            return ig().obstacles(observation)
        layer = find_layer(observation, self.layer)
        if isinstance(layer, AttackedLayer):
            return []
        if self.layer is not None:  # that layer was asked for, nothing else
            return layer
        unmatched = ig().obstacles(observation)
        return [*layer, *unmatched] if unmatched else []

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """What the chosen attack returns; ``stats`` say which it was (``chosen``) and why (``because``)."""
        started = time.monotonic()
        if not self.inverts:
            return self._matched(observation, generator, progress, started=started)
        layer, spanned = find_relu_layer(observation, self.layer), None
        if not (isinstance(layer, AttackedLayer) and layer.reads_input):
            spanned = self._spanned(observation, generator, progress)
            if spanned is not None and (self.layer is not None or _is_over(spanned)):
                return spanned
        if isinstance(layer, AttackedLayer):
            return self._disaggregated(observation, generator, progress)
        samples = 0 if spanned is None else int(spanned.stats.get("samples", 0))
        matched = self._matched(observation, generator, progress, started=started, samples=samples)
        if spanned is None or spanned.inputs is None or matched.stats.get("stopped") != NOT_BEGUN:
            return matched
        return replace(spanned, reason=f"{spanned.reason} {matched.reason}")

    def by_the_way_of(self, found: Mapping[str, object]) -> "Auto":
        """Itself, or if a run whose ``stats`` are ``found`` matched gradients, one that does nothing else.

        A positive control that inverts a layer says nothing of gradients that were matched, nor does one that has more
        time for it.
        """
        chosen, share = found.get("chosen"), found.get("budget_share")
        if chosen is None or chosen in _PROPOSERS:
            return self
        return replace(self, inverts=False, budget=self.budget.part(share) if isinstance(share, float) else self.budget)

    def _disaggregated(
        self, observation: Observation, generator: torch.Generator, progress: Progress
    ) -> Reconstruction:
        choice: list[tuple[str, str]] = []

        def propose(mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:
            shape = observation.input_shape if mixture.layer.reads_input else ()
            units = len(mixture.L)
            choice.append(choose_attack(mixture.batch_size, units, shape, noisy=mixture.noisy))
            return _PROPOSERS[choice[0][0]].proposer(observation)(mixture, found, generator)

        result = invert_layer(
            observation,
            propose,
            layer=self.layer,
            budget=self.budget,
            generator=generator,
            progress=progress,
        )
        if not choice:  # the gradient could not be factored: nothing was run
            return result
        attack, because = choice[0]
        return replace(result, stats={**result.stats, "chosen": attack, "because": because})

    def _spanned(
        self, observation: Observation, generator: torch.Generator, progress: Progress
    ) -> Reconstruction | None:
        """The network's own inputs from a layer that goes into no ReLU; ``None`` if there is none that fits."""
        first = find_input_layer(observation, self.layer)
        if not isinstance(first, AttackedLayer):
            return None
        attack = PRISM(layer=first.name, budget=self.budget)
        found = attack(observation, generator=generator, progress=progress)
        because = "the gradients of later layers span the activations of the batch and of no other input"
        return replace(found, stats={**found.stats, "chosen": attack.name, "because": because})

    def _matched(
        self,
        observation: Observation,
        generator: torch.Generator,
        progress: Progress,
        *,
        started: float,
        samples: int = 0,
    ) -> Reconstruction:
        """Gradients matched, with what is left of the budget after ``samples`` and the time since ``started``."""
        patches = ViTPatches()
        has_patches = not patches.obstacles(observation)
        if has_patches:
            solved = patches(observation, generator=generator, progress=progress)
            if solved.outcome is Outcome.EXACT or float(solved.stats.get("residual", 1.0)) < _SOLVED:
                because = "the errors at its patches are in the update, and the patches solve a linear system"
                return replace(solved, stats={**solved.stats, "chosen": patches.name, "because": because})
        chain = SolvedGIT()
        ways: list[tuple[Callable[[Budget], Attack], str]] = []
        if has_patches:
            ways.append((lambda left: refined(patches, budget=left), ", from the solved patches"))
        if observation.latest.known_size == 1 and not chain.obstacles(observation):
            ways.append((lambda left: refined(chain, budget=left), ", from the solved recursion"))
        ways.append((lambda left: ig(budget=left), ""))
        for make, start in ways:
            share = self.budget.share_left(samples, time.monotonic() - started)
            way = make(self.budget.part(share))
            result = way(observation, generator=generator, progress=progress)
            because = f"no layer tells its inputs apart by a ReLU or by later layers: gradients are matched{start}"
            said: Stats = {"chosen": way.name, "because": because}
            if share < 1:
                said |= {"budget_share": share, "because": f"{because}, in the {share:.0%} of the budget that was left"}
            result = replace(result, stats={**result.stats, **said})
            samples += int(result.stats.get("iterations", 0))
            if result.outcome is not Outcome.FAILED or result.stats.get("stopped") == INTERRUPTED:
                break
        return result


def _is_over(found: Reconstruction) -> bool:
    """Whether nothing else is tried beside the inputs ``found`` by spans: all are there, or the user has enough."""
    whole = found.inputs is not None and found.stats["directions"] == found.stats["batch_size"]
    return whole or found.outcome is Outcome.EXACT or found.stats.get("stopped") == INTERRUPTED


def choose_attack(batch_size: int, units: int, shape: tuple[int, ...], *, noisy: bool = False) -> tuple[str, str]:
    """Name of the attack to run, and why.

    Args:
        batch_size: rank of the layer's gradient.
        units: of the layer, those that some example woke.
        shape: of one input, ``()`` if the layer's inputs are not the network's.
        noisy: whether the gradient carries noise above rounding.
    """
    # Not under noise: a direction through a few units is off by as much as they are.
    if batch_size <= _FEW and units >= _AMPLE * batch_size and not noisy:
        return "spear", f"{batch_size} examples are found at once by sampling"
    if len(shape) > 1:
        return "prism", "images and signals can be unmixed by their derivatives"
    if units >= _PLENTY * batch_size:
        return "spearpp", f"{units / batch_size:.0f} units an example leave zeros enough to search for them alone"
    return "prism", f"at {units / batch_size:.1f} units an example zeros are found by the inputs that make them"
