"""Attack networks as attacks: one forward pass from an update to a batch, trained before on public pairs."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage.attacks.git import CoarseGIT, ExactGIT
from seepage.attacks.inverters.blueprint import Blueprint, InverterKind
from seepage.attacks.inverters.fixedsize import refuse_size, size_obstacles
from seepage.attacks.inverters.pairs import PublicExamples
from seepage.attacks.inverters.roundmap import RoundMap
from seepage.attacks.lti import LTI
from seepage.types import INTERRUPTED, Observation, Obstacle, Outcome, Progress, Reconstruction, Stats, go_on

__all__ = ["Inverter", "build_module"]

_BEYOND = 0.1  # of the valid range: a value so far outside it is wrong
_UNLIKE = 0.1  # share of such values; of updates like those of training it stays below 1 % (docs/attacks/git.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverter:
    """A trained attack network. Approximate always.

    With public inputs at hand what it says is weighed against maps fitted at the weights of the round
    (:class:`~seepage.attacks.inverters.roundmap.RoundMap`), so that neither noise nor later rounds spoil it.

    Args:
        blueprint: what it was built for.
        module: from gradients ``[k, *shape]`` by name to ``[k, b, *shape]``; never changed here.
        public: examples of its training, with those that it was not trained on; ``None``: it answers alone.
        file: name of the file that it was read from, without its ending; tells it from others in findings.
    """

    blueprint: Blueprint
    module: nn.Module
    public: PublicExamples | None = None
    file: str = ""

    @property
    def name(self) -> str:
        """``git``, ``exact-git`` or ``lti``, and the file's name after it, as in ``git-FILE``."""
        kind = "git" if self.blueprint.kind is InverterKind.COARSE_GIT else self.blueprint.kind.value
        return f"{kind}-{self.file}" if self.file else kind

    def obstacles(self, observation: Observation) -> list[Obstacle]:
        """The update should hold the gradients that it was trained on, of a batch of the size it was trained for."""
        latest, found = observation.latest, []
        if tuple(observation.input_shape) != self.blueprint.input_shape:
            reason = (
                f"was trained for inputs {list(self.blueprint.input_shape)}; found {list(observation.input_shape)}."
            )
            found.append(Obstacle(where="attack network", reason=reason))
        if observation.rule is not None and not observation.rule.is_gradient:
            reason = "sends no plain gradient, which is what the attack network was trained on."
            found.append(Obstacle(where=f"rule {observation.rule.name}", reason=reason))
        found += self._misfit(latest.update)
        if self.public is not None and not all(bool(value.isfinite().all()) for value in latest.network.parameters()):
            reason = "its parameters should be finite, for pairs are made at them; found others."
            found.append(Obstacle(where="network", reason=reason))
        found += [] if found else self._misscaled(observation)
        return [*found, *size_obstacles(observation, self.blueprint.examples, why=self._fixed)]

    def _misscaled(self, observation: Observation) -> list[Obstacle]:
        """Public inputs were scaled otherwise than the client's if they lie mostly beyond the valid range, or are as
        files hold them, all in [0, 1], where the range is wider: what is scaled by channel has negative numbers.
        """
        if self.public is None or observation.bounds is None:
            return []
        low, high = (bound.to(self.public.inputs) for bound in observation.bounds)
        out, valid = _far_out(self.public.inputs, low, high), (float(low.min()), float(high.max()))
        least, most = (float(end) for end in self.public.inputs.aminmax())
        if out > _UNLIKE:
            found = f"of which {out:.0%} lie far out of the valid range here"
        elif least >= 0 and most <= 1 and (valid[0] < -_BEYOND or valid[1] > 1 + _BEYOND):
            found = f"all in [0, 1], where the valid range here is {valid[0]:.2g} to {valid[1]:.2g}"
        else:
            return []
        reason = f"was trained on inputs of another scaling, {found}: give training and audit the same `--normalize`."
        return [Obstacle(where="attack network", reason=reason)]

    def _misfit(self, update: Mapping[str, Tensor]) -> list[Obstacle]:
        """The first gradient that is not as in training, and how many others are not."""
        shapes = self.blueprint.gradients
        wrong = [name for name, shape in shapes.items() if name not in update or tuple(update[name].shape) != shape]
        if not wrong:
            return []
        is_there = list(update[wrong[0]].shape) if wrong[0] in update else "nothing"
        others = (
            f" {len(wrong) - 1} others do not fit either: it was trained for another network." if len(wrong) > 1 else ""
        )
        reason = (
            f"the attack network was trained on a gradient {list(shapes[wrong[0]])} of it; found {is_there}.{others}"
        )
        return [Obstacle(where=wrong[0], reason=reason)]

    @property
    def _fixed(self) -> str:
        return f"the attack network was trained for {self.blueprint.examples}"

    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,
        progress: Progress = go_on,
    ) -> Reconstruction:
        """See the class."""
        update = observation.latest.update
        if not any(bool(value.any()) for value in update.values()):
            return Reconstruction(outcome=Outcome.FAILED, reason="The update is zero everywhere: it holds nothing.")
        examples = self.blueprint.examples
        refused = refuse_size(observation, examples, why=self._fixed, generator=generator, progress=progress)
        if refused is not None:
            return refused
        dtype = next(iter(update.values())).dtype
        found, labels, said, reason = self._said(observation, generator, progress)
        stats: Stats = {"trained for examples": examples, **said}
        if not bool(found.isfinite().all()):
            reason = "The attack network gave no finite numbers: the update is unlike any it was trained on."
            return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
        if observation.bounds is not None:
            low, high = (bound.to(found) for bound in observation.bounds)
            stats["out of range"] = out = _far_out(found, low, high)
            if out > _UNLIKE:
                reason = (
                    f"{out:.0%} of the values lie far out of the valid range, so it is hardly right: the update is "
                    "unlike those of the training (noised, of inputs scaled otherwise (`--normalize`), or of another "
                    "round, for which it is to be trained again)."
                )
            found = found.clamp(low, high)
        return Reconstruction(
            outcome=Outcome.APPROXIMATE,
            inputs=found.to(dtype),
            labels=labels,
            certified=torch.zeros(len(found), dtype=torch.bool),
            reason=reason,
            stats=stats,
        )

    def _said(
        self, observation: Observation, generator: torch.Generator, progress: Progress
    ) -> tuple[Tensor, Tensor | None, Stats, str]:
        """Inputs, labels where they are read, numbers to be told, and where it comes from."""
        latest = observation.latest
        device = next(iter(latest.update.values())).device
        here = next(self.module.parameters()).device == device
        module = self.module if here else copy.deepcopy(self.module).to(device)
        if self.public is not None:
            mapping = RoundMap(blueprint=self.blueprint, public=self.public.to(device))
            known = latest.labels
            with torch.no_grad():
                mapped = mapping(
                    latest.network, latest.update, labels=known, module=module, generator=generator, progress=progress
                )
            if mapped is not None:
                reason = "An attack network and maps fitted at the weights of the round; nothing proves what they give."
                return mapped.inputs, mapped.labels, mapped.stats, reason
        stats: Stats = {} if self.public is None else {"stopped": INTERRUPTED}
        return *_answer(module, latest.update), stats, "One pass of an attack network; nothing proves what it gives."


def _far_out(found: Tensor, low: Tensor, high: Tensor) -> float:
    """Share of values beyond the valid range by a tenth of it."""
    beyond = _BEYOND * (high - low)
    return float(((found < low - beyond) | (found > high + beyond)).float().mean())


def _answer(module: nn.Module, update: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Inputs ``[b, *shape]``, and labels ``[b]`` where it reads them."""
    with torch.no_grad():
        gradients = {name: value.float()[None] for name, value in update.items()}
        found: Tensor = module(gradients)[0]
        read = module.labels(gradients) if isinstance(module, CoarseGIT) else None
    return found, None if read is None else read[0]


def build_module(blueprint: Blueprint) -> nn.Module:
    """The attack network of a blueprint, with fresh weights from ``hash_seed``; the global random state stays."""
    kinds = {InverterKind.COARSE_GIT: CoarseGIT, InverterKind.EXACT_GIT: ExactGIT, InverterKind.LTI: LTI}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(blueprint.hash_seed)
        module: nn.Module = kinds[blueprint.kind](blueprint)
    return module
