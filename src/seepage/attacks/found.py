"""What a search has: the directions accepted so far, those beside them, and proposals for more."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from seepage.attacks.mixture import Mixture

__all__ = ["Found", "Kept", "Proposals", "Proposer", "outside"]

_MOST_KEPT = 512


@dataclass(slots=True, kw_only=True)
class Kept:
    """Directions beside the main ones, for the choice at the end.

    Args:
        directions: ``[k, b]``.
        zeros: ``[k]`` zeros of each.
    """

    directions: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    zeros: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.directions)

    def add(self, directions: Tensor, zeros: Tensor) -> None:
        """Append; of very many the latest stay."""
        before = self.directions.reshape(-1, directions.shape[1]).to(directions)
        self.directions = torch.cat([before, directions])[-_MOST_KEPT:]
        self.zeros = torch.cat([self.zeros, zeros.cpu()])[-_MOST_KEPT:]


@dataclass(slots=True, kw_only=True)
class Found:
    """Directions accepted so far; the frame writes, proposers read.

    Args:
        directions: ``[f, b]`` unit directions, linearly independent: as many as examples are found.
        zeros: ``[f]`` zeros of each.
        spare: accepted too, but combinations of ``directions`` up to rounding: one of them all is no example's.
        aside: *pinned*, but no input explains their zeros: true if zeros come from elsewhere (pruned networks).
        refused: ``[r, b]`` the latest sparse directions that were rejected, so that none is tried again.
        rejected: how many were not pinned, or no input explains their zeros: combinations of examples, mostly.
    """

    directions: Tensor
    zeros: Tensor
    spare: Kept = field(default_factory=Kept)
    aside: Kept = field(default_factory=Kept)
    refused: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    rejected: int = 0

    def __len__(self) -> int:
        return len(self.directions)

    def add(self, directions: Tensor, zeros: Tensor, *, apart: Tensor) -> None:
        """Each of ``directions [k, b]`` to the independent ones or, else it would pass for an example, to the spare.

        Args:
            directions: unit.
            zeros: ``[k]`` of each.
            apart: ``[k]`` the part outside of the others that makes a direction independent.
        """
        basis = torch.linalg.qr(self.directions.T).Q.T  # [f, b]
        new = torch.zeros(len(directions), dtype=torch.bool)
        for index, (direction, least) in enumerate(zip(directions, apart.tolist(), strict=True)):
            rest = outside(basis, direction)
            if len(basis) < directions.shape[1] and float(rest.norm()) > least:
                basis = torch.cat([basis, (rest / rest.norm())[None]])
                new[index] = True
        self.directions = torch.cat([self.directions, directions[new]])
        self.zeros = torch.cat([self.zeros, zeros[new]])
        self.spare.add(directions[~new], zeros[~new])

    @property
    def accepted(self) -> int:
        """All accepted directions, the spare ones as well."""
        return len(self.directions) + len(self.spare)

    def pool(self, *, aside: bool = False) -> tuple[Tensor, Tensor]:
        """What a batch is chosen from, ``[k, b]``, and zeros ``[k]``; ``aside``: as if no input had been asked for."""
        kept = [self.spare, self.aside] if aside else [self.spare]
        others = [one.directions.to(self.directions) for one in kept if len(one)]
        return torch.cat([self.directions, *others]), torch.cat([self.zeros, *(one.zeros for one in kept)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Some candidate directions.

    Args:
        directions: ``[k, b]``.
        cost: how many samples, starts or guesses they took: what a budget counts.
        work: multiplications they took, roughly: what a portfolio compares.
    """

    directions: Tensor
    cost: int
    work: float = 1.0


class Proposer(Protocol):
    """Yields proposals for as long as it is asked; ``found`` grows meanwhile."""

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]: ...


def outside(basis: Tensor, direction: Tensor) -> Tensor:
    """The part ``[b]`` of a direction that is orthogonal to ``basis [f, b]``, twice for rounding."""
    rest = direction - (basis @ direction) @ basis
    return rest - (basis @ rest) @ basis
