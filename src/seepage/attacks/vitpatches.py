"""A vision transformer's image in closed form: its positions' gradient is the error at every patch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.recursion.patchsystem import PatchSystem, find_patch_system
from seepage.attacks.walk.distances import Squared
from seepage.attacks.walk.objective import Objective, make_objective, twice_differentiable
from seepage.networks.layers import read_layers
from seepage.types import GRANT_SIZE, Observation, Obstacle, Outcome, Progress, Reconstruction, Stats, Traces, go_on

__all__ = ["ViTPatches"]

_UPDATE_TOLERANCE = 1e-3  # relative; true inputs from float32 updates reproduce them to about 1e-5
_DEVIATIONS = 6.0  # of an entry's error, which none of some thousand entries exceeds
_EXACT_TO = 1e-3  # of the spread of the inputs: well below one step of 8 bits
_SPARE = 30  # equations beyond the unknowns that tell the rounding
_MOST_CLASSES = 200  # replayed to find a label
_PRIOR = 0.25  # of the valid range: spread of an input that nothing is known of


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTPatches:
    """One example of a network that embeds patches and adds a learned position to each: the image by least squares.

    The gradient of the position added to token ``t`` is the error ``d_t`` there, and the patch embedding's is
    ``gW = sum_t d_t p_t^T``. With the errors ``D [T, d]`` known, ``gW = D^T P`` is linear in the patches ``P [T, n]``
    and has one solution where ``D`` has full rank, which takes ``d >= T``. What is left of the spare equations tells
    how large rounding or noise is, hence each patch's deviation; within valid bounds, a patch that noise covers falls
    back to their middle.

    EXACT if the batch is known to hold one example, the rule is known to send its gradient as it is, six deviations
    of every patch stay below 1e-3 of the image's spread, and the gradient replayed from the image is the update, as a
    whole and in the two tensors solved with: any one example with this update has these patches. That the network has
    this form is held against its own gradients.

    Reference:
        The positions' gradient as the error is that of APRIL (Lu et al., CVPR 2022), which solves through the first
        attention; here the patch embedding's own gradient is solved, and certified.
    """

    @property
    def name(self) -> str:
        """``vit-patches``."""
        return "vit-patches"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """It needs the plain gradient of one example at a patch embedding with learned positions, no less wide."""
        latest, found = observation.latest, []
        if observation.rule is not None and not observation.rule.is_gradient:
            found.append(Obstacle(where=f"rule {observation.rule.name}", reason="sends no plain gradient."))
        size = latest.known_size
        if size != 1:
            there = f"it is unknown: {GRANT_SIZE}" if size is None else f"found {size}"
            reason = f"should be known to be 1: the positions' gradient sums over examples; {there}."
            found.append(Obstacle(where="batch size", reason=reason))
        if found:
            return found
        system = find_patch_system(latest.network, observation.input_shape)
        if isinstance(system, Obstacle):
            return [system]
        found += [
            Obstacle(where=name, reason="the update should hold its gradient.")
            for name in (system.weight, system.positions)
            if name not in latest.update
        ]
        width = system.module.weight.shape[0]
        if width < system.count:
            reason = f"{system.count} patches are more than the {width} numbers of a token: infinitely many images fit."
            found.append(Obstacle(where=system.weight, reason=reason))
        return found

    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,  # noqa: ARG002 - draws nothing
        progress: Progress = go_on,  # noqa: ARG002 - quick
    ) -> Reconstruction:
        """See the class."""
        latest = observation.latest
        system = find_patch_system(latest.network, observation.input_shape)
        if isinstance(system, Obstacle):
            raise ValueError(f"`obstacles` should be asked first; {system.where}: {system.reason}")
        errors = system.errors(latest.update[system.positions].double())
        if not bool(errors.any()):
            return Reconstruction(outcome=Outcome.FAILED, reason="The positions' gradient is zero: it holds nothing.")
        objective = make_objective(observation, distance=Squared(), priors=(), dtype=torch.float64)
        gradient = system.weight_gradient(latest.update[system.weight].double())
        inputs, deviation = _solved(system, errors, gradient, objective.bounds)
        if objective.bounds is not None:
            inputs = inputs.clamp(*objective.bounds)
        if not bool(inputs.isfinite().all()):
            return Reconstruction(outcome=Outcome.FAILED, reason="The patches came out as no finite numbers.")
        label, residual = _replayed(observation, objective, inputs[None])
        own = math.inf if label is None else _own_residual(objective, inputs[None], label, system)
        spread = float(inputs.max() - inputs.min())
        stats: Stats = {
            "patches": system.count,
            "residual": residual,
            "residual of the equations": own,
            "deviation": deviation / max(spread, 1e-30),
        }
        dtype = next(iter(latest.update.values())).dtype
        return _told(observation, inputs[None].to(dtype), label, stats, enough=_spare(errors, gradient) >= _SPARE)


def _solved(
    system: PatchSystem, errors: Tensor, gradient: Tensor, bounds: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, float]:
    """The image ``[c, h, w]``, and the largest deviation of an entry that the spare equations allow."""
    left, sizes, right = torch.linalg.svd(errors, full_matrices=False)  # [T, T], [T], [T, d]
    missed = gradient - right.T @ (right @ gradient)
    rounding = torch.finfo(torch.float32).eps * float(gradient.norm()) / math.sqrt(gradient.numel())
    noise = float(missed.norm()) / math.sqrt(max(1, _spare(errors, gradient))) if _spare(errors, gradient) else rounding
    middle, damping = torch.zeros_like(errors[:, :1] @ gradient[:1]), 0.0
    if bounds is not None:
        low, high = (bound.expand(system.input_shape) for bound in bounds)
        middle = system.patches((low + high) / 2)
        damping = (noise / max(_PRIOR * float((high - low).mean()), 1e-30)) ** 2
    weighed = sizes / (sizes.square() + damping).clamp_min(1e-300)
    patches = middle + left @ (weighed[:, None] * (right @ (gradient - errors.T @ middle)))
    deviation = noise * (left / sizes.clamp_min(1e-300)).square().sum(dim=1).sqrt()
    return system.inputs(patches), float(deviation.max())


def _spare(errors: Tensor, gradient: Tensor) -> int:
    """Equations beyond the unknowns."""
    return max(0, errors.shape[1] - errors.shape[0]) * gradient.shape[1]


def _replayed(observation: Observation, objective: Objective, inputs: Tensor) -> tuple[Tensor | None, float]:
    """The label ``[1]``, and the relative distance of its gradient from the update; infinite without a label."""
    latest = observation.latest
    last = read_layers(latest.network, observation.input_shape).layers[-1].bias
    if latest.labels is not None:
        tried = [latest.labels]
    elif last is not None and last in latest.update and latest.update[last].numel() == observation.classes:
        tried = [latest.update[last].argmin()[None]]
    elif observation.classes <= _MOST_CLASSES:
        tried = list(torch.arange(observation.classes, device=inputs.device)[:, None])
    else:
        return None, math.inf
    with twice_differentiable():
        residuals = [objective.residual(inputs, label) for label in tried]
    best = min(range(len(tried)), key=residuals.__getitem__)
    return tried[best], residuals[best]


def _own_residual(objective: Objective, inputs: Tensor, label: Tensor, system: PatchSystem) -> float:
    """The larger relative distance of the two tensors solved with: in a whole update they may be too small to count."""
    with twice_differentiable(), torch.enable_grad():
        replayed = dict(zip(objective.parameters, objective.sent(inputs, label), strict=True))
    sent = dict(zip(objective.parameters, objective.target, strict=True))
    return max(
        float((replayed[name].detach() - sent[name]).norm() / sent[name].norm().clamp_min(1e-300))
        for name in (system.weight, system.positions)
    )


def _told(
    observation: Observation,
    inputs: Tensor,
    label: Tensor | None,
    stats: Stats,
    *,
    enough: bool,
) -> Reconstruction:
    residual, deviation = float(stats["residual"]), float(stats["deviation"])
    rule = observation.rule
    doubts = []
    if rule is None or not rule.is_gradient or rule.traces is not Traces.AT_START:
        doubts.append("the client's rule is not known to send the gradient as it is")
    if not enough:
        doubts.append("too few equations are left over to tell the rounding")
    elif not _DEVIATIONS * deviation <= _EXACT_TO:
        doubts.append(f"rounding or noise may move a pixel by {_DEVIATIONS * deviation:.1e} of the spread")
    if not residual <= _UPDATE_TOLERANCE:
        doubts.append(f"the recomputed gradient differs from the update by {residual:.1e} of its size")
    elif not float(stats["residual of the equations"]) <= _UPDATE_TOLERANCE:
        doubts.append("the recomputed gradients of the embedding or the positions differ from those sent")
    if label is not None and not residual < 1:
        reason = "Its gradient is no nearer to the update than nothing: more than one example, or a noised update."
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    return Reconstruction(
        outcome=Outcome.APPROXIMATE if doubts else Outcome.EXACT,
        inputs=inputs,
        labels=label,
        certified=torch.full((1,), not doubts, dtype=torch.bool),
        reason=f"Not certified: {'; '.join(doubts)}." if doubts else "The only example with this update, and replayed.",
        stats=stats,
    )
