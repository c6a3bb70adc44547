"""Gradient matching: a walk to inputs whose gradient looks like the update.

Nothing here certifies: a small distance is no proof, so the outcome is never EXACT.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from seepage.attacks.budget import Budget
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.walk.descents import LBFGS, Optimizer
from seepage.attacks.walk.distances import Distance, Squared
from seepage.attacks.walk.objective import make_objective, twice_differentiable
from seepage.attacks.walk.priors import Prior
from seepage.attacks.walk.unknowns import Unknowns, Unready, prepare
from seepage.attacks.walk.unrolling import unrolling_obstacle
from seepage.attacks.walk.walking import Walk
from seepage.types import NOT_BEGUN, Attack, Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["GradientMatching"]

_MATCHED = 1e-8  # nearer to a float64 update no pixel changes any more


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientMatching:
    """Walks from noise (or from another attack's reconstruction) to inputs whose gradient is the update.

    Approximate: ``stats`` hold the matching loss and ``residual``, the relative distance of the gradients. FAILED if
    the walk diverges or no start comes nearer to the update than it was.

    Args:
        name: how it is written on the command line and in findings.
        distance: of gradients.
        optimizer: the walk, with the iterations of one start.
        priors: added to the distance, weighted by the step's decay, so that they guide at first and bias nothing at
            the end. From another attack's reconstruction they are weighted by its distance too: near a good start a
            prior of full weight would lead away.
        labels: restores what the observation does not hold; ``None``: labels are walked along as probabilities.
        start: another attack whose reconstruction is the first start, such as GIT; further starts are noise.
        starts: how many at most. Walked at once where the optimizer can, else until one matches.
        last: walks the last start once more where none matched, from its noise; ``None``: nothing does.
        matched: ``residual``, in rounding units of the update's dtype, at which a start has arrived.
        double: compute in float64 whatever the update's precision.
        budget: iterations of all starts together, and seconds.

    Reference:
        Zhu, Liu, Han 2019 (DLG); Zhao, Mopuri, Bilen 2020 (iDLG); Geiping et al. 2020 (Inverting Gradients).
    """

    name: str = "matching"
    distance: Distance = field(default_factory=Squared)
    optimizer: Optimizer = field(default_factory=LBFGS)
    priors: tuple[Prior, ...] = ()
    labels: Attack | None = None
    start: Attack | None = None
    starts: int = 1
    last: Optimizer | None = None
    matched: float = 32.0
    double: bool = False
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"`starts` should be at least 1; found {self.starts}.")
        if not self.matched >= 0:
            raise ValueError(f"`matched` should be at least 0; found {self.matched}.")

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs a gradient or local steps of SGD, and a batch size that is known or restorable."""
        latest, found = observation.latest, []
        if not any(name in latest.update for name, _ in latest.network.named_parameters()):
            found.append(Obstacle(where="update", reason="holds the gradient of no parameter of the network."))
        blocked = unrolling_obstacle(observation)
        found += [] if blocked is None else [blocked]
        if latest.known_size is None:
            found += (self.labels or RestoreLabels()).obstacles(observation)
        if self.start is not None:
            found += self.start.obstacles(observation)
        return found

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """See the class."""
        started = time.monotonic()
        objective = make_objective(
            observation,
            distance=self.distance,
            priors=self.priors,
            dtype=torch.float64 if self.double else None,
        )
        if not any(bool(part.any()) for part in objective.target):
            return Reconstruction(outcome=Outcome.FAILED, reason="The update is zero everywhere: it holds nothing.")
        unknowns = prepare(
            observation,
            objective,
            labels=self.labels,
            start=self.start,
            starts=self.starts,
            generator=generator,
            progress=progress,
        )
        if isinstance(unknowns, Unready):
            return Reconstruction(
                outcome=Outcome.FAILED, reason=unknowns.reason, stats={} if unknowns.begun else {"stopped": NOT_BEGUN}
            )
        blocked = unrolling_obstacle(observation, unknowns.inputs.shape[1])
        if blocked is not None:
            return Reconstruction(outcome=Outcome.FAILED, reason=f"The {blocked}", stats=unknowns.stats)
        walk = self._walk(observation, generator, progress, started)
        with twice_differentiable(), torch.enable_grad():
            for number, (group, optimizer) in enumerate(self._groups(unknowns)):
                b = group.inputs.shape[1]
                walk.go(group, optimizer, objective if number == 0 else objective.shuffled(b, generator))
                if walk.stopped or walk.fits():
                    break
        stats = {"starts": self.starts, **unknowns.stats}
        dtype = next(iter(observation.latest.update.values())).dtype
        return walk.result(stats, dtype, keeps_start=self.start is not None)

    def _walk(self, observation: Observation, generator: torch.Generator, progress: Progress, started: float) -> Walk:
        eps = torch.finfo(next(iter(observation.latest.update.values())).dtype).eps
        return Walk(
            budget=self.budget,
            matched=max(self.matched * eps, _MATCHED),
            rounding=_rounding(observation),
            total=self.optimizer.iterations * (1 if self.optimizer.together else self.starts)
            + (0 if self.last is None else self.last.iterations),
            generator=generator,
            progress=progress,
            started=started,
        )

    def _groups(self, unknowns: Unknowns) -> Iterator[tuple[Unknowns, Optimizer]]:
        if self.optimizer.together:
            yield unknowns, self.optimizer
        else:
            yield from ((unknowns.only(index), self.optimizer) for index in range(self.starts))
        noise = unknowns.only(self.starts - 1)
        if self.last is not None and not noise.given:
            yield noise, self.last


def _rounding(observation: Observation) -> float:
    """The residual that rounding leaves to the truth itself, where the update is a difference of weights."""
    latest, rule = observation.latest, observation.rule
    start = dict(latest.network.named_parameters())
    rough = sum(
        value.numel() * rule.rounding(start[name], batch_size=latest.batch_size) ** 2
        for name, value in latest.update.items()
        if rule is not None and name in start
    )
    return math.sqrt(rough / sum(float(value.double().square().sum()) for value in latest.update.values()))
