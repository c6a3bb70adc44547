"""A positive control where there are no data: the same attack on the plain gradient of a few random inputs."""

import time
from collections import Counter

import torch
from torch import Tensor

from seepage.audit.findings import ControlCase
from seepage.federated.rules import FedSGD
from seepage.types import INTERRUPTED, Attack, Observation, PrivateBatch, Progress, Reconstruction, ThreatModel, go_on

__all__ = ["control_on_noise"]

_SIZES = (4, 1)  # tried in this order, those below the captured size; 1 is the easiest case there is
_NEAR = 1e-2  # of an input of unit spread


def control_on_noise(
    attack: Attack, observation: Observation, *, batch_size: int, seed: int, progress: Progress = go_on
) -> ControlCase:
    """What the attack does where it must succeed: normal inputs, random labels, the network of the observation.

    Args:
        attack: what was silent.
        observation: what it was silent on; its network and what it knows are used, not its update.
        batch_size: of the capture, as far as it is known; the control is smaller.
        seed: of inputs and labels.
        progress: told where the attack is; it may stop it.
    """
    case = None
    for size in [size for size in _SIZES if size < batch_size] or [1]:
        case = _one(attack, observation, size, seed, progress)
        if case.passed or case.interrupted:
            break
    if case is None:
        raise ValueError("`_SIZES` should hold at least one size; found none.")
    return case


def _one(attack: Attack, observation: Observation, size: int, seed: int, progress: Progress) -> ControlCase:
    chance, rule, network = torch.Generator().manual_seed(seed), FedSGD(), observation.latest.network
    like = next(network.parameters())
    inputs = torch.randn(size, *observation.input_shape, generator=chance).to(like)
    labels = torch.randint(observation.classes, (size,), generator=chance).to(like.device)
    batch = PrivateBatch(inputs=inputs, labels=labels)
    started, found, reason = time.monotonic(), None, ""
    try:
        update = rule(network, batch, chance)
        known = ThreatModel(batch_size=observation.latest.batch_size is not None)
        seen = known.view(network=network, update=update, batch=batch, rule=rule, classes=observation.classes)
        reason = " ".join(map(str, attack.obstacles(seen)))
        if not reason:
            found = attack(seen, generator=chance, progress=progress)
    except Exception as raised:  # a control that breaks is one that failed
        reason = f"it broke: {type(raised).__name__}: {raised}"
    recovered = 0 if found is None else _recovered(found, batch)
    interrupted = found is not None and found.stats.get("stopped") == INTERRUPTED
    return ControlCase(
        batch_size=size,
        rule=rule.name,
        outcome=None if found is None else found.outcome.value,
        exact=0 if found is None else int(found.certified.sum()),
        recovered=recovered,
        passed=recovered == size and not interrupted,
        interrupted=interrupted,
        reason=reason if found is None else found.reason,
        seconds=time.monotonic() - started,
    )


def _recovered(found: Reconstruction, batch: PrivateBatch) -> int:
    """How many inputs came out nearly; of labels alone, how many are right."""
    if found.inputs is None:
        return 0 if found.labels is None else _common(found.labels, batch.labels)
    if found.layer:  # inputs of an inner layer: the certificate has to do
        return int(found.certified.sum())
    apart = torch.cdist(
        batch.inputs.flatten(1).double(), found.inputs.flatten(1).to(batch.inputs).double(), p=torch.inf
    )
    return int((apart.min(dim=1).values < _NEAR).sum())


def _common(restored: Tensor, true: Tensor) -> int:
    return (Counter(restored.tolist()) & Counter(true.tolist())).total()
