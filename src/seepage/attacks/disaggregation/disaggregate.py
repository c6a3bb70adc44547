"""From directions to a certified batch: the one loop behind SPEAR, SPEAR++ and PRISM, which only propose.

The notation is that of :mod:`seepage.attacks.disaggregation.mixture`.
"""

import time

import torch
from torch.nn.functional import normalize

from seepage.attacks.budget import SPENT, Budget
from seepage.attacks.disaggregation.closing import MOST_SWAPS, choose
from seepage.attacks.disaggregation.conclusion import conclude
from seepage.attacks.disaggregation.directions import accept, accept_replayed, complete
from seepage.attacks.disaggregation.found import Found, Proposals, Proposer
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.replay import Replay
from seepage.attacks.disaggregation.solution import Solution, better
from seepage.types import INTERRUPTED, Observation, Progress, Reconstruction

__all__ = ["PATIENCE", "disaggregate"]

PATIENCE = 8192  # starts spent on better directions once there are enough of them
_MOST_DROPS = 4  # of directions that were found and do not fit
_UNLIKE = 1e-3  # relative distance of a replayed error from the disaggregated one
_SAME = 1 - 1e-9  # cosine of the same error
_LAST_FEW = 4  # examples missing, at random inputs of which it is quickest to guess at once


def disaggregate(
    mixture: Mixture,
    observation: Observation,
    propose: Proposer,
    *,
    budget: Budget,
    generator: torch.Generator,
    progress: Progress,
    patience: int = PATIENCE,
) -> Reconstruction:
    """Ask ``propose`` for directions until the batch is certified or the budget ends; return what there is.

    Args:
        mixture: of the attacked layer.
        observation: what the server saw.
        propose: the method.
        budget: when to stop without a certificate; its seconds end a fit as well.
        generator: all chance of the attack.
        progress: told about directions found, and asked whether to go on; within a fit as well.
        patience: samples to spend on better directions once there are enough of them.
    """
    search = _Search(mixture, observation, generator, budget, progress)
    stopped = search.run(propose, patience=patience)
    if stopped != INTERRUPTED:
        search.choose_again()
    return conclude(
        mixture,
        observation,
        search.solution,
        directions=len(search.found),
        rejected=search.found.rejected,
        cost=search.cost,
        stopped=stopped,
    )


class _Search:
    """The state of a disaggregation: directions found, what they cost, and the best batch made of them."""

    def __init__(
        self,
        mixture: Mixture,
        observation: Observation,
        generator: torch.Generator,
        budget: Budget,
        progress: Progress,
    ) -> None:
        self.mixture, self.observation, self.generator = mixture, observation, generator
        self.budget, self.progress, self.started = budget, progress, time.monotonic()
        self.found = Found.nothing(mixture.L)
        self.solution: Solution | None = None
        self.cost = 0
        self.enough_at: int | None = None
        self.drops = 0
        self.cut_short = ""

    def run(self, propose: Proposer, *, patience: int) -> str:
        """Take proposals until there is a reason to stop; the reason."""
        stopped = "there was nothing more to propose"
        for proposals in propose(self.mixture, self.found, self.generator):
            self._take(proposals)
            if self._evident:
                stopped = "the certificate holds" if self._certified else "all directions are true"
            elif self.cut_short:
                stopped = self.cut_short
            elif not self._told(f"directions found after {self.cost:,} samples"):
                stopped = INTERRUPTED
            elif self.enough_at is not None and (
                not self.mixture.layer.relu or self.cost > max(8 * self.enough_at, patience)
            ):  # without a ReLU no direction is better than another, once there are enough
                stopped = "no choice among the directions found certifies the whole batch"
            elif self.budget.spent(self.cost, time.monotonic() - self.started):
                stopped = SPENT
            else:
                continue
            break
        if self.solution is None and self.found.accepted:
            self._choose()
        return stopped

    def choose_again(self) -> None:
        """A last choice among all directions that there are, for batches that came out in part."""
        if (len(self.found.aside) or len(self.found.narrow)) and not self._evident:
            self._choose(aside=True)

    def _take(self, proposals: Proposals) -> None:
        mixture, found = self.mixture, self.found
        self.cost += proposals.cost
        grown = (accept_replayed if proposals.replayed else accept)(mixture, found, proposals.directions)
        if mixture.layer.relu and grown and 0 < mixture.batch_size - len(found) <= _LAST_FEW:
            complete(mixture, found, self.generator)
        if grown and len(found) >= mixture.batch_size:
            self.enough_at = self.enough_at or self.cost
            self._choose()
            if self.drops < _MOST_DROPS and not self._evident:
                self._drop_unconfirmed()
        elif grown and len(found) + len(found.narrow) >= mixture.batch_size:
            self._choose(swaps=0)

    def _drop_unconfirmed(self) -> None:
        """Drop replayed directions whose inputs the network does not confirm: one is wrong, and spoils the others.

        With few examples missing, later layers determine inputs that they left open when those were found. Without a
        ReLU nothing was left open.
        """
        mixture, kept, solution = self.mixture, self.found.kept, self.solution
        if solution is None or not isinstance(solution.replayed, Replay) or not mixture.layer.relu:
            return
        doubtful = solution.errors[solution.replayed.residual > _UNLIKE]  # [d, m]
        own = normalize(kept.directions @ mixture.factors.left.T, dim=1)
        likeness = (own @ normalize(doubtful, dim=1).T).abs()
        unconfirmed = (likeness > _SAME).any(dim=1).cpu() & kept.leverage.isinf()
        if bool(unconfirmed.any()):
            self.drops += 1
            self.found.drop(unconfirmed)

    def _choose(self, *, aside: bool = False, swaps: int = MOST_SWAPS) -> None:
        new = choose(
            self.mixture,
            self.observation,
            self.found,
            self.generator,
            goes_on=self._goes_on,
            aside=aside,
            swaps=swaps,
        )
        self.solution = better(self.solution, new)

    def _goes_on(self) -> bool:
        """Whether to go on in the middle of a fit, which takes time and no samples; why not stays known."""
        if not self.cut_short and not self._told("directions found, the batch is fitted to the whole update"):
            self.cut_short = INTERRUPTED
        elif self.budget.spent(0, time.monotonic() - self.started):
            self.cut_short = self.cut_short or SPENT
        return not self.cut_short

    def _told(self, note: str) -> bool:
        return self.progress(len(self.found), self.mixture.batch_size, note)

    @property
    def _evident(self) -> bool:
        return self.solution is not None and bool(self.solution.evident.all())

    @property
    def _certified(self) -> bool:
        return self.solution is not None and bool(self.solution.certified.all())
