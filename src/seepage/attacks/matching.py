"""Gradient matching: inputs whose gradient looks like the update; DLG, iDLG and Inverting Gradients are settings of it.

Nothing here certifies: a small distance is no proof, so the outcome is never EXACT.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seepage.attacks.descents import LBFGS, Adam, Optimizer
from seepage.attacks.disaggregation import Budget
from seepage.attacks.distances import Cosine, Distance, Squared
from seepage.attacks.labels_auto import RestoreLabels
from seepage.attacks.objective import Objective, make_objective, twice_differentiable
from seepage.attacks.priors import Prior, TotalVariation
from seepage.attacks.unknowns import Unknowns, prepare
from seepage.types import INTERRUPTED, Attack, Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["GradientMatching", "dlg", "idlg", "ig"]

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
    matched: float = 32.0
    double: bool = False
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"`starts` should be at least 1; found {self.starts}.")
        if not self.matched >= 0:
            raise ValueError(f"`matched` should be at least 0; found {self.matched}.")

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs a plain gradient of parameters of the network, and a batch size that is known or restorable."""
        latest, found = observation.latest, []
        if not any(name in latest.update for name, _ in latest.network.named_parameters()):
            found.append(Obstacle(where="update", reason="holds the gradient of no parameter of the network."))
        if observation.rule is not None and not observation.rule.is_gradient:
            reason = "sends no plain gradient; matching several local steps is not built yet."
            found.append(Obstacle(where=f"rule {observation.rule.name}", reason=reason))
        if latest.batch_size is None and latest.labels is None:
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
        if isinstance(unknowns, str):
            return Reconstruction(outcome=Outcome.FAILED, reason=unknowns)
        eps = torch.finfo(next(iter(observation.latest.update.values())).dtype).eps
        walk = _Walk(self, objective, progress, started, max(self.matched * eps, _MATCHED))
        with twice_differentiable(), torch.enable_grad():
            for group in self._groups(unknowns):
                walk.go(group)
                if walk.stopped or walk.residual <= walk.matched:
                    break
        return walk.result(unknowns, next(iter(observation.latest.update.values())).dtype)

    def _groups(self, unknowns: Unknowns) -> Iterator[Unknowns]:
        if self.optimizer.together:
            yield unknowns
        else:
            yield from (unknowns.only(index) for index in range(self.starts))


