"""A positive control where there are no data: the same attack on the plain gradient of a few random inputs."""

import math
import time
from collections import Counter

import torch
from torch import Tensor

from seepage.audit.findings import ControlCase
from seepage.audit.scores.apart import TOO_EASY, tells_apart
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.networks.layers import read_layers
from seepage.types import (
    INTERRUPTED,
    NOT_BEGUN,
    Attack,
    Observation,
    PrivateBatch,
    Progress,
    Reconstruction,
    ThreatModel,
    go_on,
)

__all__ = ["control_on_noise"]

_SIZES = (4, 1)  # tried in this order, those below the captured size; 1 is the easiest case there is
_NEAR = 1e-2  # of an input, as a share of its spread


def control_on_noise(
    attack: Attack, observation: Observation, *, batch_size: int, seed: int, progress: Progress = go_on
) -> ControlCase:
    """What the attack does where it must succeed: normal inputs, random labels, the network of the observation.

    The inputs are of the size of the client's, as far as the update tells. One of them alone is too easy a case where
    the network tells inputs of this size hardly apart. An attack for one size alone, which refuses all smaller batches,
    gets one of the captured size.

    Args:
        attack: what was silent.
        observation: what it was silent on; its network and what it knows are used, not its update.
        batch_size: of the capture, as far as it is known; the control is smaller where it can.
        seed: of inputs and labels.
        progress: told where the attack is; it may stop it.
    """
    sizes = [*(size for size in _SIZES if size < batch_size), max(batch_size, 1)]
    case, fits = _one(attack, observation, sizes[0], seed, progress)
    for size in sizes[1:]:
        if case.passed or case.interrupted or (fits and size == sizes[-1]):
            break
        case, fitted = _one(attack, observation, size, seed, progress)
        fits = fits or fitted
    several = _inputs(observation, _SIZES[0], torch.Generator().manual_seed(seed))
    if case.passed and case.batch_size == 1 < batch_size and not tells_apart(observation.latest.network, several):
        return case.model_copy(update={"passed": False, "reason": f"{case.reason} But {TOO_EASY}."})
    return case


def _inputs(observation: Observation, size: int, chance: torch.Generator) -> Tensor:
    """``[size, *shape]`` normal numbers of the size of the client's."""
    drawn = torch.randn(size, *observation.input_shape, generator=chance)
    return drawn.to(next(observation.latest.network.parameters())) * _spread(observation)


def _spread(observation: Observation) -> float:
    """Root mean square of the client's inputs: of ``gW = dZ^T X`` over ``gb = dZ^T 1`` at the layer that reads them.

    1 where no such layer with a bias was sent, or noise has the last word.
    """
    network, update = observation.latest.network, observation.latest.update
    try:
        layers = read_layers(network, observation.input_shape).layers
    except InputError:
        return 1.0
    for layer in layers:
        if layer.reads_input and layer.bias is not None and {layer.weight, layer.bias} <= set(update):
            weight, bias = (float(update[name].double().norm()) for name in (layer.weight, layer.bias))
            spread = weight / (bias * layer.inputs**0.5) if bias else 0.0
            return spread if 0 < spread < math.inf else 1.0
    return 1.0


def _one(
    attack: Attack, observation: Observation, size: int, seed: int, progress: Progress
) -> tuple[ControlCase, bool]:
    """The control at one size, and whether the attack takes this size."""
    chance, rule, network = torch.Generator().manual_seed(seed), FedSGD(), observation.latest.network
    inputs = _inputs(observation, size, chance)
    labels = torch.randint(observation.classes, (size,), generator=chance).to(inputs.device)
    batch = PrivateBatch(inputs=inputs, labels=labels)
    started, found, reason, fits = time.monotonic(), None, "", True
    try:
        update = rule(network, batch, chance)
        known = ThreatModel(batch_size=observation.latest.batch_size is not None)
        seen = known.view(network=network, update=update, batch=batch, rule=rule, classes=observation.classes)
        reason = " ".join(map(str, attack.obstacles(seen)))
        fits = not reason
        if fits:
            found = attack(seen, generator=chance, progress=progress)
    except Exception as raised:  # a control that breaks is one that failed
        reason = f"It broke: {type(raised).__name__}: {raised}"
    recovered = 0 if found is None else _recovered(found, batch)
    stopped = None if found is None else found.stats.get("stopped")
    case = ControlCase(
        batch_size=size,
        rule=rule.name,
        outcome=None if found is None else found.outcome.value,
        exact=0 if found is None else int(found.certified.sum()),
        recovered=recovered,
        passed=recovered == size and stopped != INTERRUPTED,
        interrupted=stopped == INTERRUPTED,
        reason=reason if found is None else found.reason,
        seconds=time.monotonic() - started,
    )
    return case, fits and stopped != NOT_BEGUN


def _recovered(found: Reconstruction, batch: PrivateBatch) -> int:
    """How many inputs came out nearly; of labels alone, how many are right."""
    if found.inputs is None:
        return 0 if found.labels is None else _common(found.labels, batch.labels)
    if found.layer:  # inputs of an inner layer: the certificate has to do
        return int(found.certified.sum())
    apart = torch.cdist(
        batch.inputs.flatten(1).double(), found.inputs.flatten(1).to(batch.inputs).double(), p=torch.inf
    )
    spread = batch.inputs.double().square().mean().sqrt()
    return int((apart.min(dim=1).values < _NEAR * spread).sum())


def _common(restored: Tensor, true: Tensor) -> int:
    return (Counter(restored.tolist()) & Counter(true.tolist())).total()
