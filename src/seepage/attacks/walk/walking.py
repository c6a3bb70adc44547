"""The walk of gradient matching: steps, the best so far, when to stop, and what to say at the end."""

import math
import time

import torch
from torch import Tensor

from seepage.attacks.budget import SPENT, Budget
from seepage.attacks.walk.descents import Optimizer
from seepage.attacks.walk.objective import Objective
from seepage.attacks.walk.unknowns import Unknowns
from seepage.types import INTERRUPTED, Outcome, Progress, Reconstruction, Stats

__all__ = ["Walk"]

_LOOKS = 20  # times a start whether another order of a client's local batches fits better


class Walk:
    """One matching attack under way: the best so far, what was spent, and why it stopped.

    Args:
        budget: of all starts together.
        matched: the residual at which a start has arrived.
        rounding: the residual at which a further start is not worth while; fitting on, a walk still averages over it.
        total: most iterations, for ``progress``.
        generator: of orders of local batches to be tried.
        progress: asked after each step.
        started: the clock when the attack began.
    """

    def __init__(
        self,
        *,
        budget: Budget,
        matched: float,
        rounding: float,
        total: int,
        generator: torch.Generator,
        progress: Progress,
        started: float,
    ) -> None:
        self.budget, self.matched = budget, matched
        self.total, self.rounding, self.progress, self.started = total, rounding, progress, started
        self.generator = generator
        self.iterations, self.stopped = 0, ""
        self.least, self.first, self.residual = math.inf, math.inf, math.inf
        self.inputs: Tensor | None = None
        self.labels: Tensor | None = None
        self.kept_with: Objective | None = None  # of the best so far: local steps have another order in each start

    def go(self, start: Unknowns, optimizer: Optimizer, objective: Objective) -> None:
        """Walk a group of starts to its end."""
        self.objective = objective
        inputs = start.inputs.clone().requires_grad_()
        logits = None if start.logits is None else start.logits.clone().requires_grad_()
        variables = [inputs] if logits is None else [inputs, logits]
        step = optimizer.begin(variables)
        taken, mark, marked, least, weight = 0, 0, math.inf, math.inf, 1.0
        look = max(1, optimizer.iterations // _LOOKS)
        scale: Tensor | None = None  # [s]

        def closure() -> Tensor:
            nonlocal least, scale
            labels = start.labels if logits is None else logits.softmax(-1)
            distance, prior = self.objective(inputs, labels)
            least = min(least, self._keep(distance.detach(), inputs, labels))
            if scale is None:
                scale = _prior_scale(distance.detach(), given=start.given)
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
            looks = taken // look > (taken - moved) // look
            if looks and self._reorder(inputs, start.labels if logits is None else logits.softmax(-1)):
                step = step if optimizer.together else optimizer.begin(variables)  # L-BFGS remembers the other order
            self._ask()

    def fits(self) -> bool:
        """Whether the best so far explains the update as well as the truth does."""
        if self.inputs is None or self.labels is None or self.kept_with is None:
            return False
        return self.kept_with.residual(self.inputs, self.labels) <= max(self.matched, self.rounding)

    def _keep(self, distance: Tensor, inputs: Tensor, labels: Tensor) -> float:
        """Remember the best of ``distance [s]``; returns it."""
        usable = distance.nan_to_num(nan=torch.inf)
        index = int(usable.argmin())
        value = float(usable[index])
        if not math.isfinite(self.first):
            self.first = value
        if value < self.least:
            self.least, self.kept_with = value, self.objective
            self.inputs, self.labels = inputs[index].detach().clone(), labels[index].detach().clone()
        return value

    def _reorder(self, inputs: Tensor, labels: Tensor) -> bool:
        """Whether the first of the starts fits better with its examples in other local batches of the client."""
        before = self.objective
        if before.unrolled is None:
            return False
        self.objective = before.reordered(inputs[0].detach(), labels[0].detach(), self.generator)
        return self.objective is not before

    def _arrived(self) -> bool:
        # Half the squared angle and the squared distance are both of the order of the residual's square.
        if self.inputs is None or self.labels is None or self.kept_with is None or self.least > 10 * self.matched**2:
            return False
        self.residual = self.kept_with.residual(self.inputs, self.labels)
        return self.residual <= self.matched

    def _ask(self) -> None:
        if self.budget.spent(self.iterations, time.monotonic() - self.started):
            self.stopped = SPENT
        if not self.progress(self.iterations, self.total, f"matching loss {self.least:.2e}"):
            self.stopped = INTERRUPTED

    def result(self, said: Stats, dtype: torch.dtype, *, keeps_start: bool) -> Reconstruction:
        """What was found, in the caller's precision and valid range.

        Args:
            said: for ``stats``.
            dtype: of the caller.
            keeps_start: the start is a result, even if no step came nearer to the update.
        """
        stats: Stats = {"iterations": self.iterations, **said}
        # Another attack's reconstruction may be as near as one can get: then it is the result.
        nearer = self.least < self.first or keeps_start
        if self.inputs is None or self.labels is None or self.kept_with is None or not nearer:
            ended = f"Stopped because {self.stopped}. " if self.stopped else ""
            what = "The descent diverged" if self.inputs is None else "No start came nearer to the update than it was"
            cause = "the budget may be too small, " if self.stopped == SPENT else ""
            return Reconstruction(
                outcome=Outcome.FAILED,
                reason=f"{ended}{what}: {cause}the update may be noised or sparsified, or the step too large; try "
                "another attack.",
                stats={**stats, "stopped": self.stopped or "it diverged"},
            )
        self.residual = self.kept_with.residual(self.inputs, self.labels)
        inputs = self.inputs
        if self.kept_with.bounds is not None:
            inputs = inputs.clamp(*self.kept_with.bounds)
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


def _prior_scale(distance: Tensor, *, given: bool) -> Tensor:
    """``[s]``: what priors are weighted by; near another attack's reconstruction, by its ``distance [s]``."""
    scale = torch.ones_like(distance)
    if given:
        scale[0] = distance[0].nan_to_num(nan=1.0).clamp(max=1.0)
    return scale
