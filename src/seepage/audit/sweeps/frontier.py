"""The smallest setting at which recovery falls below a share: a bisection for each seed, an interval over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seepage.audit.findings import Finding
from seepage.audit.sweeps.cell import Cell
from seepage.audit.sweeps.plan import Plan
from seepage.audit.tomlfile import Table
from seepage.audit.unread import unread_words
from seepage.errors import InputError

__all__ = ["Axis", "Bisection", "Interval", "Point", "at", "grouped", "median_interval", "read_axis", "recovered_share"]

_MOST_SETTINGS = 100_000  # held in memory; bisection looks at a few
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What is varied, from the least protecting setting to the most.

    Args:
        name: ``batch_size``, or the name of a place such as ``{noise}`` in the plan's network, rule or defenses.
        settings: in the order in which they protect.
        share: recovery below this share of a batch's examples is enough protection.
        least_psnr: an example that was approximated to this many dB counts as recovered; ``None``: only exact ones.
    """

    name: str
    settings: tuple[float, ...]
    share: float
    least_psnr: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting, tried with one seed.

    Args:
        seed: of the cell.
        place: index into the axis' settings.
        recovered: share of examples recovered; ``None`` if that could not be told: it broke, met an obstacle, or was
            silent without a passed control.
        examples: how many there were.
        why: what went wrong where ``recovered`` is ``None``.
    """

    seed: int
    place: int
    recovered: float | None
    examples: int
    why: str = ""


@dataclass(slots=True)
class Bisection:
    """One seed's search. It takes recovery to fall along the axis; the curve shows whether it did.

    Args:
        places: how many settings there are.
        low: the last place known to leak; -1 at the start.
        high: the first place known to protect; ``places`` while none is known.
        stuck: a place that could not be told, which ends the search without an answer.
    """

    places: int
    low: int = -1
    high: int = -1
    stuck: Point | None = None

    def __post_init__(self) -> None:
        self.high = self.places

    @property
    def next(self) -> int | None:
        """The place to try next; both ends come first; ``None`` if the search is over."""
        if self.stuck is not None or self.high - self.low <= 1:
            return None
        if self.high == self.places:
            return self.places - 1
        return 0 if self.low == -1 else (self.low + self.high) // 2

    def take(self, point: Point, *, share: float) -> None:
        """Learn from what :attr:`next` asked for."""
        if point.recovered is None:
            self.stuck = point
        elif point.recovered < share:
            self.high = point.place
        else:
            self.low = point.place


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The median over seeds, and order statistics around it.

    Args:
        median: place of the (upper) median; ``places`` stands for "beyond the last setting".
        low, high: places between which the median of all seeds lies with probability at least ``coverage``.
        coverage: at least 0.95 where there are seeds enough (six), else what the whole range gives.
    """

    median: int
    low: int
    high: int
    coverage: float


