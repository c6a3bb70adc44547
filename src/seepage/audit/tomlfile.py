"""A TOML file read key by key, so that every error names the file, the line, what was expected and what was found."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seepage.errors import InputError

__all__ = ["Table", "read_toml"]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\-\"' ]+?)\s*=")


@dataclass(slots=True)
class Table:
    """One table of the file; what is read of it is noted, so that a key nobody asked for can be named.

    Args:
        file: as messages name it.
        path: the table's own name, ``""`` for the top of the file, ``limits_for.0`` for the first of several.
        values: as ``tomllib`` read them.
        lines: of each dotted key in the file, from 1.
    """

    file: Path
    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    _asked: set[str] = field(default_factory=set)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def table(self, key: str) -> "Table":
        """A table in this one; an absent one is empty."""
        found = self._get(key, {})
        if not isinstance(found, dict):
            raise self.error(key, "should be a table")
        return Table(self.file, self._dotted(key), found, self.lines)

    def tables(self, key: str) -> list["Table"]:
        """The tables written ``[[key]]``; none if absent."""
        found = self._get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self.error(key, f"should be tables, each under [[{key}]]")
        return [Table(self.file, f"{self._dotted(key)}.{n}", one, self.lines) for n, one in enumerate(found)]

    def text(self, key: str, default: str | None = None) -> str:
        """A text; without a default the key must be there."""
        found = self._get(key, default)
        if not isinstance(found, str) or not found:
            raise self.error(key, "should be a text")
        return found

    def flag(self, key: str, default: bool) -> bool:
        """``true`` or ``false``."""
        found = self._get(key, default)
        if not isinstance(found, bool):
            raise self.error(key, "should be true or false")
        return found

    def number(self, key: str, *, low: float, high: float, default: float | None = None) -> float | None:
        """A number in [``low``, ``high``]."""
        found = self._get(key, default)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
            raise self.error(key, f"should be a number from {low:g} to {high:g}")
        return float(found)

    def integer(self, key: str, *, low: int, default: int | None = None) -> int:
        """A whole number, at least ``low``."""
        found = self._get(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or found < low:
            raise self.error(key, f"should be a whole number, at least {low}")
        return found

    def texts(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A text, or a list of different texts."""
        return self._several(key, default, str, "texts")

    def integers(self, key: str, *, low: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A whole number, or a list of different ones, each at least ``low``."""
        found = self._several(key, default, int, "whole numbers")
        if min(found) < low:
            raise self.error(key, f"should hold whole numbers, each at least {low}")
        return found

    def several(self, key: str, default: Sequence[object]) -> list[object]:
        """A list of anything, not empty."""
        found = self._get(key, list(default))
        if not isinstance(found, list) or not found:
            raise self.error(key, "should be a list with at least one entry")
        return found

    def nothing_else(self) -> None:
        """Refuse keys that nobody asked for: most are misspelt.

        Raises:
            InputError: there is one.
        """
        for key in self.values:
            if key not in self._asked:
                wanted = ", ".join(sorted(self._asked))
                raise InputError(f"{self._where(key)}: {self._name(key)} is not known; known here: {wanted}.")

    def error(self, key: str, expected: str) -> InputError:
        """The error of one key: file, line, what was expected, what was found."""
        if key not in self.values:
            return InputError(f"{self._where(key)}: {self._name(key)} {expected}; it is missing.")
        return InputError(f"{self._where(key)}: {self._name(key)} {expected}; found {self.values[key]!r}.")

    def _several(self, key: str, default: Sequence[Any] | None, kind: type, word: str) -> tuple[Any, ...]:
        found = self._get(key, None if default is None else list(default))
        entries = found if isinstance(found, list) else [found]
        right = all(isinstance(one, kind) and not isinstance(one, bool) and one != "" for one in entries)
        if not entries or not right or len(set(entries)) < len(entries):
            raise self.error(key, f"should be a list of different {word}, at least one")
        return tuple(entries)

    def _get(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        return self.values.get(key, default)

    def _dotted(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _name(self, key: str) -> str:
        return f"`{re.sub(r'[.][0-9]+', '', self._dotted(key))}`"

    def _where(self, key: str) -> str:
        line = self.lines.get(self._dotted(key), self.lines.get(self.path))
        return f"{self.file}" if line is None else f"{self.file}, line {line}"


def read_toml(path: Path) -> Table:
    """The whole file as a table.

    Raises:
        InputError: it cannot be read or is no TOML; the message names the file, and the line where there is one.
    """
    try:
        text = path.read_text(encoding="utf8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} should be a TOML file that can be read; found: {found}.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} should be TOML; found: {error}.") from error
    return Table(path, "", values, _lines(text))


def _lines(text: str) -> dict[str, int]:
    """The line of each header and key. A ``key =`` inside a value that spans lines counts too: only messages see it."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            table = _plain(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                lines.setdefault(table, number)
                table = f"{table}.{counts[table]}"
            lines[table] = number
        elif key:
            lines.setdefault(f"{table}.{_plain(key[1])}" if table else _plain(key[1]), number)
    return lines


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
