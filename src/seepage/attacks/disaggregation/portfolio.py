"""Several ways to propose directions that take turns: the one that finds most for its work goes on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from seepage.attacks.disaggregation.found import Found, Proposals
from seepage.attacks.disaggregation.mixture import Mixture

__all__ = ["Arm", "InTurn", "Turns", "take_turns"]

_FALLEN = 0.5  # share of the first yield below which something else is tried
_LONGEST = 4  # times the effort an arm begins with
_IN_VAIN = 6  # rounds of all arms in a row without a new direction, the longest among them, after which none will come


class Arm(Protocol):
    """One way to propose; ``effort`` (1, 2, 4) asks for a longer run where that exists."""

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InTurn:
    """One arm made of two: one while many examples are missing, the other after.

    Args:
        early: the first.
        late: the second.
        most: examples missing for which the second is better.
    """

    early: Arm
    late: Arm
    most: int

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn of one of them."""
        arm = self.late if mixture.batch_size - len(found) <= self.most else self.early
        return arm(mixture, found, generator, effort=effort)


def take_turns(arms: Sequence[Arm], mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:
    """Proposals of one arm after the other, with more effort once none finds anything, until none does for long."""
    effort, in_vain = 1, 0
    while in_vain < _IN_VAIN:
        known = found.accepted
        turns = Turns(arms=len(arms))
        while not turns.idle:
            before, arm = found.accepted, turns.choose()
            proposals = arms[arm](mixture, found, generator, effort=effort)
            yield proposals
            turns.learn(arm, (found.accepted - before) / max(proposals.work, 1.0))
        in_vain = in_vain + 1 if found.accepted == known else 0
        effort = min(_LONGEST, 2 * effort)


@dataclass(slots=True, kw_only=True)
class Turns:
    """Yields of several arms, in new directions for a unit of work; no clock, so that a seed decides everything.

    The first arm goes first. The best so far goes on until it yields less than half of what the first turn did; then
    arms that had no turn yet get one.

    Args:
        arms: how many.
    """

    arms: int
    _rates: dict[int, float] = field(default_factory=dict)
    _first: float | None = None

    @property
    def idle(self) -> bool:
        """Whether every arm had a turn and none found anything in its latest."""
        return len(self._rates) == self.arms and max(self._rates.values()) == 0.0

    def choose(self) -> int:
        """The arm whose turn it is."""
        untried = [arm for arm in range(self.arms) if arm not in self._rates]
        best = max(self._rates, key=lambda arm: self._rates[arm], default=None)
        if best is None or (untried and self._rates[best] <= _FALLEN * (self._first or 0.0)):
            return untried[0]
        return best

    def learn(self, arm: int, rate: float) -> None:
        """Note what the arm's latest turn yielded."""
        self._rates[arm] = rate
        if self._first is None:
            self._first = rate