def median_interval(places: Sequence[int]) -> Interval:
    """Distribution-free: between the ``k``-th smallest and the ``k``-th largest of ``n`` lies the median, with
    probability ``1 - 2 P[Bin(n, 1/2) < k]``; the largest ``k`` that keeps 0.95, else the whole range (``k = 1``).
    """
    ordered, count = sorted(places), len(places)

    def coverage(k: int) -> float:
        return 1.0 - sum(math.comb(count, one) for one in range(k)) / float(2 ** (count - 1))

    k = max((k for k in range(1, (count + 1) // 2 + 1) if coverage(k) >= _CONFIDENCE), default=1)
    return Interval(
        median=ordered[count // 2], low=ordered[k - 1], high=ordered[count - k], coverage=max(0.0, coverage(k))
    )


def recovered_share(findings: Sequence[Finding], axis: Axis, *, seed: int, place: int) -> Point:
    """The share of examples of all batches that were recovered, or why it cannot be told."""
    examples = sum(finding.batch_size for finding in findings)
    least = math.inf if axis.least_psnr is None else axis.least_psnr
    recovered = sum(sum(finding.recovered(least)) for finding in findings)
    overlooked = sum(finding.held(exactly=axis.least_psnr is None) for finding in findings)
    why = [
        " ".join(one.obstacles) or one.error or "interrupted" if not one.ended else "inconclusive: its control failed"
        for one in findings
        if not one.ended or (one.silent and not (one.control is not None and one.control.passed))
    ]
    if not why and recovered < axis.share * examples <= recovered + overlooked:
        why = [f"inconclusive: it overlooked {overlooked} examples that the update holds as rows"]
    unread = next((one.unread for one in findings if one.unread), None)
    if not why and unread and recovered < axis.share * examples:
        why = [f"inconclusive: {unread_words(unread)}"]
    if why or not findings:
        return Point(seed=seed, place=place, recovered=None, examples=examples, why=why[0] if why else "no findings")
    return Point(seed=seed, place=place, recovered=recovered / examples, examples=examples)


def at(cell: Cell, axis: Axis, place: int) -> Cell:
    """The cell with the axis at one of its settings."""
    text = f"{axis.settings[place]:g}"
    if axis.name == "batch_size":
        return replace(cell, batch_size=int(axis.settings[place]))
    hole = "{" + axis.name + "}"
    return replace(
        cell,
        network=cell.network.replace(hole, text),
        rule=cell.rule.replace(hole, text),
        defenses=tuple(one.replace(hole, text) for one in cell.defenses),
    )


def read_axis(plan: Plan) -> Axis:
    """The plan's ``[frontier]`` table.

    Raises:
        InputError: there is none, or it does not fit the plan; the message names the line.
    """
    table = plan.frontier
    if table is None:
        raise InputError(
            f"{plan.source} should have a table [frontier]; found none, and a plan without one is for `seepage sweep`."
        )
    name = table.text("axis")
    share = table.number("share", low=1e-9, high=1, default=0.5) or 0.5
    least = table.number("least_psnr", low=0, high=300)
    protects = table.text("protects", "more")
    if protects not in ("more", "less"):
        raise table.error("protects", "should be `more` or `less` (of the axis protects)")
    settings = _log_scale(table) if "points" in table else _whole_scale(table)
    table.nothing_else()
    texts = [(cell.network, cell.rule, *cell.defenses) for cell in plan.cells]
    if name != "batch_size" and not all(any("{" + name + "}" in one for one in cell) for cell in texts):
        raise table.error("axis", "should be batch_size, or the name of a place in network, rule or defense of [grid]")
    return Axis(
        name=name,
        settings=settings if protects == "more" else tuple(reversed(settings)),
        share=share,
        least_psnr=least,
    )


def grouped(cells: Sequence[Cell], axis: Axis) -> Mapping[Cell, list[Cell]]:
    """Cells that differ by their seed only, under the one with the seed left out."""
    groups: dict[Cell, list[Cell]] = {}
    for cell in cells:
        plain = replace(cell, seed=0, batch_size=1) if axis.name == "batch_size" else replace(cell, seed=0)
        seeds = groups.setdefault(plain, [])
        if cell.seed not in [one.seed for one in seeds]:
            seeds.append(cell)
    return groups


def _whole_scale(table: Table) -> tuple[float, ...]:
    low = table.integer("low", low=1)
    high = table.integer("high", low=low + 1)
    step = table.integer("step", low=1, default=1)
    if (high - low) // step >= _MOST_SETTINGS:
        raise table.error("high", f"should be {_MOST_SETTINGS:,} steps above `low` at most")
    return tuple(float(value) for value in range(low, high + 1, step))


def _log_scale(table: Table) -> tuple[float, ...]:
    points = table.integer("points", low=2)
    if points > _MOST_SETTINGS:
        raise table.error("points", f"should be {_MOST_SETTINGS:,} at most")
    low = table.number("low", low=1e-12, high=1e12) or 0.0
    high = table.number("high", low=1e-12, high=1e12) or 0.0
    if not 0 < low < high:
        raise table.error("high", "should be above `low`, both of them numbers above 0")
    return tuple(float(f"{low * (high / low) ** (k / (points - 1)):.3g}") for k in range(points))
