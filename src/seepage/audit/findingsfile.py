"""``findings.jsonl``: one finding a line, checked when it is read, replaced whole when it is written."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from seepage.audit.findings import Finding
from seepage.errors import InputError, readable

__all__ = ["findings_schema", "read_findings", "read_run", "write_findings"]


def findings_schema() -> Mapping[str, Any]:
    """The JSON schema of one line of ``findings.jsonl``."""
    return Finding.model_json_schema()


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Write all findings, one JSON line each; the file is replaced whole or not at all."""
    text = "".join(finding.model_dump_json() + "\n" for finding in findings)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf8")
    partial.replace(path)


def read_run(folder: Path) -> list[Finding]:
    """The findings of a run's or a sweep's folder, at least one.

    Raises:
        InputError: there is no such folder, or it holds no findings, and what it is instead; or as
            :func:`read_findings`.
    """
    path = folder / "findings.jsonl"
    if not path.exists():
        expected = "should be a folder of a run or a sweep, which holds findings.jsonl"
        raise InputError(f"{readable(str(folder))} {expected}; found {_instead(folder)}.")
    findings = read_findings(path)
    if not findings:
        raise InputError(f"{readable(str(path))} should hold at least one finding; found none.")
    return findings


def _instead(folder: Path) -> str:
    if not folder.is_dir():
        return "a file" if folder.exists() else "none of this name"
    if any(folder.glob("shards/*.jsonl")):
        return "a sweep that did not end: the same command takes it up"
    if (folder / "run.json").exists():
        return "a run without a finding: it was stopped in its first batch"
    return "a folder without it"


def read_findings(path: Path) -> list[Finding]:
    """Read a findings file.

    Raises:
        InputError: the file is missing or a line is not a finding; the message names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{readable(str(path))} should be a findings file that can be read; found: {found}."
        ) from error
    findings = []
    for number, line in enumerate(lines, start=1):
        try:
            findings.append(Finding.model_validate(json.loads(line)))
        except (json.JSONDecodeError, ValidationError) as error:
            first = "; ".join(str(error).splitlines()[:3])
            raise InputError(f"{path}, line {number}, should be a finding (schema 1); found: {first}.") from error
        if findings[-1].batch_size == 0:
            raise InputError(f"{path}, line {number}, should be of a batch of at least 1 example; found 0.")
    return findings
