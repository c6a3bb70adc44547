"""Optimizers as records: how a matching attack walks downhill."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LBFGS", "Adam", "Optimizer", "Step"]

Step = Callable[[Callable[[], Tensor]], int]
"""Steps: calls the closure, which puts gradients into the variables and returns the sum of the losses; says how often
it has stepped."""

_BURST = 5  # directions of L-BFGS between two looks at the clock: each burst repeats one gradient


class Optimizer(Protocol):
    """How to walk.

    ``together`` says whether several starts can be walked at once (each coordinate on its own) or only one by one;
    ``clamps`` whether the variables may be moved into the valid range after a step.
    """

    @property
    def iterations(self) -> int: ...

    @property
    def together(self) -> bool: ...

    @property
    def clamps(self) -> bool: ...

    @property
    def patience(self) -> int | None: ...

    def begin(self, variables: Sequence[Tensor]) -> Step: ...

    def rate_at(self, iteration: int) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LBFGS:
    """L-BFGS with a strong Wolfe line search. One iteration is one direction, some two gradients.

    Args:
        iterations: most directions of one start.
        patience: directions without an improvement by 1 % after which a start is given up.
        history: gradients remembered.
    """

    iterations: int = 300
    patience: int | None = 60
    history: int = 100

    @property
    def together(self) -> bool:
        """False: one line search for several starts would serve none."""
        return False

    @property
    def clamps(self) -> bool:
        """False: remembered gradients would belong to other points."""
        return False

    def begin(self, variables: Sequence[Tensor]) -> Step:
        """A step from the variables as they are."""
        walker = torch.optim.LBFGS(
            list(variables),
            max_iter=_BURST,
            max_eval=_BURST * 5,
            history_size=self.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def step(closure: Callable[[], Tensor]) -> int:
            walker.step(closure)  # type: ignore[no-untyped-call]
            return _BURST

        return step

    def rate_at(self, iteration: int) -> float:  # noqa: ARG002 - the line search decides
        """1: priors keep their weight."""
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Adam, on the sign of the gradient if wished, with a step that decays.

    Args:
        iterations: steps of one start.
        step: first step, in the units that the network sees.
        signed: use the sign of each entry only, as Inverting Gradients does.
        last_step: the step at the end; it falls geometrically from ``hold`` on.
        hold: share of the iterations during which the step stays what it was at first.
    """

    iterations: int = 2000
    step: float = 0.1
    signed: bool = True
    last_step: float = 1e-5
    hold: float = 0.5

    @property
    def together(self) -> bool:
        """True: every coordinate is walked on its own."""
        return True

    @property
    def clamps(self) -> bool:
        """True: its memory is short."""
        return True

    @property
    def patience(self) -> int | None:
        """None: while the step is large the loss stands still, which says nothing."""
        return None

    def begin(self, variables: Sequence[Tensor]) -> Step:
        """A step from the variables as they are; the schedule counts from here."""
        walker = torch.optim.Adam(list(variables), lr=self.step)
        taken = 0

        def step(closure: Callable[[], Tensor]) -> int:
            nonlocal taken
            closure()
            if self.signed:
                for variable in variables:
                    if variable.grad is not None:
                        variable.grad.sign_()
            walker.param_groups[0]["lr"] = self.step * self.rate_at(taken)
            walker.step()
            taken += 1
            return 1

        return step

    def rate_at(self, iteration: int) -> float:
        """Which share of its first length a step still has."""
        held = self.hold * self.iterations
        if iteration <= held:
            return 1.0
        through = min(1.0, (iteration - held) / max(1.0, self.iterations - held))
        return float((self.last_step / self.step) ** through)
