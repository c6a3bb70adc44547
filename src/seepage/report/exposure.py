"""Findings -> the worst record and not the mean: which classes, columns and examples are given away first, and why."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from seepage.audit.findings import Finding, Score
from seepage.report.counts import score_at

__all__ = ["MOST_SHARES", "Exposure", "Share", "exposure"]

MOST_SHARES = 20  # rows of a table on the page
_ALONE = "units_alone"
_ORIGINAL = " (original)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How much of one class or one column came out exactly.

    Args:
        name: of the class or column.
        exact: examples or cells.
        of: how many there were.
        guess: of a column, how many its most common value gets right, which is known without any attack.
    """

    name: str
    exact: int
    of: int
    guess: int = 0

    def __str__(self) -> str:
        return f"{self.exact} of {self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Over all batches of a run; an example or cell that two attacks reconstruct counts once.

    Args:
        sentences: the worst of each kind, in words.
        classes: the most exposed first; empty on a redacted page, since their sizes are the private labels, counted.
        columns: of a table, the most exposed first: furthest above what a guess gets right.
    """

    sentences: tuple[str, ...]
    classes: tuple[Share, ...]
    columns: tuple[Share, ...]


def exposure(findings: Sequence[Finding], *, class_names: Sequence[str], redact: bool) -> Exposure:
    """Who is most exposed, and why.

    Args:
        findings: of one run; those that are on labels alone, or did not come to a result, count for nothing.
        class_names: by label; a label beyond them is called by its number.
        redact: leave out classes.
    """
    batches: dict[Hashable, list[Finding]] = {}
    for one in findings:
        if one.could_run and not one.restores_labels:
            made = (one.network, one.rule, tuple(one.defenses))
            batches.setdefault((one.data, one.seed, one.batch, one.batch_size, *made), []).append(one)
    classes = () if redact else _ordered(_classes(batches.values(), class_names))
    columns = _ordered(_columns(batches.values()), _guesses(batches.values()))
    sentences = (
        _worst_column(columns),
        _worst_class(classes),
        _alone(batches.values()),
    )
    return Exposure(sentences=tuple(one for one in sentences if one), classes=classes, columns=columns)


def _classes(batches: Iterable[Sequence[Finding]], names: Sequence[str]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for rows in batches:
        labels = next((one.true_labels for one in rows if one.true_labels), [])
        for index, label in enumerate(labels):
            name = str(names[label]) if 0 <= label < len(names) else f"class {label}"
            found.setdefault(name, []).append(any(score_at(one, "exact", index) is True for one in rows))
    return found


def _columns(batches: Iterable[Sequence[Finding]]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for rows in batches:
        for name in dict.fromkeys(name for one in rows for name in _cells(one)):
            for index in range(rows[0].batch_size):
                found.setdefault(name, []).append(any(_right(_cells(one).get(name), index) for one in rows))
    return found


def _cells(finding: Finding) -> Mapping[str, list[bool]]:
    """For each column, whether each row's cell came out right: a category equal, a number without error."""
    cells: dict[str, list[bool]] = {}
    for key, values in finding.scores.items():
        kind, _, name = key.partition(":")
        if name and kind in ("right", "error") and isinstance(values, list):
            cells[name] = [_is_right(kind, value) for value in values]
    return cells


def _is_right(kind: str, value: Score) -> bool:
    return value is True if kind == "right" else value is not None and value == 0


def _right(cells: Sequence[bool] | None, index: int) -> bool:
    return cells is not None and index < len(cells) and cells[index]


def _guesses(batches: Iterable[Sequence[Finding]]) -> dict[str, int]:
    """For each column, how often its most common value stands in it."""
    counted: dict[str, Counter[str | None]] = {}
    for rows in batches:
        for name, cells in next((one.columns for one in rows if one.columns), {}).items():
            if name.endswith(_ORIGINAL):
                counted.setdefault(name.removesuffix(_ORIGINAL), Counter()).update(cells)
    return {name: counter.most_common(1)[0][1] for name, counter in counted.items() if counter}


def _ordered(found: Mapping[str, Sequence[bool]], guesses: Mapping[str, int] | None = None) -> tuple[Share, ...]:
    """Furthest above the guess first; of equal ones, the larger share, and the larger number."""
    known = guesses or {}
    shares = [
        Share(name=name, exact=sum(values), of=len(values), guess=known.get(name, 0)) for name, values in found.items()
    ]
    key = {one.name: ((one.guess - one.exact) / one.of, -one.exact / one.of, -one.exact) for one in shares}
    return tuple(sorted(shares, key=lambda one: key[one.name]))


def _worst_column(columns: Sequence[Share]) -> str:
    if not columns:
        return ""
    first = columns[0]
    if all(one.exact == one.of for one in columns):
        return f"Every column is exact for all of {first.of} rows."
    if first.exact <= first.guess:
        return "No column came out better than by answering its most common value."
    than = f", where its most common value alone gets {first.guess} right" if first.guess else ""
    return f"The most exposed column is {first.name}, exact for {first} rows{than}."


def _worst_class(classes: Sequence[Share]) -> str:
    if not classes or classes[0].exact == 0:
        return ""
    first, last = classes[0], classes[-1]
    if last.exact == last.of:
        return "No class is spared: all examples of each came out exactly."
    if first.exact * last.of == last.exact * first.of:
        return f"No class is spared: of each, {first.exact / first.of:.0%} of the examples came out exactly."
    return f"The most exposed class is {first.name}, exact for {first} examples; the least is {last.name}, with {last}."


def _alone(batches: Iterable[Sequence[Finding]]) -> str:
    """Examples that one unit gives away by itself."""
    total, given = 0, 0
    found: list[tuple[int, int, int]] = []  # units, batch, number of the example
    for rows in batches:
        total += rows[0].batch_size
        for index in range(rows[0].batch_size):
            units = next((int(value) for one in rows if (value := score_at(one, _ALONE, index)) is not None), 0)
            if units:
                given += any(one.given()[index] for one in rows)
                found.append((units, rows[0].batch, index + 1))
    if not found:
        return ""
    most, batch, number = max(found, key=lambda one: one[0])
    verb = "switches" if len(found) == 1 else "switch"
    missed = " An attack that misses such examples does not make them safe." if given < len(found) else ""
    return (
        f"{len(found)} of {total} examples {verb} on a unit of the attacked layer that no other example of the batch "
        "does; in a plain gradient that unit’s row is the example itself, times a number, so that no search is needed. "
        f"Of such examples, {given} came out exactly or recognisably. Example {number} of batch {batch} has the most "
        f"such units, {most}.{missed}"
    )
