"""Attacks for one batch size: is the client's batch of that size? A batch of another is no reason to report silence."""

import torch

from seepage.attacks.inverters.roundmap import row_noise
from seepage.attacks.labels.lastlayer import last_layer
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.types import GRANT_SIZE, NOT_BEGUN, Observation, Obstacle, Outcome, Progress, Reconstruction

__all__ = ["refuse_size", "size_obstacles"]

_BEYOND = 3.0  # times the largest singular value that the noise itself would have


def size_obstacles(observation: Observation, examples: int, *, why: str) -> list[Obstacle]:
    """A batch size that is known should be ``examples``.

    Args:
        observation: what the server has.
        examples: that the attack takes.
        why: it takes no others; the beginning of a sentence on what was found.
    """
    size = observation.latest.known_size
    return [] if size in {None, examples} else [Obstacle(where="batch size", reason=f"{why}; found {size}.")]


def refuse_size(
    observation: Observation, examples: int, *, why: str, generator: torch.Generator, progress: Progress
) -> Reconstruction | None:
    """An attack that did not begin if the update shows another number of examples, where the size is unknown.

    The label attacks are asked; where they do not know, the rank of the last layer's gradient beyond its noise.
    """
    if observation.latest.known_size is not None:
        return None
    labels, found = RestoreLabels(), ""
    tried = None
    if not labels.obstacles(observation):
        tried = labels(observation, generator=generator, progress=progress)
    if tried is not None and tried.labels is not None and len(tried.labels):
        if examples % len(tried.labels):  # several copies of all examples have the gradient of one of each
            found = f"by its labels the update is of {len(tried.labels)}"
    elif (rank := _rank(observation)) > examples:
        found = f"the update's last layer has a rank of {rank}, so it is of more"
    if not found:
        return None
    reason = f"The batch should be of a size it takes: {why}; {found}. If you know better, {GRANT_SIZE}."
    return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats={"stopped": NOT_BEGUN})


def _rank(observation: Observation) -> int:
    """Of the last layer's gradient beyond the noise that its rows' sum shows: the batch has no fewer; 0: no layer."""
    layer = last_layer(observation)
    if isinstance(layer, Obstacle):
        return 0
    noise = row_noise(layer.gW) * (len(layer.gW) ** 0.5 + layer.gW.shape[1] ** 0.5)
    return int((torch.linalg.svdvals(layer.gW) > _BEYOND * noise).sum())
