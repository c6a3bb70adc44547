"""What certifies the examples of a batch that all else speaks for: the replay, or where it cannot run, the rule."""

from dataclasses import replace

import torch
from torch import Tensor

from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.precision import error_of_errors
from seepage.attacks.disaggregation.replay import Replay, explains_all, lone, replay, scale_is_known
from seepage.attacks.disaggregation.solution import Solution
from seepage.attacks.disaggregation.warrant import unwarranted
from seepage.types import Observation

__all__ = ["prove"]


_REPLAY_TOLERANCE = 1e-4  # relative, more where the error itself is known less well; still pixel-identical
_LOOSE_REPLAY = 1e-3  # the most that known rounding of the weights may loosen it to
_ALONE = 1e-4  # relative distance from the update of a batch that only its replay speaks for; seen: 3e-6
_ABOVE_ROUNDING = 20.0  # true examples were seen at 7 to 10 times the rounding expected
_TRACES = 4  # of two classes, from which on it is out of the question that all were merged alike
_NO_SCALE = "nothing but the bias gradient tells the scale of the inputs, and the update is not their gradient"


def prove(observation: Observation, mixture: Mixture, solution: Solution, generator: torch.Generator) -> Solution:
    """The solution with what the network, or the client's rule, has to say of it.

    Args:
        observation: what the server saw.
        mixture: of the attacked layer.
        solution: facts 1 to 3 of the certificate.
        generator: draws variants of examples within rounding.
    """
    if not bool(solution.certified.any()):
        return replace(solution, evident=solution.firm)
    replayed = replay(observation, mixture.layer, solution.inputs, solution.errors, generator=generator)
    if isinstance(replayed, Replay):
        return _with_replay(observation, mixture, solution, replayed)
    if (doubt := unwarranted(observation, mixture)) is not None:
        none = torch.zeros_like(solution.evident)
        return replace(solution, evident=none, replayed=f"{replayed}, and {doubt}")
    lone = solution.lone & _none_merged(observation, mixture)
    return replace(solution, evident=solution.firm, lone=lone, replayed=replayed)


def _with_replay(observation: Observation, mixture: Mixture, solution: Solution, replayed: Replay) -> Solution:
    tolerance = _replay_tolerance(mixture, solution)
    same = replayed.residual <= tolerance
    evident = solution.evident & (same | solution.rough)
    if not (bool((same & ~solution.rough)[~solution.firm].all()) and explains_all(replayed, sure=evident)):
        evident = evident & solution.firm
    if not mixture.layer.relu and replayed.update_residual > _ALONE:
        evident = torch.zeros_like(evident)
    rank, announced = mixture.batch_size, observation.latest.batch_size
    sure = evident & ~solution.rough
    if not scale_is_known(replayed, sure=sure, tolerance=tolerance, sizes=(announced or rank,)):
        return replace(solution, evident=torch.zeros_like(evident), replayed=_NO_SCALE)
    single = lone(replayed, sure=sure, rank=rank, announced=announced)
    if announced is None and observation.classes == 2 and rank < _TRACES:
        single = torch.zeros_like(single)
    return replace(solution, evident=evident, lone=single, replayed=replayed)


def _none_merged(observation: Observation, mixture: Mixture) -> bool:
    """Whether no two examples can have become one, where no share of the loss tells: the rank counts them all.

    Where the batch size is unknown it takes more than two classes, whose errors tell examples apart that switch on the
    same units, unless they are near-copies.
    """
    announced = observation.latest.batch_size
    return observation.classes > 2 if announced is None else announced == mixture.batch_size


def _replay_tolerance(mixture: Mixture, solution: Solution) -> Tensor:
    """``[b]``: wider for faint errors, and where the update is a difference of rounded weights."""
    known_to = solution.error_tol.clamp_min(_REPLAY_TOLERANCE)
    if not mixture.layer.rounding:
        return known_to
    expected = error_of_errors(mixture, solution.inputs, solution.errors)
    return torch.maximum(known_to, (_ABOVE_ROUNDING * expected).clamp_max(_LOOSE_REPLAY))
