"""What gradient matching walks from: labels given, restored or unknown, and starts of noise or of another attack."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.walk.objective import Objective, twice_differentiable
from seepage.types import NOT_BEGUN, Attack, Observation, Outcome, Progress, Reconstruction, Stats

__all__ = ["Unknowns", "Unready", "prepare"]

_Told = tuple[Tensor | None, int, Stats]  # labels [b] where they are known, b, and how they came about


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknowns:
    """Starts of a descent.

    Args:
        inputs: ``[s, b, *shape]``.
        labels: ``[s, b]``; meaningless where ``logits`` are walked along.
        logits: ``[s, b, C]``, ``None`` where the labels are known.
        stats: how labels and starts came about.
        given: the first start is another attack's reconstruction.
    """

    inputs: Tensor
    labels: Tensor
    logits: Tensor | None
    stats: Stats
    given: bool = False

    def only(self, index: int) -> "Unknowns":
        """One of the starts."""
        one = slice(index, index + 1)
        logits = None if self.logits is None else self.logits[one]
        given = self.given and index == 0
        return Unknowns(inputs=self.inputs[one], labels=self.labels[one], logits=logits, stats=self.stats, given=given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unready:
    """No start was found: one sentence on why, and whether an attack was tried at all."""

    reason: str
    begun: bool


def prepare(
    observation: Observation,
    objective: Objective,
    *,
    labels: Attack | None,
    start: Attack | None,
    starts: int,
    generator: torch.Generator,
    progress: Progress,
) -> Unknowns | Unready:
    """Starts for a descent, or why there are none.

    Args:
        observation: what the server has.
        objective: gives device and precision, and pairs a start's inputs with labels.
        labels: restores labels that are not known; ``None``: they are walked along.
        start: whose reconstruction is the first start.
        starts: how many.
        generator: of noise.
        progress: of the attacks held.
    """
    told = _told(observation, labels, generator, progress)
    if isinstance(told, str):
        return Unready(reason=told, begun=False)
    noise = _noise(observation, objective, told, starts, generator)
    if start is None:
        return noise
    given = start(observation, generator=generator, progress=progress)
    b = noise.inputs.shape[1]
    inputs = None if given.outcome is Outcome.FAILED or given.layer else given.inputs
    if inputs is not None and _may_be_copies(observation, b, of=len(inputs)):
        told = _copied(told, len(inputs) // b)
        noise = _noise(observation, objective, told, starts, generator)
    elif inputs is None or len(inputs) != b:
        found = "nothing" if given.inputs is None else f"{len(given.inputs)} examples"
        begun = given.stats.get("stopped") != NOT_BEGUN and (given.inputs is None or len(given.inputs) == b)
        reason = f"The start should be {b} examples by {start.name}; it gave {found}. {given.reason}".strip()
        return Unready(reason=reason, begun=begun)
    return _started(noise, objective, inputs, given.labels, name=start.name)


def _noise(
    observation: Observation, objective: Objective, told: _Told, starts: int, generator: torch.Generator
) -> Unknowns:
    """Starts of noise, in the valid range."""
    known, b, stats = told
    like = objective.target[0]
    inputs = _normal((starts, b, *observation.input_shape), like, generator)
    if objective.bounds is not None:
        inputs = inputs.clamp(*objective.bounds)
    chosen = torch.zeros(b, dtype=torch.int64) if known is None else known
    chosen = chosen.to(like.device).expand(starts, b).clone()
    logits = None if known is not None else _normal((starts, b, observation.classes), like, generator)
    return Unknowns(inputs=inputs, labels=chosen, logits=logits, stats=stats)


def _started(noise: Unknowns, objective: Objective, inputs: Tensor, read: Tensor | None, *, name: str) -> Unknowns:
    """The first start is ``inputs [b, *shape]``, with ``read [b]`` beside them where labels were read."""
    noise.inputs[0] = inputs.to(noise.inputs)
    if noise.logits is None:
        noise.labels[0] = _ordered(objective, noise.inputs[0], noise.labels[0], read)
    elif read is not None and bool((read >= 0).all()):
        classes = noise.logits.shape[-1]
        said = torch.nn.functional.one_hot(read, classes).to(noise.logits)
        noise.logits[0] = said * math.log(9 * max(1, classes - 1))  # nine tenths sure
    return replace(noise, stats=noise.stats | {"start": name}, given=True)


def _may_be_copies(observation: Observation, restored: int, *, of: int) -> bool:
    """Whether a batch of so many may show ``restored`` labels: copies of all examples have one gradient, and examples
    of one class nearly so."""
    return observation.latest.known_size is None and of > restored and of % restored == 0


def _copied(told: _Told, times: int) -> _Told:
    known, b, stats = told
    said = f"{b} restored, taken for {times} of each"
    return None if known is None else known.repeat_interleave(times), b * times, stats | {"batch size": said}


def _told(
    observation: Observation, labels: Attack | None, generator: torch.Generator, progress: Progress
) -> _Told | str:
    """Labels ``[b]`` if known or restored, ``b``, and how they came about; or why the batch size stays unknown."""
    known, size = observation.latest.labels, observation.latest.batch_size
    if known is not None:
        return known, len(known), {"labels": "given"}
    stats: Stats = {"labels": "walked along"}
    tried = _restored(observation, labels, generator, progress, needed=size is None)
    if isinstance(tried, str):
        return tried
    if tried is not None and tried.labels is not None:
        method = f"{tried.stats.get('method', 'a label attack')} ({tried.stats.get('confidence', 'certified')})"
        if labels is not None:
            return tried.labels, len(tried.labels), {"labels": f"restored by {method}"}
        size = len(tried.labels)
        stats["batch size"] = f"restored by {method}"
    return "The batch size is neither known nor restored." if size is None else (None, size, stats)


def _restored(
    observation: Observation, labels: Attack | None, generator: torch.Generator, progress: Progress, *, needed: bool
) -> Reconstruction | str | None:
    """What the label attack says; a sentence if it fails where the batch size hangs on it."""
    attack = labels if labels is not None else RestoreLabels()
    if labels is None and not needed:
        return None
    if attack.obstacles(observation):
        return None
    tried = attack(observation, generator=generator, progress=progress)
    if tried.labels is not None and len(tried.labels) and bool((tried.labels >= 0).all()):
        return tried
    return f"The batch size is unknown and the labels could not be restored. {tried.reason}" if needed else None


def _ordered(objective: Objective, inputs: Tensor, labels: Tensor, read: Tensor | None) -> Tensor:
    """``labels [b]`` in the order of ``inputs [b, *shape]``: as ``read [b]`` beside them, and the rest as they fit."""
    if read is None:
        return _paired(objective, inputs, labels)
    read, left = read.to(labels.device), labels.tolist()
    found = torch.full_like(labels, -1)
    for place, label in enumerate(read.tolist()):
        if label in left:
            left.remove(label)
            found[place] = label
    open_ = found < 0
    if left:
        found[open_] = _paired(objective, inputs[open_], labels.new_tensor(left))
    return found


def _paired(objective: Objective, inputs: Tensor, labels: Tensor) -> Tensor:
    """``labels [b]`` in the order in which the gradients of ``inputs [b, *shape]`` point most at the update."""
    from scipy.optimize import linear_sum_assignment

    gain = inputs.new_zeros(len(inputs), len(labels))
    with twice_differentiable(), torch.enable_grad():
        for label in torch.unique(labels):
            for index in range(len(inputs)):
                own = objective.gradients(inputs[index : index + 1], label[None])
                towards = sum((g.detach() * t).sum() for g, t in zip(own, objective.target, strict=True))
                gain[index, labels == label] = torch.as_tensor(towards).to(gain)
    _, places = linear_sum_assignment(-gain.double().cpu().numpy())
    return labels[torch.as_tensor(places, device=labels.device)]


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn in one precision and on the generator's device, so that a seed means the same start everywhere.
    return torch.randn(shape, dtype=torch.float64, generator=generator, device=generator.device).to(like)
