"""Directions on their way from a proposal to acceptance: refined, filtered, proved unique, merged."""

import torch
from torch import Tensor

from seepage.attacks.disaggregation.found import Found, Kept
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.separable import separable_share
from seepage.linalg.dictionary import small_share
from seepage.linalg.nullspace import largest_leverage, merge_directions, zero_mask
from seepage.linalg.rounding import (
    MANY_COLUMNS,
    least_directions,
    refine_directions,
    reselect_directions,
    robust_null_directions,
)

__all__ = [
    "accept",
    "accept_replayed",
    "complete",
    "guess_rest",
    "least_apart",
    "round_either",
    "round_ends",
    "round_inputs",
    "round_roughly",
]

_EXACT_SHARE = 0.98  # of loose zeros that are zeros already, above which a proposal is as good as refined
# Columns of similar examples are nearly parallel: only copies may be merged. Cosines of copies:
_SAME_PROPOSAL = 1 - 1e-6
_SAME_DIRECTION = 1 - 1e-9
_SAME_RUN = 1 - 1e-4  # of two runs of a search that ended at the same place
_LEAST_SMALL = 0.3  # share of small entries below which a search ended nowhere
_MOST_ENDS = 256  # of one turn, the sparsest, that are solved again
_INDEPENDENT = 1e-7  # part of a unit direction outside of others,
_OWN_ROUNDING = 0.25  # the same as a share of its zero tolerance, of which rounding is a twelfth,
_COPY, _MOST_APART = 5.0, 0.1  # and under noise, times the zero tolerance
_FINER = 0.05  # from one tolerance to the next
_MOST_REFINEMENTS, _SETTLED = 8, 0.01  # at most; share of zeros that may come or go where a step ends
_SEPARABLE = 0.92  # share of units that a true direction's own input explains; combinations were seen at 0.55 to 0.89
_SMALL = 0.1  # entry, as a share of a root mean square, that may become a zero
_ROUNDS_OF_BOTH, _ROUNDS_OF_ONE = 3, 7  # of reweighting, for both signs of a guess and for the better one
_SURE = 0.6  # pre-activation, as a share of its root mean square, below which a guess is trusted to be off


def accept(mixture: Mixture, found: Found, candidates: Tensor) -> bool:
    """Refine, filter and merge candidates into ``found``; whether any was new."""
    tol = mixture.zero_tol
    directions = candidates.double()
    directions = directions[merge_directions(directions, found.directions, coherence=_SAME_PROPOSAL)]
    loose = zero_mask(mixture.L, directions, zero_tol=mixture.loose_tol)
    keep = loose.sum(dim=1) >= mixture.least_zeros
    if not bool(keep.any()):
        return False
    directions, loose = directions[keep], loose[keep]
    # Robustly first: among the rows below a loose tolerance a few are small without being zero.
    rough = zero_mask(mixture.L, directions, zero_tol=tol).sum(dim=1) < _EXACT_SHARE * loose.sum(dim=1)
    directions[rough] = robust_null_directions(mixture.L, loose[rough], rounds=3, starts=directions[rough])
    directions = _refine(mixture, directions)
    zeros = zero_mask(mixture.L, directions, zero_tol=mixture.zero_tols(directions))
    keep = zeros.sum(dim=1) >= mixture.least_zeros
    directions, zeros = directions[keep], zeros[keep]
    seen = torch.cat([found.pool().directions, found.narrow.directions, found.refused])
    keep = merge_directions(directions, seen, coherence=_SAME_DIRECTION)
    directions, zeros = directions[keep], zeros[keep]
    leverage = largest_leverage(mixture.L, zeros, rank_tol=mixture.rank_tol)
    unknown = torch.zeros(len(directions), dtype=torch.bool)
    kept = Kept(directions=directions, zeros=zeros.sum(dim=1).cpu(), leverage=leverage.cpu(), replayed=unknown)
    keep = kept.pinned
    if mixture.explained:
        determined = leverage.isfinite()
        inseparable = determined.clone()
        inseparable[determined] = separable_share(mixture, directions[determined]) < _SEPARABLE
        found.set_aside(kept.at(inseparable.cpu() & kept.pinned))
        keep = (determined & ~inseparable).cpu()
    found.refuse(kept.at(~keep).directions)
    kept = kept.at(keep)
    found.add(kept, apart=least_apart(mixture, kept.directions))
    return len(kept) > 0


def accept_replayed(mixture: Mixture, found: Found, directions: Tensor) -> bool:
    """Merge ``directions [k, b]`` that the network itself has confirmed into ``found``; whether any told something new.

    Their zeros may be too few to determine them; the whole batch has to prove them then. One that depends on others
    shows that among those is a combination of examples.
    """
    before, held = found.confirmed, len(found)
    same = (found.kept.directions @ directions.T).abs() >= _SAME_DIRECTION  # [f, k]
    found.confirm(same.any(dim=1).cpu())
    directions = directions[merge_directions(directions, found.kept.directions, coherence=_SAME_DIRECTION)]
    zeros = zero_mask(mixture.L, directions, zero_tol=mixture.zero_tols(directions))
    leverage = largest_leverage(mixture.L, zeros, rank_tol=mixture.rank_tol)
    true = torch.ones(len(directions), dtype=torch.bool)
    kept = Kept(directions=directions, zeros=zeros.sum(dim=1).cpu(), leverage=leverage.cpu(), replayed=true)
    dependent = not bool(found.add(kept, apart=least_apart(mixture, directions)).all())
    if dependent:
        found.settle(lambda all_of_them: least_apart(mixture, all_of_them))
    return dependent or len(found) > held or found.confirmed > before


