"""``seepage gate`` and ``seepage diff``: what a pipeline asks of a run."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from seepage.audit.compare import Change, compare
from seepage.audit.findings import Finding
from seepage.audit.findingsfile import read_run
from seepage.audit.limits import Check, Ending, check, read_thresholds
from seepage.audit.record import Verdict
from seepage.cli.show import out as console
from seepage.errors import InputError, readable
from seepage.report.gatefiles import junit, sarif, title, write_text
from seepage.report.record import missing_batches, read_record

__all__ = ["diff", "gate"]

_IGNORABLE = ("network", "rule", "defenses", "threat_model", "normalize", "attack")


def gate(
    thresholds: Annotated[Path, typer.Argument(metavar="THRESHOLDS", help="A TOML file of limits.")],
    run: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run's or a sweep's folder.")],
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="JUnit XML; FOLDER/gate.xml if left out.")
    ] = None,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="SARIF 2.1.0; FOLDER/gate.sarif if left out.")
    ] = None,
) -> None:
    """Hold a run against limits: exit code, JUnit XML and SARIF for a pipeline."""
    limits = read_thresholds(thresholds)
    findings = read_run(run)
    checks = check(findings, limits)
    write_text(junit_file or run / "gate.xml", junit(checks, run=readable(str(run))))
    write_text(sarif_file or run / "gate.sarif", sarif(checks, findings_file=run / "findings.jsonl"))
    for one in checks:
        if one.ending is not Ending.PASSED:
            console.print(f"{one.ending}: {title(one.finding)}. {one.message}", markup=False, soft_wrap=True)
    unfinished = _unfinished(run, findings)
    if unfinished:
        console.print(f"not audited: {unfinished}", markup=False, soft_wrap=True)
    code = _code(checks, unfinished=bool(unfinished) and not limits.everywhere.allow_not_audited)
    counts = Counter(one.ending for one in checks)
    said = ", ".join(f"{counts[ending]} {ending.value}" for ending in Ending)
    console.print(f"gate {'passed' if code is Verdict.NOTHING_LEAKED else 'failed'}: {said}.", markup=False)
    raise typer.Exit(code)


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="The run before.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The run after.")],
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="FIELD", help=f"May differ; repeatable. One of {', '.join(_IGNORABLE)}."),
    ] = None,
) -> None:
    """Compare two runs batch by batch; ends with 1 if more leaks in B, 4 if B cannot tell where A could."""
    for field in ignore or []:
        if field not in _IGNORABLE:
            raise InputError(f"`--ignore` should be one of {', '.join(_IGNORABLE)}; found {field!r}.")
    pairs = compare(read_run(first), read_run(second), ignore=frozenset(ignore or []))
    table = Table("batch", "A", "B", "change")
    for pair in pairs:
        if pair.change is not Change.SAME:
            table.add_row(title(pair.finding), _words(pair.first), _words(pair.second), pair.change.value)
    counts = Counter(pair.change for pair in pairs)
    if table.row_count:
        console.print(table)
    console.print(", ".join(f"{counts[change]} {change.value}" for change in Change) + ".", markup=False)
    if not any(pair.first and pair.second for pair in pairs):
        raise InputError(f"{first} and {second} should share at least one audited batch; found none: see `--ignore`.")
    if counts[Change.MORE]:
        raise typer.Exit(Verdict.LEAKED)
    raise typer.Exit(Verdict.INCONCLUSIVE if counts[Change.LOST] or counts[Change.ONLY_FIRST] else 0)


def _unfinished(run: Path, findings: list[Finding]) -> str:
    """A run that was cut short has no finding for what it did not reach: the record knows."""
    missing = missing_batches(read_record(run / "run.json"), findings)
    return f"{missing} of {missing + len(findings)} batches were not reached." if missing else ""


def _code(checks: list[Check], *, unfinished: bool) -> Verdict:
    endings = {one.ending for one in checks}
    if Ending.EXCEEDED in endings:
        return Verdict.LEAKED
    if Ending.NOT_AUDITED in endings or unfinished:
        return Verdict.NOT_AUDITED
    return Verdict.INCONCLUSIVE if Ending.INCONCLUSIVE in endings else Verdict.NOTHING_LEAKED


def _words(finding: Finding | None) -> str:
    if finding is None:
        return "absent"
    if not finding.ended:
        return "not audited"
    words = f"{finding.exact_examples} of {finding.batch_size} exact"
    if finding.given_away > finding.exact_examples:
        words += f", {finding.given_away} {'labels' if finding.restores_labels else 'recognisable'}"
    return words if finding.conclusive else f"{words}, inconclusive"
