"""Attack one captured update without the truth: what counts as exact is what the certificate says."""

import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from seepage.attacks.auto import Auto
from seepage.audit.captures.attacked import Attacked
from seepage.audit.captures.claimed import Guess
from seepage.audit.captures.noisecontrol import control_on_noise
from seepage.audit.captures.observed import observe
from seepage.audit.environment import versions
from seepage.audit.findings import Finding
from seepage.audit.returned import checked
from seepage.audit.unread import unread_parameters
from seepage.federated.storage import Capture
from seepage.networks.layers import read_once
from seepage.types import (
    GRANT_SIZE,
    NOT_BEGUN,
    Attack,
    Observation,
    Outcome,
    Progress,
    Reconstruction,
    UpdateRule,
    go_on,
)

__all__ = ["CapturedAudit"]

_OWN_GRANT = "state it (`--batch-size`)"
_NOTHING_SENT = "The update should hold something; found zeros: nothing was trained, or the same weights saved twice."


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedAudit:
    """Attacks captures of one network.

    Args:
        network: of the right architecture; its weights count where the capture holds no state of its own.
        input_shape: the shape of one input.
        classes: how many classes the network tells apart.
        attack: what the server does.
        seed: root of the attack's chance.
        rule: what the client did, as its user says; ``None`` for what the capture says.
    """

    network: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    attack: Attack
    seed: int = 0
    rule: UpdateRule | None = None

    @read_once()
    def __call__(self, capture: Capture, *, progress: Progress = go_on) -> Attacked:
        """Attack it; a crash of the attack is a result of its own, and silence is held against a control.

        Raises:
            InputError: the capture does not fit the network, or contradicts the stated rule.
        """
        observation = observe(
            capture, self.network, input_shape=self.input_shape, classes=self.classes, stated=self.rule
        )
        started = time.monotonic()
        obstacles = tuple(_advised(str(obstacle)) for obstacle in self.attack.obstacles(observation))
        if not any(bool(tensor.any()) for tensor in observation.latest.update.values()):
            obstacles = (_NOTHING_SENT,)  # more likely the same state saved twice than a client that learnt nothing
        found, error = None, None
        if not obstacles:
            try:
                generator = torch.Generator().manual_seed(self.seed)
                returned = self.attack(observation, generator=generator, progress=progress)
                found = checked(returned, observation.input_shape)
                found = replace(found, reason=_advised(found.reason))
            except Exception as raised:  # told apart from "found nothing"
                error = f"{type(raised).__name__}: {raised}"
        if found is not None and found.stats.get("stopped") == NOT_BEGUN:
            obstacles, found = (f"{self.attack.name}: {found.reason}",), None
        attacked = Attacked(
            obstacles=obstacles,
            error=error,
            reconstruction=found,
            seconds=time.monotonic() - started,
            batch_size=capture.header.batch_size,
            claim=_claim(observation, found),
            stated=observation.rule is not None and not isinstance(observation.rule, Guess),
            unread=tuple(unread_parameters(self.network, observation.latest.update, self.input_shape)),
        )
        if found is None or found.outcome is not Outcome.FAILED or not attacked.silent:
            return attacked
        most = max(attacked.examples, int(found.stats.get("batch_size", 2)))
        same = self.attack.by_the_way_of(found.stats) if isinstance(self.attack, Auto) else self.attack
        case = control_on_noise(same, observation, batch_size=most, seed=self.seed + 1, progress=progress)
        return replace(attacked, control=case)

    def finding(self, attacked: Attacked, capture: Capture, *, network: str, source: str, normalize: str) -> Finding:
        """The row of an audit without truth: ``certified`` is in the reconstruction's order and ``scores`` is empty."""
        found = attacked.reconstruction
        return Finding(
            attack=self.attack.name,
            network=network,
            rule=capture.header.rule if self.rule is None else self.rule.name,
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
            unread=[] if found is None else list(attacked.unread),
            stats=({} if found is None else dict(found.stats)) | ({"claim": attacked.claim} if attacked.claim else {}),
            seconds=attacked.seconds,
            peak_memory_mib=None,
            control=attacked.control,
            device="cpu",
            versions=versions(),
        )


def _advised(text: str) -> str:
    """Advice as it is followed here: the batch size is the sender's word, not a grant."""
    return text.replace(GRANT_SIZE, _OWN_GRANT)


def _claim(observation: Observation, found: Reconstruction | None) -> str:
    """The rule that certificates rest on where the network could not be replayed."""
    unreplayed = found is not None and bool(found.certified.any()) and "replay" in found.stats
    return observation.rule.name if unreplayed and observation.rule is not None else ""
