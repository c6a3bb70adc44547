"""What a search has: the directions accepted so far, those beside them, and proposals for more."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from seepage.attacks.disaggregation.mixture import Mixture
from seepage.linalg.nullspace import MOST_LEVERAGE

__all__ = ["Found", "Kept", "Proposals", "Proposer", "independent"]

_LATEST = slice(-512, None)  # of those beside
_LIKELY = 0.97  # leverage; an accident, which makes a combination determined, has all but 1
_MOST_REFUSED = 4096  # remembered; each candidate is compared with all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Directions, and what is known of each.

    Args:
        directions: ``[k, b]`` unit directions.
        zeros: ``[k]`` zeros of each.
        leverage: ``[k]``: how much each hangs on one of its zeros (:func:`seepage.linalg.nullspace.largest_leverage`).
        replayed: ``[k]`` bool: the network itself gives it as the error of an input that later layers confirm.
    """

    directions: Tensor
    zeros: Tensor
    leverage: Tensor
    replayed: Tensor

    @classmethod
    def none(cls, like: Tensor) -> "Kept":
        """No direction, of the size of ``like [..., b]``."""
        zeros = torch.zeros(0, dtype=torch.int64)
        none = like.new_zeros(0, like.shape[-1])
        return cls(directions=none, zeros=zeros, leverage=zeros.double(), replayed=zeros.bool())

    @property
    def pinned(self) -> Tensor:
        """``[k]`` bool: by zeros to spare. Of the others only the whole batch is a proof (docs/decisions/0012)."""
        return self.leverage <= MOST_LEVERAGE

    def __len__(self) -> int:
        return len(self.directions)

    def at(self, index: Tensor | slice) -> "Kept":
        """Some of them."""
        place = index.to(self.directions.device) if isinstance(index, Tensor) else index
        return Kept(
            directions=self.directions[place],
            zeros=self.zeros[index],
            leverage=self.leverage[index],
            replayed=self.replayed[index],
        )

    def and_then(self, *others: "Kept") -> "Kept":
        """These, then others."""
        return Kept(
            directions=torch.cat([self.directions, *(one.directions for one in others)]),
            zeros=torch.cat([self.zeros, *(one.zeros for one in others)]),
            leverage=torch.cat([self.leverage, *(one.leverage for one in others)]),
            replayed=torch.cat([self.replayed, *(one.replayed for one in others)]),
        )

    @property
    def likeliest_first(self) -> Tensor:
        """``[k]`` indices: what later layers confirm, what zeros to spare determine, and then by how many zeros."""
        rank = self.zeros + (int(self.zeros.max()) + 1 if len(self) else 0) * (self.pinned + 2 * self.replayed)
        return rank.argsort(descending=True, stable=True)


