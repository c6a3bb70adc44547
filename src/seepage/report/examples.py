"""One example as the page shows it: pictures, cells of a table or bare figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seepage.audit.findings import Finding
from seepage.report.artifacts import Pictures
from seepage.report.counts import certified_at, score_at
from seepage.report.figures import picture_uri

__all__ = ["Cell", "Example", "class_name", "is_original", "shown_example"]

_ORIGINAL = " (original)"
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


def shown_example(
    finding: Finding, index: int, pictures: Pictures | None, names: Sequence[str], class_names: Sequence[str]
) -> Example:
    """What the page shows of the example at ``index``."""
    there = pictures is not None and index < len(pictures.originals)
    original = found = label = None
    if pictures is not None and there:
        original = picture_uri(pictures.originals[index])
        found = picture_uri(pictures.reconstructions[index]) if bool(pictures.matched[index]) else None
        label = None if pictures.labels is None else class_name(int(pictures.labels[index]), class_names)
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


def is_original(finding: Finding, name: str) -> bool:
    """Whether a recorded column holds originals."""
    return name.endswith(_ORIGINAL) and name.removesuffix(_ORIGINAL) in finding.columns


def class_name(label: int, class_names: Sequence[Any]) -> str:
    """A label as the page names it."""
    if label < 0:
        return "unknown"
    return str(class_names[label]) if label < len(class_names) else f"class {label}"


def _decibels(value: float | None) -> str:
    if value is None:
        return "not found"
    return "equal to the last bit" if value >= _EQUAL else f"{value:.1f} dB"


def _cell(finding: Finding, name: str, index: int) -> Cell:
    originals, found = finding.columns.get(name + _ORIGINAL, []), finding.columns[name]
    return Cell(
        column=name,
        original=originals[index] if index < len(originals) else None,
        found=found[index] if index < len(found) else None,
    )
