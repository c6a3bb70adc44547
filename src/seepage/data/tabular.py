"""Rows of a table as numbers, and back to the very text of their cells."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seepage.errors import InputError

__all__ = ["MISSING", "Column", "TableEncoding", "fit_encoding", "is_number"]

MISSING = frozenset({"", "?", "NA", "N/A"})
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")  # no leading zeros: 01234 is a code
_CATEGORIES_LIMIT = 1000  # a column with more texts than this is an identifier or prose, not a category
_STEPS_LIMIT = 2**22  # float32 tells this many steps in [0, 1] apart, also after standardising


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table, and where it stands in the encoded row.

    Args:
        name: as in the header, or ``column 1`` and so on.
        start: first feature of the column.
        stop: one past its last feature.
        categories: the texts, in the order of their one-hot features; empty for a column of numbers.
        missing: texts that stand for no value in a column of numbers, one indicator feature each after the number.
        low: smallest number; encodes to 0.
        high: largest number; encodes to 1.
        decimals: digits after the point in the cell's canonical text: as many as the data show, but no more than
            float32 can tell apart over the column's range.
        lossless: whether every cell of the data survives encoding in float32. Numbers of more than 6 digits may not.
    """

    name: str
    start: int
    stop: int
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    decimals: int = 0
    lossless: bool = True

    @property
    def unit(self) -> float:
        """The step between neighbouring numbers of the column."""
        return float(10.0**-self.decimals)

    def canonical(self, cell: str) -> str:
        """The text that decoding gives for this cell: ``7.50`` for `` 7.5`` where the column shows two decimals."""
        text = cell.strip()
        return text if self.categories or text in self.missing else self._text(float(text))

    def encode(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """``[N, stop - start]``; a KeyError or ValueError carries a cell that the column does not know."""
        texts = self.categories or self.missing
        first = 0 if self.categories else 1
        place = {text: index + first for index, text in enumerate(texts)}
        features = np.zeros((len(cells), self.stop - self.start))
        span = (self.high - self.low) or 1.0
        for row, cell in enumerate(map(str.strip, cells)):
            if cell in place:
                features[row, place[cell]] = 1.0
            elif self.categories or not is_number(cell):
                raise KeyError(row)
            else:
                features[row, 0] = (float(cell) - self.low) / span
        return features

    def decode(self, features: NDArray[np.float64]) -> list[str]:
        """The cells nearest to ``features [N, stop - start]``; ``nan`` where a feature is NaN."""
        broken = np.asarray(np.isnan(features).any(axis=1))
        if self.categories:
            nearest = np.where(broken, 0, features.argmax(axis=1))
            cells = [self.categories[index] for index in nearest]
        else:
            values = np.where(np.isfinite(features[:, 0]), features[:, 0], 0) * (self.high - self.low) + self.low
            cells = [self._text(value) for value in values]
            for row in np.flatnonzero(np.isinf(features[:, 0])):
                cells[row] = "inf" if features[row, 0] > 0 else "-inf"
            if self.missing:
                nearest = features[:, 1:].argmax(axis=1)
                for row in np.flatnonzero(features[:, 1:].max(axis=1) > 0.5):
                    cells[row] = self.missing[nearest[row]]
        return ["nan" if bad else cell for bad, cell in zip(broken.tolist(), cells, strict=True)]

    def _text(self, value: float) -> str:
        return f"{round(float(value), self.decimals) + 0.0:.{self.decimals}f}"  # + 0.0: never "-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEncoding:
    """Every column but the target: numbers scaled to [0, 1] over the data set, texts one-hot."""

    columns: tuple[Column, ...]

    @property
    def features(self) -> int:
        """The length of an encoded row."""
        return self.columns[-1].stop

    def encode(self, rows: Sequence[Mapping[str, str]]) -> Tensor:
        """Rows as ``[N, features]`` float32. Numbers outside the column's range land outside [0, 1].

        Raises:
            InputError: a row lacks a column or holds a cell that the column does not know.
        """
        parts = []
        for column in self.columns:
            try:
                parts.append(column.encode([row[column.name] for row in rows]))
            except KeyError as error:
                place = error.args[0]
                found = f"`{rows[place][column.name]}` in row {place}" if isinstance(place, int) else "rows without it"
                expected = "a number" if not column.categories else f"one of {len(column.categories)} known texts"
                raise InputError(f"Column `{column.name}` should hold {expected}; found {found}.") from error
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))

    def decode(self, inputs: Tensor) -> list[dict[str, str]]:
        """The rows nearest to raw (not standardised) ``inputs [N, features]``, in canonical text.

        A text is the one of the largest feature; a number is rounded to the column's decimals, so that an exact
        reconstruction gives the very cell. NaN gives the cell ``nan``.

        Raises:
            InputError: ``inputs`` has another shape.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.features:
            raise InputError(f"`inputs` should have the shape [N, {self.features}]; found {list(inputs.shape)}.")
        values = inputs.detach().cpu().double().numpy()
        names = [column.name for column in self.columns]
        cells = [column.decode(values[:, column.start : column.stop]) for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]

    def canonical(self, row: Mapping[str, str]) -> dict[str, str]:
        """The row as decoding would write it, without the target and other columns."""
        return {column.name: column.canonical(row[column.name]) for column in self.columns}


def fit_encoding(cells: Mapping[str, Sequence[str]], lines: Sequence[int] | None = None) -> TableEncoding:
    """The encoding of a table given by columns of stripped texts.

    Args:
        cells: texts by column, one a row.
        lines: of each row, the line of the file in which it begins, as an editor counts; messages name it.

    Raises:
        InputError: no column, NaN or infinity in a column of numbers, or a column of more than 1000 different texts.
    """
    if not cells:
        raise InputError("A table should hold at least one column besides the target; found none.")
    columns: list[Column] = []
    for name, texts in cells.items():
        columns.append(_fit_column(name, texts, lines, start=columns[-1].stop if columns else 0))
    return TableEncoding(columns=tuple(columns))


def _fit_column(name: str, texts: Sequence[str], lines: Sequence[int] | None, *, start: int) -> Column:
    distinct = set(texts)
    numbers = {text for text in distinct if is_number(text)}
    others = distinct - numbers
    unbounded = {text for text in others if text.lower().lstrip("+-") in {"nan", "inf", "infinity"}}
    if numbers and others and others <= unbounded | MISSING and unbounded:
        row = next(row for row, text in enumerate(texts) if text in unbounded)
        place = f"line {lines[row]}" if lines is not None else f"row {row}"
        raise InputError(f"Column `{name}` should hold finite numbers; found `{texts[row]}` in {place}.")
    if not numbers or not others <= MISSING:
        if len(distinct) > _CATEGORIES_LIMIT:
            raise InputError(
                f"Column `{name}` should be numbers or at most {_CATEGORIES_LIMIT} different texts; "
                f"found {len(distinct)}: remove it if it only identifies a row."
            )
        return Column(name=name, start=start, stop=start + len(distinct), categories=tuple(sorted(distinct)))
    values = [float(text) for text in numbers]
    low, high, missing = min(values), max(values), tuple(sorted(others))
    if not math.isfinite(high - low):
        raise InputError(f"Column `{name}` should span a finite range; found {low:g} to {high:g}.")
    shown = max(0, *(-int(Decimal(text).as_tuple().exponent) for text in numbers))
    room = math.floor(math.log10(_STEPS_LIMIT / (high - low))) if high > low else shown
    return Column(
        name=name,
        start=start,
        stop=start + 1 + len(missing),
        missing=missing,
        low=low,
        high=high,
        decimals=max(0, min(shown, room)),
        lossless=shown <= room,
    )


def is_number(text: str) -> bool:
    """Whether a stripped cell is a finite decimal number, without leading zeros (those are codes)."""
    return (
        _NUMBER.fullmatch(text) is not None
        and any(character.isdigit() for character in text.lower().partition("e")[0])
        and math.isfinite(float(text))
    )
