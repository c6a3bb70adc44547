"""From directions to a certified batch: the one frame behind SPEAR, SPEAR++ and PRISM, which only propose.

The notation is that of :mod:`seepage.attacks.mixture`.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.certificate import Replay, agree, replay, undisturbed
from seepage.attacks.directions import Found, Proposer, accept, complete
from seepage.attacks.mixture import Mixture
from seepage.attacks.warrant import unwarranted
from seepage.linalg.nullspace import pinned_twice, zero_mask
from seepage.types import INTERRUPTED, Observation, Outcome, Progress, Reconstruction

__all__ = ["Budget", "disaggregate"]

_UPDATE_TOLERANCE = 1e-3  # relative; batches from float32 updates reproduce them to about 1e-6
_INPUT_TOLERANCE = 3e-7  # relative; Adult's largest numbers need 1e-6 to come out in every digit
_PATIENCE = 4_000_000  # samples spent on better directions once there are enough of them
_REPLAY_TOLERANCE = 1e-4  # relative; inputs that are off by this much are still pixel-identical


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to stop: after so many samples or starts, or seconds, whichever comes first; ``None`` is no limit."""

    samples: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for word in ("samples", "seconds"):
            value = getattr(self, word)
            if value is not None and value <= 0:
                raise ValueError(f"`{word}` should be positive; found {value}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solution:
    """A full set of directions, closed: inputs, errors, and the evidence for each example."""

    inputs: Tensor  # [b, n]
    score: Tensor  # [b]
    certified: Tensor  # [b]
    input_error: Tensor  # [b]
    replayed: Replay | str


def disaggregate(
    mixture: Mixture,
    observation: Observation,
    propose: Proposer,
    *,
    budget: Budget,
    generator: torch.Generator,
    progress: Progress,
) -> Reconstruction:
    """Ask ``propose`` for directions until the batch is certified or the budget ends; return what there is."""
    b = mixture.batch_size
    started, cost, enough_at = time.monotonic(), 0, None
    found = Found(directions=mixture.L.new_zeros(0, b), zeros=torch.zeros(0, dtype=torch.int64))
    solution, stopped = None, "the budget ended"
    for proposals in propose(mixture, found, generator):
        cost += proposals.cost
        grown = accept(mixture, found, proposals.directions)
        if grown and 0 < b - len(found) <= 4:
            complete(mixture, found, generator)
        if grown and len(found) >= b:
            enough_at = enough_at or cost
            solution = _choose(mixture, observation, found, generator)
            if solution is not None and bool(solution.certified.all()):
                stopped = "the certificate holds"
                break
        if not progress(min(len(found), b), b, f"directions found after {cost:,} samples"):
            stopped = INTERRUPTED
            break
        if enough_at is not None and cost > max(8 * enough_at, _PATIENCE):
            stopped = "no set of directions found could be certified"
            break
        if (budget.samples is not None and cost >= budget.samples) or (
            budget.seconds is not None and time.monotonic() - started >= budget.seconds
        ):
            break
    if solution is None and len(found):
        solution = _choose(mixture, observation, found, generator)
    return _conclude(
        mixture=mixture, observation=observation, found=found, solution=solution, cost=cost, stopped=stopped
    )


def _choose(mixture: Mixture, observation: Observation, found: Found, generator: torch.Generator) -> _Solution | None:
    """Greedy sparsest independent directions, then swaps that raise the worst score (SPEAR, section 4.3)."""
    chosen, spare = _greedy(mixture, found)
    solution = _close(mixture, observation, chosen, generator)
    if solution is None or bool(solution.certified.all()) or len(spare) == 0:
        return solution
    for position in solution.score.argsort().tolist():
        for candidate in spare:
            trial = chosen.clone()
            trial[position] = candidate
            if float(torch.linalg.svdvals(trial)[-1]) < 1e-8:
                continue
            rival = _close(mixture, observation, trial, generator)
            if rival is not None and float(rival.score.sum()) > float(solution.score.sum()):
                chosen, solution = trial, rival
        if bool(solution.certified.all()):
            break
    return solution


def _greedy(mixture: Mixture, found: Found) -> tuple[Tensor, Tensor]:
    """Independent directions, most zeros first, filled up from the complement; and those left over."""
    b = mixture.batch_size
    basis: list[Tensor] = []
    chosen: list[Tensor] = []
    spare: list[Tensor] = []
    for index in found.zeros.argsort(descending=True, stable=True).tolist():
        direction = found.directions[index]
        rest = direction.clone()
        for _ in range(2):
            for unit in basis:
                rest = rest - (unit @ rest) * unit
        if len(chosen) < b and float(rest.norm()) > 1e-7:
            basis.append(rest / rest.norm())
            chosen.append(direction)
        else:
            spare.append(direction)
    stacked = torch.stack(chosen)
    if len(chosen) < b:
        stacked = torch.cat([stacked, torch.linalg.svd(stacked, full_matrices=True).Vh[len(chosen) :]])
    return stacked, torch.stack(spare) if spare else stacked[:0]


def _close(
    mixture: Mixture, observation: Observation, directions: Tensor, generator: torch.Generator
) -> _Solution | None:
    """Scales from ``gb = L Q s``, inputs from ``X = Q^-1 R``, and the evidence for each example."""
    factors, layer = mixture.factors, mixture.layer
    columns = factors.left @ directions.T  # [m, b]
    scales = torch.linalg.lstsq(columns, layer.bias_gradient.double()[:, None]).solution.flatten()
    if not bool((scales.abs() > 1e-12 * scales.abs().max()).all()):
        return None
    right = factors.singular[:, None] * factors.right
    inputs = torch.linalg.solve(directions.T * scales, right)
    errors = (columns * scales).T  # [b, m]
    if not bool(inputs.isfinite().all()):
        return None
    agreement = agree(errors, mixture.preactivations(inputs), zero_tol=mixture.zero_tol)
    certified = agreement.holds.clone()
    zeros = zero_mask(mixture.L, directions, zero_tol=mixture.zero_tol)
    certified[agreement.holds] = pinned_twice(mixture.L, zeros[certified], rank_tol=mixture.rank_tol)
    certified &= undisturbed(zeros, doubtful=~certified)
    input_error = mixture.error_of_inputs(directions.T * scales, inputs)
    certified &= input_error <= _INPUT_TOLERANCE
    replayed: Replay | str = "no example agrees with the units it switches off"
    if bool(certified.any()):
        replayed = replay(observation, layer, inputs, errors, generator=generator)
    if isinstance(replayed, Replay):
        certified = certified & (replayed.residual <= _REPLAY_TOLERANCE)
    elif bool(certified.any()) and (doubt := unwarranted(observation, mixture)) is not None:
        certified, replayed = torch.zeros_like(certified), f"{replayed}, and {doubt}"
    return _Solution(
        inputs=inputs, score=agreement.score, certified=certified, input_error=input_error, replayed=replayed
    )


def _conclude(
    *,
    mixture: Mixture,
    observation: Observation,
    found: Found,
    solution: _Solution | None,
    cost: int,
    stopped: str,
) -> Reconstruction:
    b, layer = mixture.batch_size, mixture.layer
    stats: dict[str, float | int | str | bool] = {
        "layer": layer.name,
        "batch_size": b,
        "directions": min(len(found), b),
        "rejected": found.rejected,
        "samples": cost,
        "noise": mixture.factors.noise,
        "zero_tol": mixture.zero_tol,
        "stopped": stopped,
    }
    if solution is None:
        reason = (
            f"No direction that the units of layer {layer.name} give away was found among {cost:,} samples: {stopped}. "
            f"The batch of {b} may be too large for {len(mixture.L)} units; a larger budget may succeed."
        )
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    stats["score"] = float(solution.score.mean())
    stats["input_error"] = float(solution.input_error.max())
    doubts = (
        [] if bool(solution.certified.all()) else [f"{int(solution.certified.sum())} of {b} examples are certified"]
    )
    rough = int((solution.input_error > _INPUT_TOLERANCE).sum())
    if rough:
        doubts.append(f"rounding or noise of the update leaves {rough} of them too rough to be called exact")
    if isinstance(solution.replayed, Replay):
        stats["update_residual"] = solution.replayed.update_residual
        stats["replay_residual"] = float(solution.replayed.residual.max())
        stats["loss_share"] = float(solution.replayed.weights.sum())
        doubts += _doubts_of_the_whole(solution.replayed)
    else:
        stats["replay"] = solution.replayed
        doubts += [] if bool(solution.certified.any()) else [solution.replayed]
    announced = observation.latest.batch_size
    if announced is not None and announced != b:
        doubts.append(f"the client announced {announced} examples and {b} distinct ones left a trace")
    shape = observation.input_shape if layer.reads_input else layer.input_shape
    labels = None
    if isinstance(solution.replayed, Replay):
        labels = torch.where(solution.certified, solution.replayed.labels, -1)
    return Reconstruction(
        outcome=Outcome.APPROXIMATE if doubts else Outcome.EXACT,
        inputs=solution.inputs.to(layer.weight_gradient.dtype).reshape(b, *shape),
        labels=labels,
        certified=solution.certified,
        layer="" if layer.reads_input else layer.name,
        reason=f"Stopped because {stopped}; "
        + ("; ".join(doubts) if doubts else f"all {b} examples are certified")
        + ".",
        stats=stats,
    )


def _doubts_of_the_whole(replayed: Replay) -> list[str]:
    """What keeps certified examples from being the whole batch."""
    doubts = []
    if replayed.update_residual > _UPDATE_TOLERANCE:
        doubts.append(f"the recomputed gradient differs from the update by {replayed.update_residual:.1e} of its size")
    share = float(replayed.weights.sum())
    if abs(share - 1) > _UPDATE_TOLERANCE:
        doubts.append(f"the examples explain {share:.4f} of the loss instead of all of it")
    return doubts
