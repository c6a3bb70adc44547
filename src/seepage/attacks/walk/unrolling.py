"""A client's local steps taken again on candidates, so that gradients can flow back through all of them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.types import LocalSteps, LocalTraining, Observation, Obstacle, Replayable

__all__ = ["Unrolled", "better_order", "steps_of", "unrolled", "unrolling_obstacle"]

_STEPS_AT_MOST = 64
_NUMBERS_AT_MOST = 10**8  # steps times parameters: each is held some four times until the step downhill
_LOOKS = 200  # orders tried at a time

Gradient = Callable[[dict[str, Tensor], Tensor, Tensor], tuple[Tensor, ...]]
"""The gradient of the mean cross-entropy by parameters, for ``inputs [k, *shape]`` and labels ``[k]`` or ``[k, C]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """What a FedAvg client would have sent for a candidate batch, as the estimate of a gradient.

    Args:
        rule: knows the steps of a batch.
        parameters: all that the client trains, of a copy of the network.
        sent: names of those that it sent, in the order of the target.
        kept: ``estimate = (kept * start - end) / gain``.
        gain: the same.
        order: ``[passes * b]`` which example stands at each place; ``None``: each pass as they come.

    Reference:
        Geiping et al., Inverting Gradients, NeurIPS 2020, section 6 (federated averaging); the steps themselves are
        those of ``torch.optim.SGD``.
    """

    rule: Replayable
    parameters: dict[str, Tensor]
    sent: tuple[str, ...]
    kept: float
    gain: float
    order: Tensor | None = None

    def __call__(self, gradient: Gradient, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """One tensor for each of ``sent``, from ``inputs [b, *shape]`` and ``labels [b]`` or ``[b, C]``."""
        steps = self.rule.local_steps(len(inputs))
        assert steps is not None, "an obstacle otherwise"
        order = self.places(len(inputs)).to(inputs.device)
        moved: dict[str, Tensor] = {}  # end minus start: apart from the start, it keeps its digits
        velocity: dict[str, Tensor] = {}
        at = self.parameters
        for group in steps.groups:
            parts = [gradient(at, inputs[order[rows]], labels[order[rows]]) for rows in group]
            for name, *slopes in zip(at, *parts, strict=True):
                slope = sum(slopes[1:], slopes[0]) / len(slopes)
                if steps.weight_decay:
                    slope = slope + steps.weight_decay * at[name]
                if steps.momentum and name in velocity:
                    slope = slope + steps.momentum * velocity[name]
                velocity[name] = slope
                moved[name] = moved[name] - steps.lr * slope if name in moved else -steps.lr * slope
            at = {name: value + moved[name] for name, value in self.parameters.items()}
        return tuple(((self.kept - 1) * self.parameters[name] - moved[name]) / self.gain for name in self.sent)

    def places(self, examples: int) -> Tensor:
        """``[passes * b]``: which example stands where."""
        if self.order is not None:
            return self.order
        steps = self.rule.local_steps(examples)
        return torch.arange(examples).repeat(1 if steps is None else steps.passes)

    def shuffled(self, examples: int, generator: torch.Generator) -> "Unrolled":
        """With an order drawn at random."""
        steps = self.rule.local_steps(examples)
        if steps is None:
            return self
        draws = [
            torch.randperm(examples, generator=generator, device=generator.device).cpu()
            for _ in range(1 if steps.one_order else steps.passes)
        ]
        return replace(self, order=torch.cat(draws * steps.passes if steps.one_order else draws))


def unrolled(observation: Observation, parameters: dict[str, Tensor], sent: tuple[str, ...]) -> Unrolled | None:
    """The steps to be taken; ``None`` where a plain gradient was sent or the rule is unknown.

    Args:
        observation: what the server has; :func:`unrolling_obstacle` finds nothing in it.
        parameters: all trainable ones, of a copy of the network.
        sent: names of those to be matched.
    """
    rule = observation.rule
    if rule is None or rule.is_gradient or not isinstance(rule, Replayable) or not isinstance(rule, LocalTraining):
        return None
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    size = observation.latest.batch_size  # what the estimate was made with
    kept, gain = rule.ended(one, zero, batch_size=size), rule.ended(zero, one, batch_size=size)
    if kept is None or gain is None or rule.local_steps(1) is None:
        return None
    return Unrolled(rule=rule, parameters=parameters, sent=sent, kept=float(kept), gain=-float(gain))


def better_order(
    steps: Unrolled, examples: int, distance: Callable[[Unrolled], float], generator: torch.Generator
) -> Unrolled:
    """The order of the examples improved by swaps of two in different local batches, as long as one helps.

    Args:
        steps: with the order so far, which is returned if none is better.
        examples: in the batch.
        distance: of what is sent in an order from the update.
        generator: chooses among the swaps where there are too many to try all.
    """
    swaps = _swaps(steps.rule.local_steps(examples), examples)
    if len(swaps) > _LOOKS:
        chosen = torch.randperm(len(swaps), generator=generator, device=generator.device)[:_LOOKS].tolist()
        swaps = [swaps[number] for number in chosen]
    least = distance(steps) if swaps else 0.0
    looks = 0
    improved = bool(swaps)
    while improved and looks < _LOOKS:
        improved = False
        for places in swaps:
            looks += 1
            order = steps.places(examples).clone()
            one, other = places.T
            order[one], order[other] = order[other].clone(), order[one].clone()
            tried = replace(steps, order=order)
            found = distance(tried)
            if found < 0.999 * least:
                steps, least, improved = tried, found, True
            if looks >= _LOOKS:
                break
    return steps


def _swaps(steps: LocalSteps | None, examples: int) -> list[Tensor]:
    """Pairs of places ``[n, 2]`` to be swapped at once: of one pass, or of all where they share an order."""
    if steps is None:
        return []
    batch_of = {
        place: number
        for number, rows in enumerate(rows for group in steps.groups for rows in group)
        for place in range(rows.start, rows.stop)
    }
    passes = torch.arange(steps.passes) * examples
    pairs = [pair for pair in itertools.combinations(range(examples), 2) if batch_of[pair[0]] != batch_of[pair[1]]]
    starts = [passes] if steps.one_order else list(passes[:, None])
    return [first[:, None] + torch.tensor(pair) for first in starts for pair in pairs]


def steps_of(observation: Observation, batch_size: int | None = None) -> LocalSteps | None:
    """The client's steps, ``None`` where a plain gradient was sent, or the rule or the batch size is unknown."""
    latest, rule = observation.latest, observation.rule
    size = batch_size or latest.known_size
    if size is None or rule is None or rule.is_gradient or not isinstance(rule, Replayable):
        return None
    return rule.local_steps(size)


def unrolling_obstacle(observation: Observation, batch_size: int | None = None) -> Obstacle | None:
    """Why the client's steps cannot be taken again, if so; steps are counted once the batch size is known."""
    rule = observation.rule
    if rule is None or rule.is_gradient:
        return None
    where = f"rule {rule.name}"
    if not isinstance(rule, Replayable) or rule.local_steps(1) is None:
        reason = "sends no plain gradient, and only local steps of SGD by one client are taken again."
        return Obstacle(where=where, reason=reason)
    steps = steps_of(observation, batch_size)
    if steps is None:
        return None
    count = len(steps.groups)
    numbers = count * sum(value.numel() for value in observation.latest.network.parameters() if value.requires_grad)
    if count > _STEPS_AT_MOST or numbers > _NUMBERS_AT_MOST:
        reason = (
            f"takes {count} local steps, which are held in memory: at most {_STEPS_AT_MOST} are taken again, and steps "
            f"times parameters up to {_NUMBERS_AT_MOST:.0e}; found {numbers:.1e}."
        )
        return Obstacle(where=where, reason=reason)
    return None
