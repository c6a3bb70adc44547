"""Attack networks as attacks: one forward pass from an update to a batch, trained before on public pairs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seepage.attacks.blueprint import Blueprint, InverterKind, read_blueprint
from seepage.attacks.git import CoarseGIT, ExactGIT
from seepage.attacks.lti import LTI
from seepage.attacks.pairs import PublicExamples
from seepage.attacks.roundmap import Mapped, RoundMap
from seepage.errors import InputError
from seepage.types import INTERRUPTED, Observation, Obstacle, Outcome, Progress, Reconstruction, go_on

__all__ = ["Inverter", "build_module", "load_inverter", "save_inverter"]

_FORMAT = "seepage-inverter-1"
_INPUTS, _LABELS = "public.inputs", "public.labels"
_DIGITS = 10
_BEYOND = 0.1  # of the valid range: a value so far outside it is wrong
_UNLIKE = 0.1  # share of such values; of updates like those of training it stays below 1 % (docs/attacks/git.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverter:
    """A trained attack network. Approximate always.

    With public inputs at hand what it says is weighed against maps fitted at the weights of the round
    (:class:`~seepage.attacks.roundmap.RoundMap`), so that neither noise nor later rounds spoil it.

    Args:
        blueprint: what it was built for.
        module: from gradients ``[k, *shape]`` by name to ``[k, b, *shape]``; never changed here.
        public: examples of its training, with those that it was not trained on; ``None``: it answers alone.
    """

    blueprint: Blueprint
    module: nn.Module
    public: PublicExamples | None = None

    @property
    def name(self) -> str:
        """``git``, ``exact-git`` or ``lti``."""
        return "git" if self.blueprint.kind is InverterKind.COARSE_GIT else self.blueprint.kind.value

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
        for layer in self.blueprint.layers:
            wanted = {layer.weight: layer.shape} | ({layer.bias: layer.shape[:1]} if layer.bias is not None else {})
            for name, shape in wanted.items():
                seen = latest.update.get(name)
                if seen is None or tuple(seen.shape) != tuple(shape):
                    is_there = "nothing" if seen is None else list(seen.shape)
                    reason = f"the attack network was trained on a gradient {list(shape)} of it; found {is_there}."
                    found.append(Obstacle(where=name, reason=reason))
        size = latest.batch_size if latest.labels is None else len(latest.labels)
        if size is not None and size != self.blueprint.examples:
            reason = f"the attack network was trained for {self.blueprint.examples}; found {size}."
            found.append(Obstacle(where="batch size", reason=reason))
        return found

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
        example = next(iter(update.values()))
        stats: dict[str, float | int | str | bool] = {"trained for examples": self.blueprint.examples}
        reason = "One pass of an attack network; nothing proves what it gives."
        labels: Tensor | None
        mapped = self._at_round(observation, generator, progress)
        if mapped is not None:
            found, labels = mapped.inputs, mapped.labels
            stats |= mapped.stats
            reason = "An attack network and maps fitted at the weights of the round; nothing proves what they give."
        else:
            found, labels = _answer(self.module.to(example.device), update)
            stats |= {} if self.public is None else {"stopped": INTERRUPTED}
        if not bool(found.isfinite().all()):
            reason = "The attack network gave no finite numbers: the update is unlike any it was trained on."
            return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
        if observation.bounds is not None:
            low, high = (bound.to(found) for bound in observation.bounds)
            beyond = _BEYOND * (high - low)
            stats["out of range"] = out = float(((found < low - beyond) | (found > high + beyond)).float().mean())
            if out > _UNLIKE:
                reason = (
                    f"{out:.0%} of the values lie far out of the valid range, so it is hardly right: the update is "
                    "unlike those of the training (noised, or of another round, for which it is to be trained again)."
                )
            found = found.clamp(low, high)
        return Reconstruction(
            outcome=Outcome.APPROXIMATE,
            inputs=found.to(example.dtype),
            labels=labels,
            certified=torch.zeros(len(found), dtype=torch.bool),
            reason=reason,
            stats=stats,
        )

    def _at_round(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Mapped | None:
        if self.public is None:
            return None
        latest = observation.latest
        device = next(iter(latest.update.values())).device
        mapping = RoundMap(blueprint=self.blueprint, public=self.public.to(device))
        module = self.module.to(device)
        with torch.no_grad():
            return mapping(
                latest.network,
                latest.update,
                labels=latest.labels,
                module=module,
                generator=generator,
                progress=progress,
            )


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


def save_inverter(
    inverter: Inverter, path: Path | str, *, extra: Mapping[str, Tensor] | None = None, note: str = ""
) -> None:
    """Write an attack network, whole or not at all.

    Args:
        inverter: to write.
        path: a safetensors file.
        extra: further tensors, of a training that is to be taken up.
        note: kept in the header.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    tensors = {f"module.{name}": value for name, value in inverter.module.state_dict().items()} | dict(extra or {})
    if inverter.public is not None:
        tensors |= {_INPUTS: inverter.public.inputs, _LABELS: inverter.public.labels}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    header = {"format": _FORMAT, "blueprint": inverter.blueprint.to_json(), "note": note}
    if inverter.public is not None:
        header["held_out"] = str(inverter.public.held_out)
    try:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial, header)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The attack network should go to a file that can be written; {path} cannot: {error}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def load_inverter(path: Path | str) -> Inverter:
    """Read an attack network: the header first, then only tensors of the names and shapes that it entails.

    Raises:
        InputError: the file is missing, no attack network, or a tensor is missing, misshapen or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The attack network should be a safetensors file; found no file {path}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise InputError(
                    f"{path} should be an attack network written by `seepage train`; found format "
                    f"{header.get('format')!r}."
                )
            blueprint = read_blueprint(header.get("blueprint", ""))
            # Its size is held against the file before anything of that size is made.
            with torch.device("meta"):
                expected = build_module(blueprint).state_dict()
            present = set(file.keys())
            state: dict[str, Tensor] = {}
            for name, value in expected.items():
                shape = file.get_slice(f"module.{name}").get_shape() if f"module.{name}" in present else None
                if shape != list(value.shape):
                    raise InputError(f"{path}: `{name}` should have shape {list(value.shape)}; found {shape}.")
                state[name] = file.get_tensor(f"module.{name}")
            public = _public(file, blueprint, path) if _INPUTS in present else None
    except (SafetensorError, OSError) as error:
        raise InputError(f"The attack network should be a safetensors file; {path} is none ({error}).") from error
    for name, value in (state if public is None else state | {_INPUTS: public.inputs}).items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise InputError(f"{path}: `{name}` should hold finite numbers; found others.")
    module = build_module(blueprint)
    module.load_state_dict(state)
    return Inverter(blueprint=blueprint, module=module.eval(), public=public)


def _public(file: Any, blueprint: Blueprint, path: Path) -> PublicExamples:
    """The public examples in a file."""
    shapes = [file.get_slice(word).get_shape() if word in file.keys() else None for word in (_INPUTS, _LABELS)]  # noqa: SIM118
    text = file.metadata().get("held_out", "")
    held_out = int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else 0
    count = shapes[0][0] if shapes[0] else 0
    enough = min(held_out, count - held_out) >= blueprint.examples
    if shapes != [[count, *blueprint.input_shape], [count]] or not enough:
        raise InputError(
            f"{path}: `{_INPUTS}` and `{_LABELS}` should hold inputs {list(blueprint.input_shape)} and their labels, "
            f"enough held out and enough others for batches of {blueprint.examples}; found {shapes}, held out {text!r}."
        )
    labels = file.get_tensor(_LABELS)
    classes = blueprint.layers[-1].shape[0]
    if labels.dtype != torch.int64 or not bool(((labels >= 0) & (labels < classes)).all()):
        raise InputError(f"{path}: `{_LABELS}` should hold whole numbers in 0 to {classes - 1}; found others.")
    return PublicExamples(inputs=file.get_tensor(_INPUTS), labels=labels, held_out=held_out)
