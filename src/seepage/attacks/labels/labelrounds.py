"""Labels of a client that was observed for several rounds, with another batch in each."""

from dataclasses import replace

import torch

from seepage.types import Attack, Observation, Outcome, Progress, Reconstruction, go_on

__all__ = ["labels_of_rounds"]


def labels_of_rounds(
    attack: Attack, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
) -> tuple[Reconstruction, ...]:
    """One result a round, oldest first; the label attacks themselves read the latest round alone.

    Each round is read by itself: nothing says that its batch, or even its size, is that of another. A round with
    obstacles is a failure that names them.

    Args:
        attack: a label attack.
        observation: one or more rounds.
        generator: for methods that draw.
        progress: for methods that take long.
    """
    results = []
    for one in observation.rounds:
        alone = replace(observation, rounds=(one,))
        obstacles = [str(obstacle) for obstacle in attack.obstacles(alone)]
        results.append(
            Reconstruction(outcome=Outcome.FAILED, reason=" ".join(obstacles), stats={"method": attack.name})
            if obstacles
            else attack(alone, generator=generator, progress=progress)
        )
    return tuple(results)