class _Walk:
    """One attack under way: the best so far, what was spent, and why it stopped."""

    def __init__(
        self, attack: GradientMatching, objective: Objective, progress: Progress, started: float, matched: float
    ) -> None:
        self.attack, self.objective, self.progress = attack, objective, progress
        self.started, self.matched = started, matched
        self.total = attack.optimizer.iterations * (1 if attack.optimizer.together else attack.starts)
        self.iterations, self.stopped = 0, ""
        self.least, self.first, self.residual = math.inf, math.inf, math.inf
        self.inputs: Tensor | None = None
        self.labels: Tensor | None = None

    def go(self, start: Unknowns) -> None:
        """Walk a group of starts to its end."""
        optimizer = self.attack.optimizer
        inputs = start.inputs.clone().requires_grad_()
        logits = None if start.logits is None else start.logits.clone().requires_grad_()
        variables = [inputs] if logits is None else [inputs, logits]
        step = optimizer.begin(variables)
        taken, mark, marked, least = 0, 0, math.inf, math.inf
        weight = 1.0
        scale: Tensor | None = None  # of the distances [s] at the start

        def closure() -> Tensor:
            nonlocal least, scale
            labels = start.labels if logits is None else logits.softmax(-1)
            distance, prior = self.objective(inputs, labels)
            least = min(least, self._keep(distance.detach(), inputs, labels))
            if scale is None:
                scale = torch.ones_like(distance.detach())
                if start.given:
                    scale[0] = distance.detach()[0].nan_to_num(nan=1.0).clamp(max=1.0)
            total = (distance + weight * scale * prior).sum()
            found = torch.autograd.grad(total, variables)
            for variable, gradient in zip(variables, found, strict=True):
                variable.grad = gradient.nan_to_num()
            return total.detach().nan_to_num(nan=torch.inf)

        while taken < optimizer.iterations and not self.stopped:
            weight = optimizer.rate_at(taken)
            moved = step(closure)
            taken, self.iterations = taken + moved, self.iterations + moved
            if optimizer.clamps and self.objective.bounds is not None:
                with torch.no_grad():
                    inputs.clamp_(*self.objective.bounds)
            if least < 0.99 * marked:
                mark, marked = taken, least
            if optimizer.patience is not None and taken - mark >= optimizer.patience:
                break
            if self._arrived() or not math.isfinite(least):
                break
            self._ask()

    def _keep(self, distance: Tensor, inputs: Tensor, labels: Tensor) -> float:
        """Remember the best of ``distance [s]``; returns it."""
        usable = distance.nan_to_num(nan=torch.inf)
        index = int(usable.argmin())
        value = float(usable[index])
        if not math.isfinite(self.first):
            self.first = value
        if value < self.least:
            self.least = value
            self.inputs, self.labels = inputs[index].detach().clone(), labels[index].detach().clone()
        return value

    def _arrived(self) -> bool:
        # Half the squared angle and the squared distance are both of the order of the residual's square.
        if self.inputs is None or self.labels is None or self.least > 10 * self.matched**2:
            return False
        self.residual = self.objective.residual(self.inputs, self.labels)
        return self.residual <= self.matched

    def _ask(self) -> None:
        budget = self.attack.budget
        if budget.samples is not None and self.iterations >= budget.samples:
            self.stopped = "the budget ended"
        if budget.seconds is not None and time.monotonic() - self.started >= budget.seconds:
            self.stopped = "the budget ended"
        if not self.progress(self.iterations, self.total, f"matching loss {self.least:.2e}"):
            self.stopped = INTERRUPTED

    def result(self, unknowns: Unknowns, dtype: torch.dtype) -> Reconstruction:
        """What was found, in the caller's precision and valid range."""
        stats: dict[str, float | int | str | bool] = {
            "iterations": self.iterations,
            "starts": self.attack.starts,
            **unknowns.stats,
        }
        # Another attack's reconstruction may be as near as one can get: then it is the result.
        nearer = self.least < self.first or self.attack.start is not None
        if self.inputs is None or self.labels is None or not nearer:
            reason = (
                "The descent diverged: " if self.inputs is None else "No start came nearer to the update than it was: "
            )
            return Reconstruction(
                outcome=Outcome.FAILED,
                reason=reason + "the update may be noised or sparsified, or the step too large; try another attack.",
                stats={**stats, "stopped": self.stopped or "it diverged"},
            )
        self.residual = self.objective.residual(self.inputs, self.labels)
        inputs = self.inputs
        if self.objective.bounds is not None:
            inputs = inputs.clamp(*self.objective.bounds)
        labels = self.labels.argmax(-1) if self.labels.is_floating_point() else self.labels
        arrived = self.residual <= self.matched
        stopped = self.stopped or ("the update is matched" if arrived else "its iterations ended")
        return Reconstruction(
            outcome=Outcome.APPROXIMATE,
            inputs=inputs.to(dtype),
            labels=labels,
            certified=torch.zeros(len(inputs), dtype=torch.bool),
            reason=(
                f"Stopped because {stopped}; the gradient of what was found differs from the update by "
                f"{self.residual:.1e} of its size, which proves nothing."
            ),
            stats={**stats, "loss": self.least, "residual": self.residual, "stopped": stopped},
        )


def dlg(
    *, budget: Budget | None = None, starts: int = 8, start: Attack | None = None, name: str = "dlg"
) -> GradientMatching:
    """Deep Leakage from Gradients (Zhu et al., NeurIPS 2019): squared distance, L-BFGS, labels walked along."""
    return GradientMatching(name=name, double=True, starts=starts, start=start, budget=budget or Budget())


def idlg(
    *,
    labels: Attack | None = None,
    budget: Budget | None = None,
    starts: int = 8,
    start: Attack | None = None,
    name: str = "idlg",
) -> GradientMatching:
    """Improved DLG (Zhao et al. 2020): DLG with labels restored first, of batches too."""
    return GradientMatching(
        name=name,
        double=True,
        labels=labels or RestoreLabels(),
        starts=starts,
        start=start,
        budget=budget or Budget(),
    )


def ig(
    *,
    labels: Attack | None = None,
    iterations: int = 2000,
    step: float = 0.1,
    total_variation: float = 1e-4,
    starts: int = 1,
    start: Attack | None = None,
    budget: Budget | None = None,
    name: str = "ig",
) -> GradientMatching:
    """Inverting Gradients (Geiping et al., NeurIPS 2020): cosine, signed Adam with a decaying step, total variation.

    Args:
        labels: restores them; :class:`RestoreLabels` if ``None``.
        iterations: of each start.
        step: the first; smaller where a start is near the inputs already.
        total_variation: weight of that prior at the first step.
        starts: walked at once.
        start: another attack whose reconstruction is the first start.
        budget: when to stop earlier.
        name: as findings should call it.
    """
    return GradientMatching(
        name=name,
        distance=Cosine(),
        optimizer=Adam(iterations=iterations, step=step),
        priors=(TotalVariation(weight=total_variation),),
        labels=labels or RestoreLabels(),
        starts=starts,
        start=start,
        budget=budget or Budget(),
    )