@dataclass(slots=True, kw_only=True)
class Found:
    """Directions accepted so far; the frame writes, proposers read.

    Args:
        kept: *pinned* or nearly, and linearly independent: as many as examples are found.
        narrow: determined, and no combination of ``kept``, but a zero less and they would not be: examples with few
            zeros, or accidents. The search goes on as if there were none.
        spare: accepted too, but combinations of ``kept`` up to rounding: one of them all is no example's.
        aside: *pinned*, but no input explains their zeros: true if zeros come from elsewhere (pruned networks).
        refused: ``[r, b]`` the latest sparse directions that were rejected, so that none is tried again.
        rejected: how many were not determined, or no input explains their zeros: combinations of examples, mostly.
        confirmed: how often later layers confirmed what zeros had found.
    """

    kept: Kept
    narrow: Kept
    spare: Kept
    aside: Kept
    refused: Tensor
    rejected: int = 0
    confirmed: int = 0

    @classmethod
    def nothing(cls, like: Tensor) -> "Found":
        """At the start; directions are of the size and kind of the rows of ``like [..., b]``."""
        none = Kept.none(like)
        return cls(kept=none, narrow=none, spare=none, aside=none, refused=none.directions)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def directions(self) -> Tensor:
        """``[f, b]``: unit, linearly independent, one an example."""
        return self.kept.directions

    @property
    def accepted(self) -> int:
        """Steps on the way; of narrow and spare directions, accidents by the hundred, as many as there are examples."""
        b = self.kept.directions.shape[1]
        return len(self.kept) + self.confirmed + min(len(self.narrow), b) + min(len(self.spare), b)

    def add(self, accepted: Kept, *, apart: Tensor) -> Tensor:
        """Each to its own kind; one that is not independent, which would pass for an example, to the spare.

        Args:
            accepted: ``k`` directions.
            apart: ``[k]`` the part outside of the others that makes a direction independent.

        Returns:
            ``[k]`` bool: which are independent.
        """
        basis = torch.linalg.qr(self.directions.T).Q.T  # [f, b]
        sure = (accepted.leverage <= _LIKELY) | accepted.replayed  # an example's, whatever its zeros say
        new = torch.zeros_like(sure)
        for index in (~sure).int().argsort(stable=True).tolist():
            rest = outside(basis, accepted.directions[index])
            new[index] = len(basis) < basis.shape[1] and float(rest.norm()) > float(apart[index])
            if new[index] and sure[index]:
                basis = torch.cat([basis, (rest / rest.norm())[None]])
        self.kept = self.kept.and_then(accepted.at(new & sure))
        self.narrow = self.narrow.and_then(accepted.at(new & ~sure)).at(_LATEST)
        self.spare = self.spare.and_then(accepted.at(~new)).at(_LATEST)
        return new

    def confirm(self, index: Tensor) -> None:
        """Later layers have confirmed the kept directions ``index [f]`` bool."""
        self.confirmed += int((index & ~self.kept.replayed).sum())
        self.kept = replace(self.kept, replayed=self.kept.replayed | index)

    def settle(self, apart: Callable[[Tensor], Tensor]) -> None:
        """Let replayed directions among the spare displace kept ones that depend on them, which are no example's.

        Args:
            apart: the part of each of ``[k, b]`` outside of others that makes it independent, ``[k]``.
        """
        everything = self.kept.and_then(self.spare)
        chosen = independent(everything.directions, everything.likeliest_first, apart(everything.directions))
        self.kept, self.spare = everything.at(chosen), everything.at(~chosen)

    @property
    def sure(self) -> "Found":
        """What later layers have confirmed alone, as if there were nothing else."""
        return replace(self, kept=self.kept.at(self.kept.replayed))

    def drop(self, index: Tensor) -> None:
        """Take kept directions ``index [f]`` bool out again: their examples are missing as before."""
        self.kept = self.kept.at(~index)

    def set_aside(self, inseparable: Kept) -> None:
        """Add to those aside; the latest stay."""
        self.aside = self.aside.and_then(inseparable).at(_LATEST)

    def refuse(self, directions: Tensor) -> None:
        """Remember ``[k, b]`` rejected directions; the latest stay."""
        self.refused = torch.cat([self.refused, directions])[-_MOST_REFUSED:]
        self.rejected += len(directions)

    def pool(self, *, aside: bool = False) -> Kept:
        """What a batch is chosen from; ``aside``: as if no input had been asked for."""
        enough = len(self.kept) >= self.kept.directions.shape[1]
        return self.kept.and_then(self.spare, *([] if enough else [self.narrow]), *([self.aside] if aside else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Some candidate directions.

    Args:
        directions: ``[k, b]``.
        cost: how many samples, starts or guesses they took: what a budget counts.
        work: multiplications they took, roughly: what a portfolio compares.
        replayed: whether each is the error that the network itself gives for some input, and is taken as it is.
    """

    directions: Tensor
    cost: int
    work: float = 1.0
    replayed: bool = False


class Proposer(Protocol):
    """Yields proposals for as long as it is asked; ``found`` grows meanwhile."""

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]: ...


def independent(directions: Tensor, order: Tensor, apart: Tensor) -> Tensor:
    """``[k]`` bool: those of ``directions [k, b]`` that lie farther than ``apart [k]`` outside of those before."""
    basis = directions[:0]
    chosen = torch.zeros(len(directions), dtype=torch.bool)
    for index in order.tolist():
        rest = outside(basis, directions[index])
        if len(basis) < directions.shape[1] and float(rest.norm()) > float(apart[index]):
            basis = torch.cat([basis, (rest / rest.norm())[None]])
            chosen[index] = True
    return chosen


def outside(basis: Tensor, direction: Tensor) -> Tensor:
    """The part ``[b]`` of a direction that is orthogonal to ``basis [f, b]``, twice for rounding."""
    rest = direction - (basis @ direction) @ basis
    return rest - (basis @ rest) @ basis
