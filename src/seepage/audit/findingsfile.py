"""``findings.jsonl``: one finding a line, checked when it is read, replaced whole when it is written."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from seepage.audit.findings import Finding
from seepage.errors import InputError

__all__ = ["findings_schema", "read_findings", "write_findings"]


def findings_schema() -> Mapping[str, Any]:
    """The JSON schema of one line of ``findings.jsonl``."""
    return Finding.model_json_schema()


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Write all findings, one JSON line each; the file is replaced whole or not at all."""
    text = "".join(finding.model_dump_json() + "\n" for finding in findings)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf8")
    partial.replace(path)


def read_findings(path: Path) -> list[Finding]:
    """Read a findings file.

    Raises:
        InputError: the file is missing or a line is not a finding; the message names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Could not read the findings file {path}: {error}.") from error
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
