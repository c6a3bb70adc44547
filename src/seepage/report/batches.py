"""One finding -> what the page shows of it: pictures, table rows or bare figures, and how it ended."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seepage.audit.findings import Finding
from seepage.audit.unread import unread_words
from seepage.report.artifacts import Pictures, read_pictures
from seepage.report.counts import certified_at, score_at
from seepage.report.figures import picture_uri
from seepage.report.labelrows import LabelRow, label_rows, label_status
from seepage.report.record import in_words

__all__ = ["MOST_SHOWN", "Cell", "Example", "Section", "sections"]

MOST_SHOWN = 64  # examples of one batch
_PICTURE_BYTES = 24 << 20  # of all pictures on one page
_ORIGINAL = " (original)"
_SMALL = 64  # pixels a side up to which every pixel is drawn as a square
_EQUAL = 299.0  # dB; the audit writes 300 for a reconstruction equal to the last bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of a table: what stood there and what came out; ``None`` where that is not recorded or not found."""

    column: str
    original: str | None
    found: str | None

    @property
    def right(self) -> bool:
        return self.found is not None and self.found == self.original


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example; pictures, cells and label are absent from a redacted page."""

    number: int
    psnr: str
    ssim: str
    exact: bool
    recognisable: bool
    certified: bool
    wrong: bool
    label: str | None
    original: str | None
    found: str | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One finding on the page."""

    finding: Finding
    status: str
    error: str | None
    notice: str
    control: str
    examples: tuple[Example, ...]
    hidden: int
    drawn: bool
    small: bool
    columns: tuple[tuple[str, str], ...]
    labels: str
    label_rows: tuple[LabelRow, ...]
    figures: tuple[tuple[str, str], ...]


def sections(run: Path, findings: Sequence[Finding], *, class_names: Sequence[str], redact: bool) -> list[Section]:
    """What the page shows of each finding, in order; a redacted page opens no pictures and reads no cells."""
    left = _PICTURE_BYTES
    made = []
    for finding in findings:
        if redact or not finding.could_run or finding.restores_labels:
            pictures: Pictures | str = ""
        elif left <= 0:
            pictures = f"The pictures of this batch, in {finding.artifact}, are left out to keep the page small."
        elif finding.artifact is None and (finding.columns or finding.outcome == "failed" or finding.layer):
            pictures = ""
        else:
            pictures = read_pictures(run, finding.artifact, most=MOST_SHOWN)
        section = _section(finding, pictures, class_names=class_names, redact=redact)
        left -= sum(len(one.original or "") + len(one.found or "") for one in section.examples)
        made.append(section)
    return made


def _section(finding: Finding, pictures: Pictures | str, *, class_names: Sequence[str], redact: bool) -> Section:
    scored = max([len(finding.certified), *(len(one) for one in finding.scores.values() if isinstance(one, list))])
    shown = 0 if finding.restores_labels else min(scored, finding.batch_size, MOST_SHOWN)
    drawn = pictures if isinstance(pictures, Pictures) else None
    names = [] if redact else [name for name in finding.columns if not _is_original(finding, name)]
    stats = [(key, value) for key, value in finding.stats.items() if not (redact and isinstance(value, str))]
    return Section(
        finding=finding,
        status=_status(finding),
        error=_error(finding, redact=redact),
        notice=pictures if isinstance(pictures, str) else "",
        control=_control(finding, redact=redact),
        examples=tuple(_example(finding, index, drawn, names, class_names) for index in range(shown)),
        hidden=finding.batch_size - shown if shown else 0,
        drawn=drawn is not None,
        small=drawn is not None and max(drawn.originals.shape[-2:]) <= _SMALL,
        columns=_columns(finding),
        labels="" if redact or finding.restores_labels else _labels(finding, class_names),
        label_rows=label_rows(finding, class_names) if finding.restores_labels and not redact else (),
        figures=tuple((key.replace("_", " "), in_words(value)) for key, value in stats),
    )


def _status(finding: Finding) -> str:
    size, exact, certified = finding.batch_size, finding.exact_examples, sum(finding.certified)
    wrong = finding.wrong_certified
    counted = f"{exact} of {size} exact, {certified} certified" + (f", {wrong} of them wrongly" if wrong else "")
    if finding.obstacles:
        return "could not be attacked"
    if finding.outcome is None:
        return "the attack broke"
    if not finding.ended:
        return f"interrupted, {counted} until then"
    if finding.restores_labels:
        return label_status(finding)
    if finding.outcome == "failed":
        return "this attack found nothing"
    if finding.outcome == "approximate" and not exact and not certified:
        return f"approximated, {finding.recognisable_examples} of {size} recognisable, {counted}"
    return counted


