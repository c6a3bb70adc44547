"""Shards -> findings, through a folder in which every result is written once and whole."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import read_findings, write_findings
from seepage.audit.sweeps.cell import Shard
from seepage.audit.sweeps.engines import Engine
from seepage.errors import InputError

__all__ = ["DIGITS", "TIMES", "SweepFolder", "canonical", "canonical_digest", "sweep"]

TIMES = frozenset({"seconds", "peak_memory_mib"})  # what of a finding may differ between two equal runs
DIGITS = 4  # of a number, when two runs are compared
_FILES = ("attacks_sha256", "networks_sha256")  # by what stands in the plan, which may grow
_VOLATILE = ("command", "started", "complete", "machine", "versions", "findings", "cells", "plan", *_FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFolder:
    """``shards/KEY.jsonl``, one a shard; ``run.json``; and ``findings.jsonl``, put together from the shards at the end.

    Args:
        path: the folder.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, record: Mapping[str, Any]) -> "SweepFolder":
        """Start a sweep in ``path``, or take one up: what is there already is not computed again.

        Raises:
            InputError: the folder cannot be written, or its shards were made from other data.
        """
        folder = cls(path=path)
        try:
            (path / "shards").mkdir(parents=True, exist_ok=True)
            for partial in path.rglob("*.partial"):  # of a sweep that was killed while writing
                partial.unlink()
            folder._check(record)
            folder.write_record({**record, "complete": False})
        except OSError as error:
            raise InputError(
                f"`--out` should be a folder that can be written; found {path}: {error.strerror}."
            ) from error
        return folder

    def has(self, shard: Shard, *, retry_broken: bool = False) -> bool:
        """Whether the shard's result is there (and, on ``retry_broken``, none of its rows broke)."""
        there = self._file(shard).exists()
        if not there or not retry_broken:
            return there
        return all(finding.error is None for finding in self.read(shard))

    def read(self, shard: Shard) -> list[Finding]:
        """A shard's result."""
        return read_findings(self._file(shard))

    def write(self, shard: Shard, findings: Sequence[Finding]) -> None:
        """Write a shard's result, whole or not at all, and see it onto the disk."""
        text = "".join(finding.model_dump_json() + "\n" for finding in findings)
        _replace(self._file(shard), text)

    def gather(self, shards: Sequence[Shard]) -> list[Finding]:
        """All results that are there, in the order of the plan, written to ``findings.jsonl``."""
        findings = [finding for shard in shards if self.has(shard) for finding in self.read(shard)]
        write_findings(self.path / "findings.jsonl", findings)
        return findings

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        _replace(self.path / "run.json", json.dumps(dict(record), indent=2) + "\n")

    def _check(self, record: Mapping[str, Any]) -> None:
        if not any(self.path.glob("shards/*.jsonl")) and not (self.path / "findings.jsonl").exists():
            return  # killed before its first result: nothing to take up, and nothing in the way
        try:
            before = json.loads((self.path / "run.json").read_text(encoding="utf8"))
        except FileNotFoundError:
            return
        except ValueError as error:
            raise InputError(f"{self.path / 'run.json'} should be JSON; found: {error}.") from error
        now = json.loads(json.dumps(dict(record)))
        differing = [key for key in sorted({*before, *now} - set(_VOLATILE)) if before.get(key) != now.get(key)]
        for kind in _FILES:
            known, files = (one.get(kind) or {} for one in (before, now))
            differing += [one for one in known if one in files and files[one] != known[one]]
        if differing:
            raise InputError(
                f"{self.path} already holds another run (it differs in {', '.join(differing)}): choose another `--out`."
            )

    def _file(self, shard: Shard) -> Path:
        return self.path / "shards" / f"{shard.key}.jsonl"


def sweep(
    shards: Sequence[Shard], folder: SweepFolder, engine: Engine, *, retry_broken: bool = False
) -> Iterator[tuple[Shard, list[Finding]]]:
    """Compute the shards whose result is not there, write each, and yield it; in whatever order they are done.

    Args:
        shards: of the whole sweep.
        folder: holds the results.
        engine: computes them; whoever made it also ends it.
        retry_broken: compute again what crashed.
    """
    todo = [shard for shard in shards if not folder.has(shard, retry_broken=retry_broken)]
    waiting = iter(todo)
    under_way = 0
    while True:
        while under_way < engine.slots and (shard := next(waiting, None)) is not None:
            engine.submit(shard)
            under_way += 1
        if not under_way:
            return
        for shard, findings in engine.completed():
            under_way -= 1
            folder.write(shard, findings)
            yield shard, findings


def canonical(finding: Finding) -> dict[str, Any]:
    """What two sweeps of the same plan agree on: everything but ``TIMES``, numbers to ``DIGITS`` significant digits.

    The last bits of a sum depend on how LAPACK found its memory aligned, which no seed decides.
    """
    kept = finding.model_dump(mode="json", exclude={**dict.fromkeys(TIMES, True), "control": {"seconds"}})
    return {key: _rounded(value) for key, value in kept.items()}


def canonical_digest(findings: Sequence[Finding]) -> str:
    """SHA-256 over the canonical form of all findings: equal for two sweeps that found the same."""
    lines = (json.dumps(canonical(finding), sort_keys=True) + "\n" for finding in findings)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def _replace(target: Path, text: str) -> None:
    partial = target.with_name(target.name + ".partial")
    with partial.open("w", encoding="utf8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)
