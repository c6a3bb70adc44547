"""One self-contained page from a run's folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from seepage.audit.findings import Finding, Score, read_findings
from seepage.errors import InputError
from seepage.report.figures import picture_uri, read_pictures
from seepage.report.summary import summarize

__all__ = ["write_report"]

_SHOWN = 64  # examples of a batch that are shown as pictures or rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """One cell of a table row: what stood there, what came out."""

    original: str
    found: str | None

    @property
    def right(self) -> bool:
        return self.found == self.original


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    """One example on the page; pictures and cells are left out of a redacted page."""

    number: int
    psnr: str
    exact: bool
    certified: bool
    original: str | None
    found: str | None
    cells: tuple[_Cell, ...]


def write_report(run: Path, *, redact: bool = False) -> Path:
    """Write ``report.html`` into the run's folder, whole or not at all.

    Args:
        run: a folder with ``findings.jsonl`` and ``run.json``.
        redact: leave out every private input, cell and label.

    Returns:
        The page's path.

    Raises:
        InputError: there are no findings, or a file cannot be read or written.
    """
    findings = read_findings(run / "findings.jsonl")
    if not findings:
        raise InputError(f"{run / 'findings.jsonl'} should hold at least one finding; found none.")
    record = _read_record(run / "run.json")
    loader = Environment(loader=PackageLoader("seepage.report", ""), autoescape=True, undefined=StrictUndefined)
    loader.filters["decimal"] = lambda value: "" if value is None else f"{value:,.1f}"
    page = loader.get_template("page.html").render(
        summary=summarize(findings),
        findings=[_section(run, finding, redact=redact) for finding in findings],
        made=_made(record),
        knowledge=_knowledge(record),
        kind=record.get("kind", "other"),
        redact=redact,
        title=f"{findings[0].attack} on {findings[0].network}",
    )
    target = run / "report.html"
    try:
        partial = target.with_suffix(".html.partial")
        partial.write_text(page, encoding="utf8")
        os.replace(partial, target)
    except OSError as error:
        raise InputError(f"The report should be written to {target}; found: {error.strerror}.") from error
    return target


def _section(run: Path, finding: Finding, *, redact: bool) -> dict[str, Any]:
    """What the template needs of one batch."""
    pictures = read_pictures(run, finding.artifact) if finding.artifact and not redact else None
    notice = pictures if isinstance(pictures, str) else ""
    columns = [] if redact else [name for name in finding.columns if f"{name} (original)" in finding.columns]
    shown = min(len(finding.certified), _SHOWN)
    examples = []
    for index in range(shown):
        original = found = None
        if isinstance(pictures, dict) and index < len(pictures["originals"]):
            original = picture_uri(pictures["originals"][index])
            found = picture_uri(pictures["reconstructions"][index]) if bool(pictures["matched"][index]) else None
        examples.append(
            _Example(
                number=index + 1,
                psnr=_decibels(finding, index),
                exact=_at(finding, "exact", index) is True,
                certified=finding.certified[index],
                original=original,
                found=found,
                cells=tuple(_cell(finding, name, index) for name in columns),
            )
        )
    return {
        "finding": finding,
        "examples": examples,
        "columns": columns,
        "hidden": len(finding.certified) - shown,
        "notice": notice,
        "stats": sorted(finding.stats.items()),
    }


def _cell(finding: Finding, name: str, index: int) -> _Cell:
    originals, found = finding.columns[f"{name} (original)"], finding.columns[name]
    original = originals[index] if index < len(originals) else None
    return _Cell(original=original or "", found=found[index] if index < len(found) else None)


def _at(finding: Finding, score: str, index: int) -> Score:
    values = finding.scores.get(score)
    return values[index] if isinstance(values, list) and index < len(values) else None


def _decibels(finding: Finding, index: int) -> str:
    value = _at(finding, "psnr", index)
    return "not reconstructed" if value is None else f"{value:.0f} dB"


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} should be JSON; found: {error}.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} should hold a JSON object; found {type(record).__name__}.")
    return record


def _made(record: dict[str, Any]) -> list[tuple[str, str]]:
    """How it was made, as rows; what is not recorded says so."""
    words = {
        "command": "command",
        "started": "started",
        "complete": "complete",
        "network": "network",
        "weights": "weights",
        "input_shape": "input shape",
        "data": "data",
        "data_sha256": "SHA-256 of the data",
        "normalize": "normalisation",
        "normalize_mean": "mean taken off",
        "normalize_std": "deviation divided by",
        "rule": "client's rule",
        "defenses": "defenses",
        "threat_model": "threat model",
        "batch_size": "batch size",
        "batches": "batches",
        "seed": "seed",
        "budget": "budget of a batch",
        "dtype": "precision",
        "device": "device",
        "threads": "threads",
        "machine": "machine",
        "versions": "versions",
    }
    return [(word, _words(record.get(key))) for key, word in words.items()]


def _words(value: object) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        head = ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value[:6])
        return (head or "none") + (f", ... ({len(value)} in all)" if len(value) > 6 else "")
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _knowledge(record: dict[str, Any]) -> list[tuple[str, bool, str]]:
    rows = record.get("knowledge")
    if not isinstance(rows, list):
        return []
    return [(str(row[0]), row[1] is True, str(row[2])) for row in rows if isinstance(row, list) and len(row) == 3]