def _control(finding: Finding, *, redact: bool) -> str:
    """What stands beside an attack's silence; empty where it was not silent."""
    case = finding.control
    if not finding.silent:
        return ""
    if case is None:
        return "No positive control was run beside it: this silence is inconclusive."
    where = f"on a batch of {case.batch_size} of the same network, sent as a plain gradient without defenses"
    did = f"the same attack {where}, recovered {case.recovered} of {case.batch_size} examples ({case.exact} exactly)."
    if case.passed and finding.unread:
        return f"Positive control passed: {did} But {unread_words(finding.unread)}: this silence is inconclusive."
    if case.passed and finding.overlooked:
        many = finding.overlooked
        held = "1 example as a row of its own" if many == 1 else f"{many} examples as rows of their own"
        why = f"But the update holds {held}, overlooked by the attack, and so this silence is inconclusive."
        return f"Positive control passed: {did} {why}"
    if case.passed:
        return f"Positive control passed: {did}"
    if case.interrupted:
        return f"Positive control interrupted: {did} Until it is run, this silence is inconclusive."
    why = "" if redact and "broke" in case.reason else f" {case.reason}"
    return f"Positive control failed, and so this silence is inconclusive: {did}{why}"


def _error(finding: Finding, *, redact: bool) -> str | None:
    """What broke; a redacted page keeps the kind of error only, since its text may quote an input."""
    if finding.outcome is not None or finding.obstacles:
        return None
    if finding.error is None:
        return "The attack ended without an outcome, and no error was recorded."
    kind = finding.error.split(":", 1)[0]
    return (kind if kind.isidentifier() else "Error") if redact else finding.error


def _example(
    finding: Finding, index: int, pictures: Pictures | None, names: Sequence[str], class_names: Sequence[str]
) -> Example:
    there = pictures is not None and index < len(pictures.originals)
    original = found = label = None
    if pictures is not None and there:
        original = picture_uri(pictures.originals[index])
        found = picture_uri(pictures.reconstructions[index]) if bool(pictures.matched[index]) else None
        label = None if pictures.labels is None else _class(int(pictures.labels[index]), class_names)
    exact, certified = score_at(finding, "exact", index), certified_at(finding, index)
    ssim = score_at(finding, "ssim", index)
    return Example(
        number=index + 1,
        psnr=_decibels(score_at(finding, "psnr", index)),
        ssim="" if ssim is None else f"{ssim:.3f}",
        exact=exact is True,
        recognisable=exact is True or score_at(finding, "recognisable", index) is True,
        certified=certified,
        wrong=certified and exact is False,
        label=label,
        original=original,
        found=found,
        cells=tuple(_cell(finding, name, index) for name in names),
    )


def _decibels(value: float | None) -> str:
    if value is None:
        return "not found"
    return "equal to the last bit" if value >= _EQUAL else f"{value:.1f} dB"


def _is_original(finding: Finding, name: str) -> bool:
    return name.endswith(_ORIGINAL) and name.removesuffix(_ORIGINAL) in finding.columns


def _cell(finding: Finding, name: str, index: int) -> Cell:
    originals, found = finding.columns.get(name + _ORIGINAL, []), finding.columns[name]
    return Cell(
        column=name,
        original=originals[index] if index < len(originals) else None,
        found=found[index] if index < len(found) else None,
    )


def _columns(finding: Finding) -> tuple[tuple[str, str], ...]:
    """How well each column of a table came out: figures, no cell."""
    rows = []
    for key, values in finding.scores.items():
        kind, _, name = key.partition(":")
        if not name or not isinstance(values, list) or kind not in ("right", "error"):
            continue
        known = [float(value) for value in values if value is not None]
        if kind == "right":
            rows.append((name, f"{sum(known):.0f} of {finding.batch_size} right"))
        elif known:
            zero = sum(value == 0 for value in known)
            rows.append((name, f"{zero} of {finding.batch_size} right, off by at most {max(known):,.6g}"))
        else:
            rows.append((name, "not found"))
    return tuple(rows)


def _labels(finding: Finding, class_names: Sequence[str]) -> str:
    """The labels that the server restored, counted: they come in no order."""
    counted = Counter(_class(label, class_names) for label in finding.labels or [])
    return ", ".join(name if number == 1 else f"{name} ({number} times)" for name, number in counted.items())


def _class(label: int, class_names: Sequence[Any]) -> str:
    if label < 0:
        return "unknown"
    return str(class_names[label]) if label < len(class_names) else f"class {label}"
