"""One finding -> what the page shows of it: pictures, table rows or bare figures, and how it ended."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seepage.audit.findings import Finding
from seepage.report.artifacts import Pictures, read_pictures
from seepage.report.endings import beside_silence, broken_with, status
from seepage.report.examples import Example, class_name, is_original, shown_example
from seepage.report.labelrows import LabelRow, label_rows
from seepage.report.record import in_words

__all__ = ["MOST_SHOWN", "Section", "sections"]

MOST_SHOWN = 64  # examples of one batch
_PICTURE_BYTES = 24 << 20  # of all pictures on one page
_SMALL = 64  # pixels a side up to which every pixel is drawn as a square


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


def sections(
    run: Path, findings: Sequence[Finding], *, class_names: Sequence[str], redact: bool, kept: bool = True
) -> list[Section]:
    """What the page shows of each finding, in order; a redacted page opens no pictures and reads no cells.

    Args:
        run: the folder.
        findings: of the run.
        class_names: by label.
        redact: leave out every private input.
        kept: whether the run keeps pictures, so that it is worth a word where there are none. A sweep keeps none.
    """
    left = _PICTURE_BYTES
    made = []
    for finding in findings:
        if redact or not finding.could_run or finding.restores_labels:
            pictures: Pictures | str = ""
        elif left <= 0:
            pictures = f"The pictures of this batch, in {finding.artifact}, are left out to keep the page small."
        elif finding.artifact is None and (not kept or finding.columns or finding.outcome == "failed" or finding.layer):
            pictures = ""
        else:
            pictures = read_pictures(run, finding.artifact, most=MOST_SHOWN)
        section = _section(finding, pictures, class_names=class_names, redact=redact)
        left -= sum(len(one.original or "") + len(one.found or "") for one in section.examples)
        made.append(section)
    return made


def _section(finding: Finding, pictures: Pictures | str, *, class_names: Sequence[str], redact: bool) -> Section:
    scored = max([len(finding.certified), *(len(one) for one in finding.scores.values() if isinstance(one, list))])
    nothing = finding.restores_labels or finding.outcome == "failed"
    shown = 0 if nothing else min(scored, finding.batch_size, MOST_SHOWN)
    drawn = pictures if isinstance(pictures, Pictures) else None
    names = [] if redact else [name for name in finding.columns if not is_original(finding, name)]
    stats = [(key, value) for key, value in finding.stats.items() if not (redact and isinstance(value, str))]
    return Section(
        finding=finding,
        status=status(finding),
        error=broken_with(finding, redact=redact),
        notice=pictures if isinstance(pictures, str) else "",
        control=beside_silence(finding, redact=redact),
        examples=tuple(shown_example(finding, index, drawn, names, class_names) for index in range(shown)),
        hidden=finding.batch_size - shown if shown else 0,
        drawn=drawn is not None,
        small=drawn is not None and max(drawn.originals.shape[-2:]) <= _SMALL,
        columns=_columns(finding),
        labels="" if redact or finding.restores_labels else _labels(finding, class_names),
        label_rows=label_rows(finding, class_names) if finding.restores_labels and not redact else (),
        figures=tuple((key.replace("_", " "), in_words(value)) for key, value in stats),
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
    counted = Counter(class_name(label, class_names) for label in finding.labels or [])
    return ", ".join(name if number == 1 else f"{name} ({number} times)" for name, number in counted.items())
