"""From directions to a certified batch: the one frame behind SPEAR, SPEAR++ and PRISM, which only propose.

The notation is that of :mod:`seepage.attacks.mixture`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from seepage.attacks.certificate import Replay
from seepage.attacks.closing import Solution, better, choose
from seepage.attacks.directions import Found, Proposer, accept, complete
from seepage.attacks.mixture import Mixture, mix
from seepage.attacks.relulayer import ReLULayer, find_relu_layer
from seepage.types import INTERRUPTED, Observation, Outcome, Progress, Reconstruction

__all__ = ["Budget", "disaggregate", "invert_layer"]

_UPDATE_TOLERANCE = 1e-3  # relative; batches from float32 updates reproduce them to about 1e-6
_SPENT = "the budget ended"


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


def invert_layer(
    observation: Observation,
    propose: Proposer,
    *,
    layer: str | None,
    least_share: Callable[[int], float],
    budget: Budget,
    generator: torch.Generator,
    progress: Progress,
    patience: int,
) -> Reconstruction:
    """Factor the gradient of a ReLU layer and disaggregate it; FAILED with the reason where it cannot be factored.

    Args:
        observation: has a layer that fits (:func:`seepage.attacks.relulayer.find_relu_layer`).
        propose: the method.
        layer: path of the layer; the first that fits if ``None``.
        least_share: zeros that a direction needs, as a share of the layer's units, from how many they are.
        budget: when to stop without a certificate.
        generator: all chance of the attack.
        progress: told about directions found.
        patience: samples to spend on better directions once there are enough of them.

    Raises:
        ValueError: no layer fits; obstacles should have been asked for before.
    """
    target = find_relu_layer(observation, layer)
    if not isinstance(target, ReLULayer):
        raise ValueError(f"`observation` should have no obstacles; found {'; '.join(map(str, target))}")
    mixture = mix(target, least_share=least_share(len(target.bias)), generator=generator)
    if mixture is None:
        reason = (
            f"The gradient of layer {target.name} has no rank below its size {list(target.weight.shape)}: "
            "the batch is as large as the layer, or the update was noised, sparsified or quantised."
        )
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats={"layer": target.name})
    if mixture.least_zeros > len(mixture.L):
        reason = (
            f"A batch of {mixture.batch_size} needs {mixture.least_zeros} zeros of each example to be sure of it, and "
            f"layer {target.name} has {len(mixture.L)} units awake: a wider layer would be needed."
        )
        stats: dict[str, float | int | str | bool] = {"layer": target.name, "batch_size": mixture.batch_size}
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    return disaggregate(
        mixture, observation, propose, budget=budget, generator=generator, progress=progress, patience=patience
    )


def disaggregate(
    mixture: Mixture,
    observation: Observation,
    propose: Proposer,
    *,
    budget: Budget,
    generator: torch.Generator,
    progress: Progress,
    patience: int,
) -> Reconstruction:
    """Ask ``propose`` for directions until the batch is certified or the budget ends; return what there is."""
    b = mixture.batch_size
    started, cost, enough_at = time.monotonic(), 0, None
    found = Found(directions=mixture.L.new_zeros(0, b), zeros=torch.zeros(0, dtype=torch.int64))
    solution, stopped = None, _SPENT
    for proposals in propose(mixture, found, generator):
        cost += proposals.cost
        grown = accept(mixture, found, proposals.directions)
        if grown and 0 < b - len(found) <= 4:
            complete(mixture, found, generator)
        if grown and len(found) >= b:
            enough_at = enough_at or cost
            solution = better(solution, choose(mixture, observation, found, generator))
            if solution is not None and bool(solution.evident.all()):
                stopped = "the certificate holds" if bool(solution.certified.all()) else "all directions are true"
                break
        if not progress(min(len(found), b), b, f"directions found after {cost:,} samples"):
            stopped = INTERRUPTED
            break
        if enough_at is not None and cost > max(8 * enough_at, patience):
            stopped = "no set of directions found could be certified"
            break
        if (budget.samples is not None and cost >= budget.samples) or (
            budget.seconds is not None and time.monotonic() - started >= budget.seconds
        ):
            break
    else:
        stopped = "there was nothing more to propose"
    if solution is None and len(found):
        solution = choose(mixture, observation, found, generator)
    if stopped != INTERRUPTED and len(found.aside) and (solution is None or not bool(solution.evident.all())):
        solution = better(solution, choose(mixture, observation, found.with_aside(), generator))
    return _conclude(
        mixture=mixture, observation=observation, found=found, solution=solution, cost=cost, stopped=stopped
    )


def _conclude(
    *,
    mixture: Mixture,
    observation: Observation,
    found: Found,
    solution: Solution | None,
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
            f"The batch of {b} may be too large for {len(mixture.L)} units"
            f"{'; a larger budget may succeed' if stopped == _SPENT else ''}."
        )
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    stats["score"] = float(solution.score.mean())
    stats["input_error"] = float(solution.input_error.max())
    doubts = (
        [] if bool(solution.certified.all()) else [f"{int(solution.certified.sum())} of {b} examples are certified"]
    )
    rough = int(solution.rough.sum())
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
