"""RestoreLabels: the one entry that chooses among the label attacks, and says which and how sure."""

from dataclasses import dataclass, field

import torch

from seepage.attacks.labels.auxiliary import AuxiliaryData, probabilities_of
from seepage.attacks.labels.classmeans import ClassMeans
from seepage.attacks.labels.clippedrules import clips_only
from seepage.attacks.labels.embeddings import noise_inputs
from seepage.attacks.labels.exact.balanced import read_balanced
from seepage.attacks.labels.exact.reading import read_pencil
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.labelbaselines import PresentClasses
from seepage.attacks.labels.labelsbetween import network_after
from seepage.attacks.labels.lastlayer import label_obstacles, usable
from seepage.attacks.labels.noiseprior import NoisePrior
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.types import GRANT_SIZE, NOT_BEGUN, Attack, Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["RestoreLabels"]

_NAMED = 20  # classes in a sentence, at most
_CHANCE = 12**-0.5  # root mean square distance from integers of numbers that have nothing to do with them
_CHANCE_SPREAD = 0.26  # two deviations of it, times the root of how many numbers there are


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreLabels:
    """Exact if the rank allows, then auxiliary data, then estimates if the network looks untrained, else a guess.

    Estimates are those of the pooled embedding, unless its counts lie far from integers, as true ones do not: then the
    class means, or the noise prior where these do not apply, take its place, if theirs lie nearer or those of the
    pooled embedding lie as far as chance has it.

    ``stats`` say which (``method``) and how sure (``confidence``: certified, estimated or guess; ``expected_error``).

    Args:
        exact: the first attempt.
        auxiliary: data like the client's, ``None`` if there are none.
        noises: noise inputs that show whether the network is trained.
        near: root mean square distance from integers below which the pooled embedding's counts are taken.
        untrained: it counts as untrained while no class's mean probability on them exceeds so many times ``1/C``, in
            all states known.
    """

    exact: ExactLabels = field(default_factory=ExactLabels)
    auxiliary: AuxiliaryData | None = None
    noises: int = 32
    near: float = 0.05
    untrained: float = 3.0

    def __post_init__(self) -> None:
        if self.noises < 1:
            raise ValueError(f"`noises` should be at least 1; found {self.noises}.")

    @property
    def name(self) -> str:
        """``labels``."""
        return "labels"

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """It needs a last linear layer, the batch size unless the rank tells it, data of the right shape if any."""
        found = label_obstacles(observation, examples=False)
        if not found and usable(observation).examples is None:
            return self._obstacles_of_unknown_size(observation)
        if not found and self.auxiliary is not None:
            found = self.auxiliary.obstacles(observation)
        return found

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """See the class."""
        tried = None
        if not self.exact.obstacles(observation):
            tried = self.exact(observation, generator=generator, progress=progress)
            known = max(int(tried.certified.sum()), int(tried.stats.get("fitting", 0)))
            if 2 * known > len(tried.certified) or _found_under_noise(tried, observation):
                return tried
        if usable(observation).examples is None:
            return _of_unknown_size(observation, "" if tried is None else f" {tried.reason}")
        if self.auxiliary is not None:
            return self.auxiliary(observation, generator=generator, progress=progress)
        if self._looks_untrained(observation, generator):
            return self._estimated(observation, generator, progress)
        if tried is not None and tried.labels is not None and 2 * int(tried.stats["found"]) > len(tried.labels):
            return tried
        return PresentClasses()(observation, generator=generator, progress=progress)

    def _estimated(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        first = PooledEmbedding()(observation, generator=generator, progress=progress)
        if float(first.stats.get("rounding_distance", 0.0)) < self.near or usable(observation).deviation:
            return first  # noise moves the counts of all methods alike, and covers what the others read besides
        second: Attack = ClassMeans() if not ClassMeans().obstacles(observation) else NoisePrior()
        if second.obstacles(observation):
            return first
        other = second(observation, generator=generator, progress=progress)
        near, far = (float(one.stats.get("rounding_distance", 1.0)) for one in (first, other))
        return first if near < min(far, _CHANCE - _CHANCE_SPREAD / observation.classes**0.5) else other

    def _obstacles_of_unknown_size(self, observation: Observation) -> list[Obstacle]:
        """Silence where only the batch size is missing would be taken for protection."""
        found = self.exact.obstacles(observation)
        if found:
            return [*found, *label_obstacles(observation)]
        layer = usable(observation)
        pencil = read_pencil(layer, reach=self.exact.reach)
        if not isinstance(pencil, str) or read_balanced(layer, reach=self.exact.reach) is not None:
            return []
        reason = f"is unknown to the server, and the update does not tell it; {GRANT_SIZE}. {pencil}"
        return [Obstacle(where="batch_size", reason=reason)]

    def _looks_untrained(self, observation: Observation, generator: torch.Generator) -> bool:
        noise = noise_inputs(observation, self.noises, generator)
        states = [observation.latest.network, network_after(observation)]
        p = [probabilities_of(state, noise).mean(0) for state in states if state is not None]
        return max(float(one.max()) for one in p) < self.untrained / observation.classes


def _of_unknown_size(observation: Observation, because: str) -> Reconstruction:
    """What is known all the same: a class whose gradient is negative somewhere has examples in the batch."""
    layer, rule = usable(observation), observation.rule
    there = torch.zeros_like(layer.gb, dtype=torch.bool)
    if not layer.deviation and (rule is None or rule.is_gradient or clips_only(rule)):
        there = layer.gb < -8 * layer.eps * layer.gb.abs().max()
        there = there | layer.present if layer.rectified else there
    classes = there.nonzero()[:, 0].tolist()
    named = ", ".join(map(str, classes[:_NAMED])) + (", ..." if len(classes) > _NAMED else "")
    known = f" Unless noise was added, the batch has examples of at least these classes: {named}." if classes else ""
    return Reconstruction(
        outcome=Outcome.FAILED,
        reason=f"The batch size could not be restored; {GRANT_SIZE}.{known}{because}",
        stats={"method": "labels", "classes_there": len(classes), "stopped": NOT_BEGUN},
    )


def _found_under_noise(tried: Reconstruction, observation: Observation) -> bool:
    """Whether every example was found where noise keeps any from being certified."""
    whole = tried.labels is not None and tried.stats["found"] == len(tried.labels)
    return whole and observation.rule is not None and not (observation.rule.is_gradient or clips_only(observation.rule))
