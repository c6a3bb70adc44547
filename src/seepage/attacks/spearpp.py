"""SPEAR++ (arXiv 2510.24200, 2025): exact batches of hundreds, directions found by sparse dictionary learning."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.directions import guess_rest, round_ends
from seepage.attacks.disaggregation.found import Found, Proposals, Proposer
from seepage.attacks.disaggregation.layerattack import LayerAttack
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.portfolio import Arm, take_turns
from seepage.attacks.spear import NullSampling
from seepage.linalg.dictionary import LogCosh, SparsityLoss, sparse_directions
from seepage.linalg.sphere import RiemannianAdam
from seepage.types import Observation

__all__ = [
    "SEARCHES",
    "Completion",
    "SPEARPlusPlus",
    "Search",
    "SphereSearch",
    "small_batch_arms",
]

_SAMPLED = 20  # examples up to which sampling is worth a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A sparsity loss and the descent that minimises it."""

    loss: SparsityLoss
    optimizer: RiemannianAdam


# From bold to gentle. A smooth loss and long steps leave bad ends and fall into the widest basins again and again; a
# sharp loss and short steps stay near the start, which lies in the complement of what is found.
SEARCHES = (
    Search(loss=LogCosh(), optimizer=RiemannianAdam()),
    Search(loss=LogCosh(start=1.0), optimizer=RiemannianAdam(steps=200, step_size=0.15)),
    Search(loss=LogCosh(start=0.7, end=0.02), optimizer=RiemannianAdam(steps=400, step_size=0.06, memory=0.99)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SPEARPlusPlus(LayerAttack):
    """Exact inversion of a whole batch: the columns of ``Q`` are the directions in which the rows of ``L`` are sparse.

    Runs start at rows of ``L`` and, once directions are known, in the complement of them, where the other examples are;
    ends are solved again from their smallest entries and handed to the frame, which accepts, chooses and certifies.
    Several searches take turns by what they find; runs get longer when none finds anything.

    Args:
        layer: path of the layer to attack; the first that fits if ``None``. An inner layer yields its inputs.
        searches: ways to search; what finds most has the next turn, and runs get longer when none finds anything.
        starts: runs in one round, ``None`` for twice the batch (128 to 512).
        budget: when to stop without a certificate; a sample is one start.

    Reference:
        SPEAR++: Scaling Gradient Inversion via Sparsely-Used Dictionary Learning, arXiv 2510.24200. Loss, starts in the
        complement and rounding by reselection are ours (docs/attacks/spearpp.md).
    """

    searches: tuple[Search, ...] = SEARCHES
    starts: int | None = None
    budget: Budget = field(default_factory=lambda: Budget(samples=200_000, seconds=600.0))

    def __post_init__(self) -> None:
        if self.starts is not None and self.starts < 1:
            raise ValueError(f"`starts` should be at least 1; found {self.starts}.")

    @property
    def name(self) -> str:
        """``spearpp``."""
        return "spearpp"

    def proposer(self, observation: Observation) -> Proposer:  # noqa: ARG002 - zeros alone fit any input
        """Searches on the sphere."""
        return self.propose

    def propose(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:
        """Ends of searches, a round at a time."""
        arms: list[Arm] = [SphereSearch(search=search, starts=self.starts) for search in self.searches]
        return take_turns([*arms, *small_batch_arms(mixture), Completion()], mixture, found, generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class SphereSearch:
    """One arm: runs from rows of ``L``, in the complement of what is found, and their ends, rounded.

    Args:
        search: loss and descent.
        starts: runs in one turn, ``None`` for twice the batch (128 to 512).
    """

    search: Search
    starts: int | None = None

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; runs are ``effort`` times as long."""
        U = mixture.white
        count = self.starts if self.starts is not None else min(max(2 * mixture.batch_size, 128), 512)
        optimizer = replace(self.search.optimizer, steps=effort * self.search.optimizer.steps)
        rows = torch.randperm(len(U), generator=generator, device=generator.device)[:count]
        starts = U[rows.to(U.device)]
        if 0 < len(found) < mixture.batch_size:
            basis = torch.linalg.qr(found.directions.T).Q.to(starts)  # [b, f]
            starts = starts - (starts @ basis) @ basis.T  # where runs begin; they may go anywhere
            starts = starts[starts.norm(dim=1) > 1e-4]
        ends = sparse_directions(U, starts, loss=self.search.loss, optimizer=optimizer)
        work = 2.0 * len(starts) * U.numel() * optimizer.steps
        return Proposals(directions=round_ends(mixture, found, ends), cost=count, work=work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One arm, for the last few examples: so few dimensions are left that random inputs are near enough.

    Args:
        most: examples missing above which it does not try.
        starts: guesses in one turn.
    """

    most: int = 16
    starts: int = 128

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; ``effort`` times as many guesses."""
        count = effort * self.starts
        if not 0 < mixture.batch_size - len(found) <= self.most:
            return Proposals(directions=found.directions[:0], cost=0)
        directions = guess_rest(mixture, found, generator, starts=count)
        return Proposals(directions=directions, cost=count, work=20.0 * count * mixture.L.numel() * mixture.batch_size)


def small_batch_arms(mixture: Mixture) -> list[Arm]:
    """Sampling, where it costs little: it finds what is too alike for a search, whose ends run together."""
    return [NullSampling()] if mixture.batch_size <= _SAMPLED else []