def least_apart(mixture: Mixture, directions: Tensor) -> Tensor:
    """``[k]``: the part of each unit direction outside of others below which rounding alone may have put it there."""
    if mixture.noisy or mixture.layer.rounding:  # a rough copy is no new direction
        return directions.new_full((len(directions),), min(_COPY * mixture.zero_tol, _MOST_APART))
    return (_OWN_ROUNDING * mixture.zero_tols(directions)).clamp_min(_INDEPENDENT)


def round_ends(mixture: Mixture, found: Found, ends: Tensor) -> Tensor:
    """Ends of runs that are new and look sparse, each solved again from its smallest entries; float64."""
    share = small_share(mixture.white, ends)
    ends = ends[share.argsort(descending=True)][: int((share >= _LEAST_SMALL).sum())].double()
    ends = ends[merge_directions(ends, found.directions, coherence=_SAME_RUN)]
    return reselect_directions(mixture.L, ends[:_MOST_ENDS])


def _refine(mixture: Mixture, directions: Tensor) -> Tensor:
    """Down to each direction's own tolerance in steps, each repeated until the zeros stay the same.

    Too few rows look like zeros to a direction that is still rough; of a true one with a fifth of them hidden no input
    explains the rest, and it would be refused for good.
    """
    directions = directions.clone()
    tols = directions.new_full((len(directions),), mixture.zero_tol)
    used = torch.zeros_like(tols)
    for _ in range(_MOST_REFINEMENTS):
        zeros = zero_mask(mixture.L, directions, zero_tol=tols).sum(dim=1)
        unsettled = (zeros - used).abs() > _SETTLED * used
        finer = mixture.zero_tols(directions).maximum(_FINER * tols)
        rough = unsettled | (finer < tols)
        if not bool(rough.any()):
            break
        tols = tols.where(unsettled, finer.minimum(tols))
        used = zero_mask(mixture.L, directions, zero_tol=tols).sum(dim=1).to(used)
        directions[rough] = refine_directions(mixture.L, directions[rough], zero_tol=tols[rough], rounds=1)
    return directions


def round_inputs(mixture: Mixture, guesses: Tensor, *, rounds: int = 10) -> Tensor:
    """Directions of rough inputs: what the units that each guess switches off annihilate (PRISM, step 2).

    Units that are clearly off count fully, those near the threshold little.

    Args:
        mixture: of the attacked layer.
        guesses: ``[k, b]``, the ``p`` of ``x = right^T p``, in the scale of real inputs (the bias counts).
        rounds: reweightings.

    Returns:
        ``[k, b]`` unit directions; those of guesses too far off are arbitrary.
    """
    return robust_null_directions(mixture.L, _trust(mixture, guesses), rounds=rounds)


def round_roughly(mixture: Mixture, guesses: Tensor) -> Tensor:
    """As :func:`round_inputs` without reweightings, in float32: a start for a search, ``[k, b]``."""
    return least_directions(mixture.L.float(), _trust(mixture, guesses).float())


def round_either(mixture: Mixture, guesses: Tensor) -> Tensor:
    """As :func:`round_inputs`, of guesses whose sign is open: a third of the work that both signs would take.

    Some rounds show which sign leaves more small entries; that one goes on. Of small batches they are in float32: only
    the last rounds need more digits.

    Returns:
        ``[k, b]`` unit directions, one a guess.
    """
    few = mixture.batch_size < MANY_COLUMNS
    count, L = len(guesses), mixture.L.float() if few else mixture.L
    trusted = _trust(mixture, torch.cat([guesses, -guesses]))
    rough = robust_null_directions(L, trusted.to(L), rounds=_ROUNDS_OF_BOTH)
    small = zero_mask(L, rough, zero_tol=_SMALL).sum(dim=1)
    sign = torch.arange(count, device=small.device) + count * (small[count:] > small[:count])
    starts = rough[sign].double()
    return robust_null_directions(mixture.L, trusted[sign], rounds=_ROUNDS_OF_ONE, starts=starts)


def _trust(mixture: Mixture, guesses: Tensor) -> Tensor:
    """How far each unit is trusted to be off for each of ``guesses [k, b]``, in [0, 1], ``[k, m']``."""
    height = guesses @ mixture.height.T + mixture.layer.bias[mixture.awake].double()
    size = height.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-300)
    return (-height / (_SURE * size)).clamp(0.0, 1.0)


def complete(mixture: Mixture, found: Found, generator: torch.Generator, *, starts: int = 128) -> None:
    """Guess the last few examples until none is new."""
    while len(found) < mixture.batch_size:
        before = len(found)
        accept(mixture, found, guess_rest(mixture, found, generator, starts=starts))
        if len(found) == before:
            return


def guess_rest(mixture: Mixture, found: Found, generator: torch.Generator, *, starts: int) -> Tensor:
    """Directions of random inputs in the complement of the found ones, rounded through the ReLUs, ``[starts, b]``."""
    basis = mixture.missing(found.directions)
    draws = torch.randn(starts, len(basis), generator=generator, dtype=torch.float64, device=generator.device)
    guesses = draws.to(basis.device) @ basis
    unit_input = mixture.layer.weight.shape[1] ** 0.5 / guesses.norm(dim=1, keepdim=True)
    return round_inputs(mixture, guesses * unit_input)
