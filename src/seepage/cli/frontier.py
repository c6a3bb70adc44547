"""``seepage frontier``: you need at least so much."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from seepage.audit.record import Verdict
from seepage.audit.sweeps.cell import Cell, Shard, shards_of
from seepage.audit.sweeps.engines import Engine
from seepage.audit.sweeps.frontier import Axis, Bisection, Interval, Point, at, grouped, median_interval, read_axis
from seepage.audit.sweeps.frontier import recovered_share as share_of
from seepage.audit.sweeps.plan import Plan, read_plan
from seepage.audit.sweeps.sweep import SweepFolder
from seepage.cli.engines import EngineName, EngineOption, WorkersOption, open_engine
from seepage.cli.options import SweepOutOption
from seepage.cli.show import out as console
from seepage.cli.sweep import compute_shown, sweep_record
from seepage.report.curves import frontier_svg
from seepage.report.gatefiles import write_text

__all__ = ["frontier"]


def frontier(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A TOML file: [plan], [grid] and [frontier].")],
    out: SweepOutOption,
    workers: WorkersOption = None,
    engine: EngineOption = EngineName.LOCAL,
) -> None:
    """Bisect to the smallest setting of an axis at which recovery falls below a share, with an interval over seeds.

    Ends with 0 if every frontier was found, 4 if one could not be told. Taken up by the same command.
    """
    planned = read_plan(plan)
    axis = read_axis(planned)
    folder = SweepFolder.open(out, sweep_record(planned, findings=0))
    told, used, results = True, [], []
    groups = grouped(planned.cells, axis)
    with open_engine(engine, workers, out) as opened:
        searched = [_search(cells, axis, planned, folder, opened) for cells in groups.values()]
    for number, ((group, cells), found) in enumerate(zip(groups.items(), searched, strict=True)):
        if found is None:
            raise typer.Exit(Verdict.NOT_AUDITED)
        points, searches, shards = found
        used += shards
        stuck = [one.stuck for one in searches if one.stuck is not None]
        interval = None if stuck else median_interval([one.high for one in searches])
        sentence = _sentence(axis, interval, stuck, seeds=len(cells))
        told = told and not stuck
        console.print(f"{_title(group)}: {sentence}", markup=False, soft_wrap=True)
        name = f"frontier-{number}.svg"
        write_text(out / name, frontier_svg(points, axis, interval, title=_title(group)))
        results.append(_record(group, axis, points, interval, sentence, name))
    findings = folder.gather(used)
    folder.write_record({**sweep_record(planned, findings=len(findings)), "complete": True})
    write_text(out / "frontier.json", json.dumps(results, indent=2) + "\n")
    console.print(f"curves and points: {out / 'frontier.json'}", markup=False, soft_wrap=True)
    raise typer.Exit(Verdict.NOTHING_LEAKED if told else Verdict.INCONCLUSIVE)


def _search(
    cells: Sequence[Cell], axis: Axis, plan: Plan, folder: SweepFolder, engine: Engine
) -> tuple[list[Point], list[Bisection], list[Shard]] | None:
    """All seeds side by side: each round computes the next place of every seed. ``None`` after Ctrl-C."""
    searches = [Bisection(places=len(axis.settings)) for _ in cells]
    points: list[Point] = []
    used: list[Shard] = []
    while any(one.next is not None for one in searches):
        asked = [(cell, one, one.next) for cell, one in zip(cells, searches, strict=True) if one.next is not None]
        shards = [shards_of(at(cell, axis, place), size=plan.shard_batches) for cell, _, place in asked]
        flat = [shard for several in shards for shard in several]
        if not compute_shown(flat, folder, engine):
            return None
        for (cell, search, place), several in zip(asked, shards, strict=True):
            findings = [finding for shard in several for finding in folder.read(shard)]
            point = share_of(findings, axis, seed=cell.seed, place=place)
            search.take(point, share=axis.share)
            points.append(point)
        used += flat
    return points, searches, used


def _sentence(axis: Axis, interval: Interval | None, stuck: Sequence[Point], *, seeds: int) -> str:
    word = axis.name.replace("_", " ")
    if interval is None:
        first = stuck[0]
        where = f"{word} {axis.settings[first.place]:g}, seed {first.seed}"
        return f"inconclusive: at {where} it could not be told what is recovered ({first.why})."
    if interval.median == len(axis.settings):
        return f"no {word} up to {axis.settings[-1]:g} is enough: recovery stays at or above {axis.share:g}."
    ends = sorted([interval.low, interval.high], key=lambda place: _value(axis, place))
    low, high = (_words(axis, place) for place in ends)
    beyond = " (already at the first setting tried)" if interval.median == 0 else ""
    return (
        f"recovery falls below {axis.share:g} of the examples at {word} {_words(axis, interval.median)}{beyond} "
        f"({interval.coverage:.0%} interval of the median over {seeds} seeds: {low} to {high})."
    )


def _value(axis: Axis, place: int) -> float:
    return axis.settings[min(place, len(axis.settings) - 1)]


def _words(axis: Axis, place: int) -> str:
    return f"beyond {axis.settings[-1]:g}" if place == len(axis.settings) else f"{axis.settings[place]:g}"


def _title(cell: Cell) -> str:
    return ", ".join([cell.attack, cell.data, cell.network, cell.rule, *cell.defenses])


def _record(
    cell: Cell, axis: Axis, points: Sequence[Point], interval: Interval | None, sentence: str, figure: str
) -> dict[str, Any]:
    return {
        "setting": _title(cell),
        "axis": axis.name,
        "share": axis.share,
        "least_psnr": axis.least_psnr,
        "sentence": sentence,
        "median": None if interval is None else _words(axis, interval.median),
        "interval": None if interval is None else [_words(axis, interval.low), _words(axis, interval.high)],
        "coverage": None if interval is None else interval.coverage,
        "figure": figure,
        "points": [
            {
                "setting": axis.settings[one.place],
                "seed": one.seed,
                "recovered": one.recovered,
                "examples": one.examples,
                "why": one.why,
            }
            for one in points
        ],
    }
