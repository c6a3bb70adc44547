"""Tables in text files: CSV with or without a header, as the UCI sets come."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seepage.data.loaded import BYTES_LIMIT, digest_files
from seepage.data.tabular import MISSING, TableEncoding, fit_encoding, is_number
from seepage.errors import InputError

__all__ = ["LoadedTable", "read_rows", "read_table"]

_FILE_LIMIT = 2**30  # bytes of text; each cell is a Python string for a while
_CLASSES_LIMIT = 1000
_ADULT = (  # adult.data and adult.test come without a header; the names are those of adult.names
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedTable:
    """A table as read: ``inputs [N, features]`` float32 in [0, 1], ``labels [N]`` int64, names, encoding, digest."""

    inputs: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    encoding: TableEncoding
    sha256: str


def read_table(path: Path, *, target: str | None = None) -> LoadedTable:
    """A table of numbers and texts; classes are the sorted texts of the target column.

    Args:
        path: text in UTF-8, separated by commas, semicolons or tabs.
        target: the column of labels, the last one by default. Without a header, columns are ``column 1`` and so on.

    Raises:
        InputError: no rows, a ragged row (with its line), an unknown target, a target that is no category, a column
            that cannot be encoded, or an encoding of more than 8 GiB.
    """
    rows, lines = _numbered_rows(path)
    names = tuple(rows[0])
    chosen = names[-1] if target is None else target
    if chosen not in names:
        raise InputError(f"{path}: `target` should be one of {', '.join(names)}; found `{chosen}`.")
    texts = _strip_points([row[chosen] for row in rows])
    class_names = _classes(texts, where=f"{path}: target `{chosen}`")
    try:
        encoding = fit_encoding({name: [row[name] for row in rows] for name in names if name != chosen}, lines)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if len(rows) * encoding.features * 4 > BYTES_LIMIT:
        raise InputError(f"{path}: the encoded table should take at most {BYTES_LIMIT} bytes; remove columns or rows.")
    index = {name: label for label, name in enumerate(class_names)}
    return LoadedTable(
        inputs=encoding.encode(rows),
        labels=torch.tensor([index[text] for text in texts]),
        class_names=class_names,
        encoding=encoding,
        sha256=digest_files([path]),
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows as stripped texts by column name; leading lines that begin with ``|`` are comments.

    Raises:
        InputError: not text, no rows, a ragged row (with its line), two columns of one name.
    """
    return _numbered_rows(path)[0]


def _numbered_rows(path: Path) -> tuple[list[dict[str, str]], list[int]]:
    """:func:`read_rows`, and the line in which each begins, as an editor counts."""
    if path.stat().st_size > _FILE_LIMIT:
        raise InputError(f"{path}: expected a table of at most {_FILE_LIMIT} bytes; found {path.stat().st_size}.")
    lines, numbers = _read_lines(path)
    if lines and _has_header(lines):
        names = [cell or f"column {index + 1}" for index, cell in enumerate(lines.pop(0))]
    else:
        width = len(lines[0]) if lines else 0
        adult = path.name in {"adult.data", "adult.test"} and width == len(_ADULT)
        names = list(_ADULT) if adult else [f"column {index + 1}" for index in range(width)]
    if not lines:
        raise InputError(f"{path}: expected a table with at least one row of data; found none.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: expected different names of columns; found `{twice}` twice.")
    return [dict(zip(names, cells, strict=True)) for cells in lines], numbers[-len(lines) :]


def _read_lines(path: Path) -> tuple[list[list[str]], list[int]]:
    lines: list[list[str]] = []
    numbers: list[int] = []
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while (begin := file.readline()).startswith("|") or (begin and not begin.strip()):
                number += 1
            separator = max((",", ";", "\t"), key=begin.count)
            file.seek(0)
            for _ in range(number):
                file.readline()
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            end = number
            for cells in reader:
                begun, end = end + 1, number + reader.line_num
                if not any(cell.strip() for cell in cells):
                    continue  # a blank line
                if lines and len(cells) != len(lines[0]):
                    raise InputError(
                        f"{path}: expected {len(lines[0])} cells in every row; found {len(cells)} in line {begun}."
                    )
                numbers.append(begun)
                lines.append([cell.strip() for cell in cells])
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a table of text in UTF-8; found one that cannot be read ({error})."
        ) from error
    return lines, numbers


def _has_header(lines: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names the columns.

    It does not if one of its cells is a number. It does if it stands, with a text, over a column of numbers. In a
    table without numbers, it does if none of its cells comes again in its own column.
    """
    first, rest = lines[0], lines[1:]
    named = first[1:] if first[0] == "" else first  # pandas leaves the name of the index empty
    if any(_is_numeric(cell) or cell in MISSING for cell in named):
        return False
    columns = [{row[index] for row in rest} - MISSING for index in range(len(first))]
    if any(column and all(map(_is_numeric, column)) for column in columns):
        return True
    return not any(cell in column for cell, column in zip(first, columns, strict=True))


def _is_numeric(text: str) -> bool:
    """Wider than ``is_number``: codes such as 007, NaN and infinity are no names of columns either."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _strip_points(texts: list[str]) -> list[str]:
    """Without the full stop that ends every label of adult.test, and of that family of files."""
    return [text[:-1] for text in texts] if all(text.endswith(".") and len(text) > 1 for text in texts) else texts


def _classes(texts: Sequence[str], *, where: str) -> tuple[str, ...]:
    distinct = set(texts)
    numbers = all(is_number(text) for text in distinct)
    limit = 100 if numbers else _CLASSES_LIMIT
    if len(distinct) > limit or (numbers and any(not float(text).is_integer() for text in distinct)):
        raise InputError(
            f"{where} should be a category of at most {limit} classes (whole numbers or texts); "
            f"found {len(distinct)} different values such as `{texts[0]}`."
        )
    return tuple(sorted(distinct, key=float) if numbers else sorted(distinct))
