"""Attack one captured update without the truth: what counts as exact is what the certificate says."""

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from seepage.audit.findings import ControlCase, Finding
from seepage.audit.noisecontrol import control_on_noise
from seepage.audit.record import Verdict
from seepage.audit.run import versions
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.federated.storage import Capture, UpdateKind
from seepage.types import (
    INTERRUPTED,
    Attack,
    GradientUpdate,
    Observation,
    Outcome,
    Progress,
    Reconstruction,
    Round,
    UpdateRule,
    go_on,
)

__all__ = ["Attacked", "CapturedAudit", "observe"]

_PLAIN = ("fedsgd", "unknown")  # of a gradient
_ONE_STEP = ("fedsgd", "fedavg", "sgd", "unknown")  # of a difference after one local step


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """How the attack ended: with ``obstacles`` it could not run, with ``error`` it broke.

    Args:
        obstacles: why it could not run.
        error: what it broke with.
        reconstruction: what it returned.
        seconds: how long it took.
        batch_size: as the capture says.
        control: what the same attack did on random inputs, if it found nothing here.
    """

    obstacles: tuple[str, ...] = ()
    error: str | None = None
    reconstruction: Reconstruction | None = None
    seconds: float = 0.0
    batch_size: int | None = None
    control: ControlCase | None = None

    @property
    def ended(self) -> bool:
        """Whether the attack came to an end of its own."""
        found = self.reconstruction
        return found is not None and found.stats.get("stopped") != INTERRUPTED

    @property
    def examples(self) -> int:
        """How many examples the client's batch had: as announced or as many as left a trace."""
        found = 0 if self.reconstruction is None else len(self.reconstruction.certified)
        return max(found, self.batch_size or 0)

    @property
    def certified(self) -> int:
        """How many examples came out exactly, by a certificate that needs no truth."""
        return 0 if self.reconstruction is None else int(self.reconstruction.certified.sum())

    @property
    def uncertified(self) -> int:
        """How many reconstructed examples, or labels, may be right or wrong: only the truth can tell."""
        found = self.reconstruction
        given = found is not None and (found.inputs is not None or found.labels is not None)
        return len(found.certified) - self.certified if found is not None and given else 0

    @property
    def silent(self) -> bool:
        """Whether the attack came to its end and gave back nothing at all."""
        return self.ended and self.certified + self.uncertified == 0

    def verdict(self, threshold: float) -> Verdict:
        """LEAKED is certain; NOTHING_LEAKED is said only of an attack that ended with nothing in doubt.

        Silence counts only beside a control that the attack passed; else it is INCONCLUSIVE.

        Args:
            threshold: share of the batch's examples that may be reconstructed exactly.
        """
        allowed = threshold * self.examples
        if self.certified > allowed:
            return Verdict.LEAKED
        if not self.ended or self.certified + self.uncertified > allowed:
            return Verdict.NOT_AUDITED
        if self.silent and not (self.control is not None and self.control.passed):
            return Verdict.INCONCLUSIVE
        return Verdict.NOTHING_LEAKED

    def describe(self) -> str:
        """One sentence or two for people."""
        if self.obstacles:
            return "could not be attacked. " + " ".join(self.obstacles)
        if self.error is not None or self.reconstruction is None:
            return f"the attack broke: {self.error}"
        found = self.reconstruction
        beside = ""
        if self.silent and self.control is not None:
            how = "passed" if self.control.passed else "failed, so that this silence is inconclusive"
            beside = f" Positive control on {self.control.batch_size} random inputs: {how}."
        doubt = f", {self.uncertified} uncertified (right or wrong: only the truth tells)" if self.uncertified else ""
        return (
            f"{found.outcome}, {self.certified} examples certified{doubt}, {self.seconds:.1f} s. {found.reason}{beside}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedAudit:
    """Attacks captures of one network.

    Args:
        network: of the right architecture; its weights count where the capture holds no state of its own.
        input_shape: the shape of one input.
        classes: how many classes the network tells apart.
        attack: what the server does.
        seed: root of the attack's chance.
    """

    network: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    attack: Attack
    seed: int = 0

    def __call__(self, capture: Capture, *, progress: Progress = go_on) -> Attacked:
        """Attack it; a crash of the attack is a result of its own, and silence is held against a control.

        Raises:
            InputError: the capture does not fit the network.
        """
        observation = observe(capture, self.network, input_shape=self.input_shape, classes=self.classes)
        started = time.monotonic()
        obstacles = tuple(str(obstacle) for obstacle in self.attack.obstacles(observation))
        found, error = None, None
        if not obstacles:
            try:
                generator = torch.Generator().manual_seed(self.seed)
                found = self.attack(observation, generator=generator, progress=progress)
            except Exception as raised:  # told apart from "found nothing"
                error = f"{type(raised).__name__}: {raised}"
        attacked = Attacked(
            obstacles=obstacles,
            error=error,
            reconstruction=found,
            seconds=time.monotonic() - started,
            batch_size=capture.header.batch_size,
        )
        if found is None or found.outcome is not Outcome.FAILED or not attacked.silent:
            return attacked
        most = max(attacked.examples, int(found.stats.get("batch_size", 2)))
        case = control_on_noise(self.attack, observation, batch_size=most, seed=self.seed + 1, progress=progress)
        return replace(attacked, control=case)

    def finding(self, attacked: Attacked, capture: Capture, *, network: str, source: str, normalize: str) -> Finding:
        """The row of an audit without truth: ``certified`` is in the reconstruction's order and ``scores`` is empty."""
        found = attacked.reconstruction
        return Finding(
            attack=self.attack.name,
            network=network,
            rule=capture.header.rule,
            threat_model="captured: " + capture.header.kind,
            data=source,
            normalize=normalize,
            batch_size=attacked.examples,
            batch=capture.header.round or 0,
            seed=self.seed,
            outcome=None if found is None else found.outcome.value,
            obstacles=list(attacked.obstacles),
            error=attacked.error,
            reason="" if found is None else found.reason,
            certified=[] if found is None else found.certified.tolist(),
            labels=None if found is None or found.labels is None else found.labels.tolist(),
            layer="" if found is None else found.layer,
            stats={} if found is None else dict(found.stats),
            seconds=attacked.seconds,
            peak_memory_mib=None,
            control=attacked.control,
            device="cpu",
            versions=versions(),
        )


def observe(capture: Capture, network: nn.Module, *, input_shape: tuple[int, ...], classes: int) -> Observation:
    """What the server has, from a capture and nothing else.

    An update is taken for a plain gradient where the capture's rule says so. If that is a lie it costs the attack its
    certificate: the replay recomputes the update. Of other rules the replay says nothing, and the finding tells so.

    Raises:
        InputError: a tensor is not the network's, or of another shape; the message names it.
    """
    sent = capture.gradient()
    dtype = next(iter(sent.values())).dtype
    server = copy.deepcopy(network).to(dtype)
    if capture.before:
        _put(server, capture)
    parameters, state = dict(server.named_parameters()), server.state_dict()
    for name, tensor in sent.items():
        if name not in state:  # differences hold buffers as well
            raise InputError(f"The update's `{name}` should be a parameter of the network; found no such parameter.")
        if name in parameters and tensor.shape != parameters[name].shape:
            raise InputError(
                f"The update's `{name}` should have shape {list(parameters[name].shape)}; found {list(tensor.shape)}."
            )
    update = GradientUpdate({name: tensor.to(dtype) for name, tensor in sent.items() if name in parameters})
    if not update:
        raise InputError("The update should hold a parameter of the network; found none.")
    rounds = (Round(network=server, update=update, batch_size=capture.header.batch_size),)
    return Observation(rounds=rounds, input_shape=input_shape, classes=classes, rule=_rule(capture))


def _put(server: nn.Module, capture: Capture) -> None:
    """The captured state into the network: every parameter of it, and no others."""
    state = server.state_dict()
    odd = sorted(set(state) ^ set(capture.before))
    if odd:
        where = "the capture" if odd[0] in state else "the network"
        raise InputError(f"`before/{odd[0]}` should be in both the capture and the network; found it not in {where}.")
    for name, tensor in capture.before.items():
        if tensor.shape != state[name].shape:
            raise InputError(
                f"`before/{name}` should have shape {list(state[name].shape)}; found {list(tensor.shape)}."
            )
    server.load_state_dict(capture.before)


def _rule(capture: Capture) -> UpdateRule | None:
    header = capture.header
    if header.secure_aggregation:
        return None
    if header.kind is UpdateKind.GRADIENT:
        return FedSGD() if header.rule in _PLAIN else None
    return FedSGD() if header.local_steps == 1 and header.rule in _ONE_STEP else None
