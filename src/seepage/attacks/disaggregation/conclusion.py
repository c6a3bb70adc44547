"""What a disaggregation says at its end: the reconstruction, its numbers, and every doubt about it in words."""

import torch
from torch import Tensor

from seepage.attacks.budget import SPENT
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.replay import Replay
from seepage.attacks.disaggregation.solution import Solution
from seepage.types import Observation, Outcome, Reconstruction

__all__ = ["conclude"]

_UPDATE_TOLERANCE = 1e-3  # relative; batches from float32 updates reproduce them to about 1e-6


def conclude(
    mixture: Mixture,
    observation: Observation,
    solution: Solution | None,
    *,
    directions: int,
    rejected: int,
    cost: int,
    stopped: str,
) -> Reconstruction:
    """EXACT if nothing is in doubt, APPROXIMATE with the doubts, FAILED without a solution.

    Args:
        mixture: of the attacked layer.
        observation: what the server saw.
        solution: the best batch that the directions found make, if any.
        directions: how many were found.
        rejected: how many sparse ones were turned down.
        cost: samples.
        stopped: why, in words; :data:`seepage.attacks.budget.SPENT` if for want of budget.
    """
    b, layer = mixture.batch_size, mixture.layer
    stats: dict[str, float | int | str | bool] = {
        "layer": layer.name,
        "batch_size": b,
        "directions": directions,
        "rejected": rejected,
        "samples": cost,
        "noise": mixture.factors.noise,
        "zero_tol": mixture.zero_tol,
        "stopped": stopped,
    }
    if solution is None:
        reason = _nothing(mixture, cost, stopped) + _dependent(b, observation.latest.batch_size)
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    doubts = _doubts(mixture, observation, solution)
    verdict = "; ".join(doubts) or ("the one example is certified" if b == 1 else f"all {b} examples are certified")
    shape = observation.input_shape if layer.reads_input else layer.input_shape
    return Reconstruction(
        outcome=Outcome.APPROXIMATE if doubts else Outcome.EXACT,
        inputs=solution.inputs.to(layer.weight_gradient.dtype).reshape(b, *shape),
        labels=_labels(solution),
        certified=solution.certified,
        layer="" if layer.reads_input else layer.name,
        reason=f"Stopped because {stopped}; {verdict}.",
        stats=stats | _numbers(solution),
    )


def _nothing(mixture: Mixture, cost: int, stopped: str) -> str:
    b, layer, again = mixture.batch_size, mixture.layer, "; a larger budget may succeed" if stopped == SPENT else ""
    if not layer.relu:
        return (
            f"No input whose activations lie in the spans of later layers' gradients was found from {cost:,} starts: "
            f"{stopped}. It takes a linear layer behind {layer.name} with more than {b} inputs and outputs, whose "
            f"gradient has rank {b} too, and a network that can be run on one example (no dropout, no batch norm in "
            f"training mode){again}."
        )
    if b == 1:
        return (
            f"The gradient of layer {layer.name} has rank 1, and too few units are off for the one direction that it "
            "holds to be a single example's: several whose inputs depend on one another would leave it."
        )
    return (
        f"No direction that the units of layer {layer.name} give away was found among {cost:,} samples: {stopped}. "
        f"The batch of {b} may be too large for {len(mixture.L)} units{again}."
    )


def _dependent(b: int, announced: int | None) -> str:
    if announced is None or announced <= b:
        return ""
    return (
        f" The client announced {announced} examples and the gradient has rank {b}: their inputs depend on one another "
        "(copies, constant images), or their errors do."
    )


def _labels(solution: Solution) -> Tensor | None:
    """``[b]``, -1 where an example is not certified; ``None`` without a replay."""
    replayed = solution.replayed
    return torch.where(solution.certified, replayed.labels, -1) if isinstance(replayed, Replay) else None


def _numbers(solution: Solution) -> dict[str, float | int | str | bool]:
    numbers: dict[str, float | int | str | bool] = {
        "score": float(solution.score.mean()),
        "input_error": float(solution.input_error.max()),
    }
    if not isinstance(solution.replayed, Replay):
        return {**numbers, "replay": solution.replayed}
    return {
        **numbers,
        "update_residual": solution.replayed.update_residual,
        "replay_residual": float(solution.replayed.residual.max()),
        "loss_share": float(solution.replayed.weights.sum()),
    }


def _doubts(mixture: Mixture, observation: Observation, solution: Solution) -> list[str]:
    """What keeps the batch from being exact, as a whole."""
    b, doubts = mixture.batch_size, []
    if not bool(solution.certified.all()):
        doubts.append(f"{int(solution.certified.sum())} of {b} examples are certified")
    if rough := int(solution.rough.sum()):
        doubts.append(f"rounding or noise of the update leaves {rough} of them too rough to be called exact")
    if merged := int((solution.evident & ~solution.lone).sum()):
        told = ", which an announced batch size would tell" if observation.latest.batch_size is None else ""
        doubts.append(f"{merged} of them may each stand for several, copies or the mean of examples of one error{told}")
    if isinstance(solution.replayed, Replay):
        doubts += _doubts_of_the_whole(solution.replayed)
    elif not bool(solution.certified.any()):
        doubts.append(solution.replayed)
    announced = observation.latest.batch_size
    if announced is not None and announced != b:
        ones = "one" if b == 1 else "ones"
        doubts.append(f"the client announced {announced} examples and {b} distinct {ones} left a trace")
    return doubts


def _doubts_of_the_whole(replayed: Replay) -> list[str]:
    """What keeps certified examples from being the whole batch."""
    doubts = []
    if replayed.update_residual > _UPDATE_TOLERANCE:
        doubts.append(f"the recomputed gradient differs from the update by {replayed.update_residual:.1e} of its size")
    share = float(replayed.weights.sum())
    if abs(share - 1) > _UPDATE_TOLERANCE:
        doubts.append(f"the examples explain {share:.4f} of the loss instead of all of it")
    return doubts
