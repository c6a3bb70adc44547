"""What a run's folder says of how it was made, and what the exit code says of how it ended."""

import enum
import hashlib
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seepage.audit.environment import versions
from seepage.audit.findings import Finding
from seepage.audit.run import Audit
from seepage.networks.factories import source_sha256
from seepage.networks.zoo import network_source_sha256
from seepage.types import ThreatModel

__all__ = ["Verdict", "attack_sha256", "record", "verdict"]


class Verdict(enum.IntEnum):
    """The exit code of an audit."""

    NOTHING_LEAKED = 0
    LEAKED = 1
    NOT_AUDITED = 3
    INCONCLUSIVE = 4


def verdict(findings: Sequence[Finding], *, batches: int, threshold: float) -> Verdict:
    """A leak outweighs everything; silence counts only if every batch was attacked to the end, beside a passed control
    and with no example left in the update as a row of its own.

    Args:
        findings: of one run.
        batches: how many batches the run was to have.
        threshold: share of a batch's examples, or of its labels, that may be given away.
    """
    if any(finding.given_away > threshold * finding.batch_size for finding in findings):
        return Verdict.LEAKED
    complete = len(findings) == batches and all(finding.ended for finding in findings)
    if not complete:
        return Verdict.NOT_AUDITED
    return Verdict.NOTHING_LEAKED if all(finding.settles(threshold) for finding in findings) else Verdict.INCONCLUSIVE


def record(audit: Audit, *, command: str, budget: str, weights: str | None, attack: str = "") -> dict[str, Any]:
    """``run.json``: everything that decided the run, as plain values; of networks and files what is in them.

    Args:
        audit: the run.
        command: the command line that repeats it.
        budget: of each batch, as the user wrote it.
        weights: the weights file, if one was loaded.
        attack: as the user wrote it.
    """
    dataset, threat = audit.dataset, audit.threat_model
    return {
        "schema_version": 1,
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": audit.seed,
        "network": audit.network_name,
        "network_sha256": _state_sha256(audit.network),
        "network_source_sha256": network_source_sha256(audit.network_name),
        "weights": weights,
        "input_shape": list(dataset.input_shape),
        "classes": dataset.classes,
        "class_names": list(dataset.class_names),
        "kind": dataset.kind.value,
        "data": dataset.name,
        "data_sha256": dataset.sha256,
        "normalize": dataset.normalization.name,
        "normalize_mean": dataset.normalization.mean.flatten().tolist(),
        "normalize_std": dataset.normalization.std.flatten().tolist(),
        "rule": audit.rule.name,
        "defenses": [defense.name for defense in audit.defenses],
        "threat_model": threat.name,
        "knowledge": _knowledge(threat),
        "attacks": [audit.attack.name],
        "attack_sha256": attack_sha256(attack),
        "layer": getattr(audit.attack, "layer", None),
        "budget": budget,
        "batch_size": audit.batch_size,
        "batches": audit.batches,
        "dtype": str(audit.dtype).removeprefix("torch."),
        "device": str(audit.device),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": versions(),
    }


def attack_sha256(spec: str) -> str | None:
    """Of the file behind ``git:FILE``, ``git:FILE+ig`` or one's own ``module:factory``: with another it is another."""
    if not spec.startswith("git:"):
        return source_sha256(spec) if ":" in spec else None
    text = spec.removeprefix("git:")
    file = next((Path(one) for one in (text, text.rpartition("+")[0]) if Path(one).is_file()), None)
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def _state_sha256(network: nn.Module) -> str:
    """Over the names, kinds, shapes and numbers of all parameters and buffers: another start is another run."""
    digest = hashlib.sha256()
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _knowledge(threat: ThreatModel) -> list[list[str | bool]]:
    """What the server was taken to have: a thing, whether, and why."""
    return [
        ["the network and its parameters", True, "the server sent them out"],
        ["the client's update", True, "the client sent it"],
        ["how inputs are scaled", True, "preprocessing is part of the published training recipe"],
        ["the client's training rule", threat.rule, "the server ordered it"],
        ["the range of valid inputs", threat.bounds, "public"],
        ["the batch size", threat.batch_size, "read off the update where the attack can"],
        ["the labels", threat.labels, "restored from the update where the attack can"],
        ["the inputs", False, "what is attacked: they meet the reconstruction only when it is scored"],
    ]
