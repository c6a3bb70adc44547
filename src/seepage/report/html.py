"""One self-contained page from a run's folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import read_run
from seepage.errors import InputError
from seepage.report.batches import sections
from seepage.report.exposure import MOST_SHARES, exposure
from seepage.report.figures import MOST_ROWS, psnr_figure
from seepage.report.record import knowledge_rows, made_rows, missing_batches, read_record, scaling
from seepage.report.settings import setting, settings_rows, varying
from seepage.report.summary import Summary, Verdict, summarize

__all__ = ["write_report"]

_GLIMPSED = 7  # pairs of pictures under the headline: one line of the page
_HEADLINES = {
    Verdict.LEAKED: "Private data leaked",
    Verdict.NOTHING_FOUND: "Nothing found, which is not proof",
    Verdict.INCONCLUSIVE: "Inconclusive: this silence says nothing",
    Verdict.NOT_AUDITED: "Could not be audited",
}


def write_report(run: Path, *, redact: bool = False) -> Path:
    """Write ``report.html`` into the run's folder, whole or not at all.

    Args:
        run: a folder with ``findings.jsonl``, and ``run.json`` and ``artifacts/`` where the audit wrote them.
        redact: leave out every private input: pictures, cells, labels, and texts that may quote one.

    Returns:
        The page's path.

    Raises:
        InputError: there are no findings, a file cannot be read, or the page cannot be written.
    """
    findings = read_run(run)
    record = read_record(run / "run.json")
    summary = summarize(findings, missing=missing_batches(record, findings))
    settings = settings_rows(findings)
    recorded = record.get("class_names")
    names = recorded if isinstance(recorded, list) else []
    parts = sections(run, findings, class_names=names, redact=redact, kept="plan" not in record)
    page = (
        _environment()
        .get_template("page.html")
        .render(
            headline=_headline(summary),
            summary=summary,
            sections=parts,
            glimpse=next((part for part in parts if part.drawn), None),
            glimpsed=_GLIMPSED,
            exposure=exposure([] if settings else findings, class_names=names, redact=redact),
            figure=None if settings else psnr_figure(findings),
            settings=settings,
            named=[setting(finding, varying(findings)) for finding in findings],
            most_rows=MOST_ROWS,
            most_shares=MOST_SHARES,
            pictures=record.get("kind") == "image",
            made=made_rows(record),
            knowledge=knowledge_rows(record),
            scaling=scaling(record),
            complete=record.get("complete") is not False,
            seconds=sum(finding.seconds for finding in findings),
            memory=max((one.peak_memory_mib for one in findings if one.peak_memory_mib is not None), default=None),
            redact=redact,
            subject=_subject(findings, record),
        )
    )
    return _replace(run / "report.html", page)


def _headline(summary: Summary) -> str:
    if summary.verdict is Verdict.NOT_AUDITED and summary.counts.attacked:
        return "Audited only in part"
    return _HEADLINES[summary.verdict]


def _environment() -> Environment:
    """Autoescape on; a name that the template misspells is an error and not an empty place."""
    environment = Environment(
        loader=PackageLoader("seepage.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = lambda value: "not recorded" if value is None else f"{value:,.1f}"
    return environment


def _subject(findings: Sequence[Finding], record: dict[str, Any]) -> str:
    data = record.get("data")
    on = f", on {data}" if isinstance(data, str) and data else ""
    attacks, networks = ([*dict.fromkeys(getattr(one, word) for one in findings)] for word in ("attack", "network"))
    more = f" and {len(networks) - 3} more" if len(networks) > 3 else ""
    same = [word for word in ("batch_size", "rule", "defenses") if word not in varying(findings)]
    client = f". Client: {setting(findings[0], same)}" if same else ""
    return f"{', '.join(attacks)} against {', '.join(networks[:3])}{more}{on}{client}"


def _replace(target: Path, page: str) -> Path:
    partial = target.with_suffix(".html.partial")
    try:
        partial.write_text(page, encoding="utf8")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"The report should be written to {target}; found: {error.strerror}.") from error
    return target
