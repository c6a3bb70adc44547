"""From directions to inputs: which ``b`` of them, at what scale, and with what evidence for each example.

The notation is that of :mod:`seepage.attacks.disaggregation.mixture`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.disaggregation.certificate import Agreement, agree, undisturbed
from seepage.attacks.disaggregation.directions import least_apart
from seepage.attacks.disaggregation.fitting import fitted
from seepage.attacks.disaggregation.found import Found, Kept, independent
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.precision import error_of_inputs, explains_bias
from seepage.attacks.disaggregation.proving import prove
from seepage.attacks.disaggregation.solution import Solution
from seepage.linalg.nullspace import MOST_LEVERAGE, zero_mask
from seepage.types import Observation

__all__ = ["MOST_SWAPS", "choose"]

_INPUT_TOLERANCES = (3e-7, 3e-4)  # relative: every digit of Adult's largest numbers; half a grey level of 8 bits
_NO_AGREEMENT = "no example agrees with the units it switches off"
_NO_ZEROS = "errors without zeros are evidence only together, all examples exactly"
MOST_SWAPS = 256


def choose(
    mixture: Mixture,
    observation: Observation,
    found: Found,
    generator: torch.Generator,
    *,
    goes_on: Callable[[], bool] = lambda: True,
    aside: bool = False,
    swaps: int = MOST_SWAPS,
) -> Solution | None:
    """Greedy sparsest independent directions, then swaps that raise the worst score (SPEAR, section 4.3).

    Args:
        mixture: of the attacked layer.
        observation: what the server saw.
        found: what to choose from.
        generator: draws variants of examples within rounding.
        goes_on: asked before each step of a fit, which is all that takes long.
        aside: whether those set aside are chosen from as well.
        swaps: to try at most; each costs a pass of all inputs through the layer.

    Returns:
        ``None`` if the directions cannot explain the bias gradient.
    """
    chosen, spare = _greedy(mixture, found.pool(aside=aside))
    solution = _close(mixture, chosen)
    if solution is None:
        return None
    if not bool(solution.evident.all()) and len(spare):
        solution = _swap(mixture, chosen, spare, solution, swaps)
    if mixture.noisy:  # all is rough
        return replace(solution, tolerance=-1.0, replayed="the update is noised")
    solution = replace(solution, tolerance=_INPUT_TOLERANCES[len(observation.input_shape) > 1])
    if not mixture.layer.relu:
        solution = fitted(observation, mixture, solution, generator, goes_on=goes_on)
    return prove(observation, mixture, solution, generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """Directions ``[b, b]`` for a whole batch; which were found, ``[b]`` bool; their leverages, ``[b]``."""

    directions: Tensor
    known: Tensor
    leverage: Tensor

    @property
    def pinned(self) -> Tensor:
        """``[b]`` bool."""
        return self.known & (self.leverage <= MOST_LEVERAGE)

    @property
    def replayed(self) -> Tensor:
        """``[b]`` bool: taken from the network's own error, since no zeros determine them."""
        return self.known & self.leverage.isinf()

    def exchanged(self, position: int, other: Kept) -> "_Chosen":
        directions, known, leverage = self.directions.clone(), self.known.clone(), self.leverage.clone()
        directions[position], known[position], leverage[position] = other.directions[0], True, other.leverage[0]
        return _Chosen(directions=directions, known=known, leverage=leverage)


def _swap(mixture: Mixture, chosen: _Chosen, spare: Kept, solution: Solution, most: int) -> Solution:
    """Directions of examples in doubt exchanged for those left over, as long as that explains more units."""
    tried = 0
    for position in solution.score.argsort().tolist():
        for index in range(len(spare)):
            if tried == most or bool(solution.evident.all()):
                return solution
            trial = chosen.exchanged(position, spare.at(slice(index, index + 1)))
            if float(torch.linalg.svdvals(trial.directions)[-1]) < 1e-8:
                continue
            tried += 1
            rival = _close(mixture, trial)
            if rival is not None and float(rival.score.sum()) > float(solution.score.sum()):
                chosen, solution = trial, rival
    return solution


def _greedy(mixture: Mixture, pool: Kept) -> tuple[_Chosen, Kept]:
    """Independent directions, the likeliest first, filled up from the complement; and the rest."""
    b = mixture.batch_size
    index = independent(pool.directions, pool.likeliest_first, least_apart(mixture, pool.directions))
    order = pool.likeliest_first
    chosen, spare = order[index[order]], order[~index[order]]
    first = pool.at(chosen)
    directions = first.directions
    if len(chosen) < b:
        directions = torch.cat([directions, torch.linalg.svd(directions, full_matrices=True).Vh[len(chosen) :]])
    known = torch.arange(b, device=directions.device) < len(chosen)
    leverage = torch.cat([first.leverage, first.leverage.new_ones(b - len(chosen))]).to(directions.device)
    whole = _Chosen(directions=directions, known=known, leverage=leverage)
    return whole, pool.at(spare)


def _close(mixture: Mixture, chosen: _Chosen) -> Solution | None:
    """Scales from ``gb = L Q s``, inputs from ``X = Q^-1 R``, and facts 1 to 3."""
    factors, layer, directions = mixture.factors, mixture.layer, chosen.directions
    columns = factors.left @ directions.T  # [m, b]
    scales = torch.linalg.lstsq(columns, layer.bias_gradient.double()[:, None]).solution.flatten()
    if not bool((scales.abs() > 1e-12 * scales.abs().max()).all()):
        return None
    inputs = torch.linalg.solve(directions.T * scales, factors.singular[:, None] * factors.right)
    errors = (columns * scales).T  # [b, m]
    if not bool(inputs.isfinite().all()):
        return None
    tols = mixture.zero_tols(directions)
    agreement = Agreement(score=torch.ones_like(scales), holds=chosen.known)  # of errors without zeros
    if layer.relu:
        agreement = agree(errors, mixture.preactivations(inputs), zero_tol=tols, margin=mixture.height_tol)
    zeros = zero_mask(mixture.L, directions, zero_tol=tols)
    evident, firm = (
        true & undisturbed(zeros, doubtful=~true)
        for true in (agreement.holds & chosen.known, agreement.holds & chosen.pinned & layer.relu)
    )
    explained = mixture.noisy or explains_bias(mixture, errors)
    return Solution(
        inputs=inputs,
        errors=errors,
        score=agreement.score,
        evident=evident & explained,
        firm=firm & explained,
        lone=torch.ones_like(evident),
        input_error=error_of_inputs(mixture, directions.T * scales, inputs, replayed=chosen.replayed),
        tolerance=_INPUT_TOLERANCES[0],
        error_tol=tols,
        replayed=_other_bias(mixture) if not explained else _NO_AGREEMENT if layer.relu else _NO_ZEROS,
    )


def _other_bias(mixture: Mixture) -> str:
    """Dependent inputs leave no more trace in ``gW = dZ^T X`` than those that span them; ``gb = dZ^T 1`` holds all."""
    return (
        "the bias gradient does not fit the weight gradient: the batch holds more examples than the "
        f"{mixture.batch_size} dimensions (of {mixture.layer.weight.shape[1]}) that its inputs span, or entries of the "
        "update were dropped or changed"
    )
