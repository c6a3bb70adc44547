"""Directions on their way from a proposal to acceptance: refined, filtered, proved unique, merged."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from seepage.attacks.mixture import Mixture
from seepage.linalg.nullspace import (
    merge_directions,
    pinned_twice,
    refine_directions,
    robust_null_directions,
    zero_mask,
)

__all__ = ["Found", "Proposals", "Proposer", "accept", "complete"]

_LOOSE_TOL = 1e-3  # zeros of a proposal before it is refined
# Columns of similar examples are nearly parallel: only copies may be merged. Cosines of copies:
_SAME_PROPOSAL = 1 - 1e-6
_SAME_DIRECTION = 1 - 1e-9


@dataclass(slots=True, kw_only=True)
class Found:
    """Directions accepted so far; the frame writes, proposers read.

    Args:
        directions: ``[f, b]`` unit directions.
        zeros: ``[f]`` zeros of each.
        refused: ``[r, b]`` sparse directions that were not pinned twice, so that none is tried again.
    """

    directions: Tensor
    zeros: Tensor
    refused: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    @property
    def rejected(self) -> int:
        """How many directions were sparse but not pinned twice: combinations of examples, mostly."""
        return len(self.refused)

    def __len__(self) -> int:
        return len(self.directions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Some candidate directions ``[k, b]``, and how many samples or starts they cost."""

    directions: Tensor
    cost: int


class Proposer(Protocol):
    """Yields proposals for as long as it is asked; ``found`` grows meanwhile."""

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]: ...


def accept(mixture: Mixture, found: Found, candidates: Tensor) -> bool:
    """Refine, filter and merge candidates into ``found``; whether any was new."""
    if len(candidates) == 0:
        return False
    tol = mixture.zero_tol
    directions = candidates.double()
    directions = directions[merge_directions(directions, found.directions, coherence=_SAME_PROPOSAL)]
    # Robustly first: among the rows below a loose tolerance a few are small without being zero.
    loose = zero_mask(mixture.L, directions, zero_tol=max(tol, _LOOSE_TOL))
    directions = robust_null_directions(mixture.L, loose, rounds=5)
    directions = refine_directions(mixture.L, directions, zero_tol=tol)
    zeros = zero_mask(mixture.L, directions, zero_tol=tol)
    keep = zeros.sum(dim=1) >= mixture.least_zeros
    directions, zeros = directions[keep], zeros[keep]
    known = torch.cat([found.directions, found.refused.reshape(-1, directions.shape[1]).to(directions)])
    keep = merge_directions(directions, known, coherence=_SAME_DIRECTION)
    directions, zeros = directions[keep], zeros[keep]
    keep = pinned_twice(mixture.L, zeros, rank_tol=mixture.rank_tol)
    found.refused = torch.cat([found.refused.reshape(-1, directions.shape[1]).to(directions), directions[~keep]])
    found.directions = torch.cat([found.directions, directions[keep]])
    found.zeros = torch.cat([found.zeros, zeros[keep].sum(dim=1).cpu()])
    return bool(keep.any())


def complete(mixture: Mixture, found: Found, generator: torch.Generator, *, starts: int = 128) -> None:
    """Guess the last few examples in the complement of the found ones, and round through the ReLUs.

    ``Q^T P = I`` for ``X^T = right^T P``: an example that is still missing has ``p`` orthogonal to every direction
    found, so only ``b - f`` dimensions are left to guess in (PRISM, steps 2 and 3).
    """
    b = mixture.batch_size
    while b - len(found) > 0:
        basis = torch.linalg.svd(found.directions, full_matrices=True).Vh[len(found) :]  # [b - f, b]
        draws = torch.randn(starts, len(basis), generator=generator, dtype=torch.float64, device=generator.device)
        guesses = draws.to(basis.device) @ basis
        unit_input = mixture.layer.weight.shape[1] ** 0.5 / guesses.norm(dim=1, keepdim=True)
        bias = mixture.layer.bias[mixture.awake].double()
        off = (guesses * unit_input) @ mixture.height.T + bias <= 0
        if not accept(mixture, found, robust_null_directions(mixture.L, off)):
            return
