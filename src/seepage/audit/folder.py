"""A run's folder: what was asked, what was found, and the pictures; written so that an interruption loses nothing."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import read_findings, write_findings
from seepage.audit.run import Audited
from seepage.errors import InputError

__all__ = ["RunFolder"]

_VOLATILE = (
    "command",
    "started",
    "complete",
    "machine",
    "versions",
    "threads",
)  # may differ between two halves of a run


@dataclass(slots=True)
class RunFolder:
    """``run.json``, ``findings.jsonl`` and ``artifacts/`` of one run; every file is replaced whole or not at all.

    Args:
        path: the folder.
        record: what ``run.json`` says.
        findings: those written so far, in the order of the batches.
    """

    path: Path
    record: dict[str, Any]
    findings: list[Finding]

    @classmethod
    def open(cls, path: Path, record: Mapping[str, Any]) -> "RunFolder":
        """Start a run in ``path``, or take up the same run where it was interrupted.

        What was killed before its first finding leaves nothing to take up, and so nothing in the way of another run.

        Raises:
            InputError: the folder cannot be written, or holds findings of another run.
        """
        try:
            (path / "artifacts").mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"`--out` should be a folder that can be written; found {path}: {error.strerror}."
            ) from error
        folder = cls(path=path, record=dict(record), findings=[])
        if (path / "findings.jsonl").exists() or any(path.glob("shards/*.jsonl")):  # of a sweep
            folder._take_up()
        elif (path / "run.json").exists():
            folder._clear()
        folder._write_record(complete=False)
        return folder

    @property
    def done(self) -> frozenset[int]:
        """Batches that need not be audited again: crashed and interrupted ones are tried anew."""
        return frozenset(finding.batch for finding in self.findings if finding.complete)

    def add(self, audited: Audited) -> Finding:
        """Write one batch's pictures, then its finding; returns the finding as written."""
        finding = audited.finding
        if audited.pictures:
            name = f"artifacts/batch-{finding.batch:03d}-{finding.attack}.safetensors"
            partial = self.path / f"{name}.partial"
            save_file(audited.pictures, partial)
            os.replace(partial, self.path / name)
            finding = finding.model_copy(update={"artifact": name})
        kept = [other for other in self.findings if other.batch != finding.batch]
        self.findings = sorted([*kept, finding], key=lambda one: one.batch)
        write_findings(self.path / "findings.jsonl", self.findings)
        return finding

    def close(self) -> None:
        """Say that the run is complete."""
        self._write_record(complete=True)

    def withdraw(self) -> None:
        """Leave no trace of a run that was refused before its first finding; one that has findings stays."""
        if self.findings:
            return
        (self.path / "run.json").unlink(missing_ok=True)
        for empty in (self.path / "artifacts", self.path):
            if not any(empty.iterdir()):
                empty.rmdir()

    def _take_up(self) -> None:
        try:
            before = json.loads((self.path / "run.json").read_text(encoding="utf8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} holds findings but no readable run.json: choose another `--out`.") from error
        now = json.loads(json.dumps(self.record))
        differing = [
            key
            for key in sorted({*before, *now} - set(_VOLATILE))
            if not isinstance(before, dict) or before.get(key) != now.get(key)
        ]
        if differing and isinstance(before, dict) and not before.keys() & set(differing):
            raise InputError(
                f"{self.path} holds a run of another version of seepage, which did not write down "
                f"{', '.join(differing)}: that it is this run cannot be told, choose another `--out`."
            )
        if differing:
            raise InputError(
                f"{self.path} already holds another run (it differs in {', '.join(differing)}): choose another `--out`."
            )
        if (self.path / "findings.jsonl").exists():
            self.findings = read_findings(self.path / "findings.jsonl")

    def _clear(self) -> None:
        """Pictures that belong to no finding: their run was killed between the two."""
        for picture in (self.path / "artifacts").glob("batch-*.safetensors*"):
            picture.unlink()

    def _write_record(self, *, complete: bool) -> None:
        partial = self.path / "run.json.partial"
        partial.write_text(json.dumps({**self.record, "complete": complete}, indent=2) + "\n", encoding="utf8")
        os.replace(partial, self.path / "run.json")
