"""``run.json`` as rows of the page; what is not recorded says so."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seepage.audit.findings import Finding
from seepage.errors import InputError

__all__ = ["NOT_RECORDED", "in_words", "knowledge_rows", "made_rows", "missing_batches", "read_record", "scaling"]

NOT_RECORDED = "not recorded"

_ROWS = {
    "command": "command",
    "started": "started",
    "complete": "complete",
    "machine": "machine",
    "device": "device",
    "threads": "threads",
    "dtype": "precision",
    "versions": "versions",
    "network": "network",
    "network_sha256": "SHA-256 of its parameters",
    "network_source_sha256": "SHA-256 of its source file",
    "weights": "weights",
    "input_shape": "shape of one input",
    "classes": "classes",
    "data": "data",
    "data_sha256": "SHA-256 of the data",
    "normalize": "normalisation",
    "normalize_mean": "mean subtracted",
    "normalize_std": "divided by",
    "rule": "client's rule",
    "defenses": "defenses",
    "threat_model": "threat model",
    "attacks": "attacks",
    "layer": "layer asked for",
    "budget": "budget of a batch",
    "batch_size": "batch size",
    "batches": "batches",
    "seed": "seed",
    "cells": "settings and seeds",
    "plan": "plan",
}
# These stand only where they say something.
_OPTIONAL = ("network_sha256", "network_source_sha256", "weights", "layer", "budget", "cells", "plan")


def read_record(path: Path) -> dict[str, Any]:
    """What the run says of itself; empty where it says nothing.

    Raises:
        InputError: the file is there and is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} should be JSON; found: {error}.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} should hold a JSON object; found {type(record).__name__}.")
    return record


def made_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How it was made. A sweep's plan says the rest, in place of rows of its own."""
    absent = set(_OPTIONAL) if "plan" not in record else set(_ROWS)
    return [(word, in_words(record.get(key))) for key, word in _ROWS.items() if key not in absent or record.get(key)]


def knowledge_rows(record: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    """What the server was assumed to know: what, whether, why."""
    rows = record.get("knowledge")
    if not isinstance(rows, list):
        return []
    return [(str(row[0]), row[1] is True, str(row[2])) for row in rows if isinstance(row, list) and len(row) == 3]


def missing_batches(record: Mapping[str, Any], findings: Sequence[Finding]) -> int:
    """How many batches were planned and are not there: of a sweep one a row, of a run by their numbers."""
    planned, there = record.get("findings"), len(findings)
    if planned is None:
        planned, there = record.get("batches"), len({finding.batch for finding in findings})
    return max(0, planned - there) if type(planned) is int else 0


def scaling(record: Mapping[str, Any]) -> str:
    """How inputs were scaled for the network and in which units scores are taken, in two sentences."""
    kind, name = record.get("kind"), record.get("normalize")
    first = {
        "image": "Images were scaled to [0, 1]",
        "table": "Numbers of a table were scaled to [0, 1] over the data set and categories written one-hot",
    }.get(kind if isinstance(kind, str) else "", "Inputs were taken as the data hold them")
    if name == "none":
        then = ", and the network saw them so."
    elif name == "channel":
        of = "feature" if kind == "table" else "channel"
        then = f", then standardised: the mean of each {of} was subtracted and the result divided by its deviation."
    elif isinstance(name, str):
        then = f", then normalised with given numbers ({name})."
    else:
        then = "; what was done to them before the network saw them was not recorded."
    back = {
        "image": "PSNR and SSIM are taken back in [0, 1], and “exact” means identical in every pixel at 8 bits.",
        "table": "Cells are compared in the table's own units, and “exact” means that every cell of the row is right.",
    }.get(kind if isinstance(kind, str) else "", "Scores are taken in the data's units; “exact” means at least 90 dB.")
    return f"{first}{then} {back}"


def in_words(value: object) -> str:
    """A recorded value as a reader's text."""
    if value is None or value == "":
        return NOT_RECORDED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_words(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        head = ", ".join(f"{item:.4g}" if isinstance(item, float) else in_words(item) for item in value[:6])
        return (head or "none") + (f", … ({len(value)} in all)" if len(value) > 6 else "")
    return str(value)
