"""``seepage sweep``: a plan's cells, computed by several processes, taken up wherever they were left."""

import hashlib
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from seepage.audit.environment import versions
from seepage.audit.findings import Finding
from seepage.audit.record import Verdict, attack_sha256, verdict
from seepage.audit.sweeps.cell import Shard, shards_of
from seepage.audit.sweeps.engines import Engine
from seepage.audit.sweeps.plan import Plan, has_place, read_plan
from seepage.audit.sweeps.sweep import DIGITS, SweepFolder, canonical_digest
from seepage.audit.sweeps.sweep import sweep as compute
from seepage.cli.engines import EngineName, EngineOption, WorkersOption, open_engine
from seepage.cli.options import SweepOutOption, ThresholdOption
from seepage.cli.show import err
from seepage.cli.show import out as console
from seepage.data.sources import load_dataset
from seepage.errors import InputError, readable
from seepage.networks.zoo import network_source_sha256
from seepage.report.tallies import Tally, tallies

__all__ = ["compute_shown", "sweep", "sweep_record"]


def sweep(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A TOML file: [plan] and [grid].")],
    out: SweepOutOption,
    workers: WorkersOption = None,
    engine: EngineOption = EngineName.LOCAL,
    retry_broken: Annotated[
        bool, typer.Option("--retry-broken", help="Compute again the rows that ended in an error.")
    ] = False,
    threshold: ThresholdOption = 0.0,
) -> None:
    """Audit every combination of a plan. A sweep that was killed is taken up by the same command."""
    planned = read_plan(plan)
    _refuse_frontier(planned)
    shards = [shard for cell in planned.cells for shard in shards_of(cell, size=planned.shard_batches)]
    record = sweep_record(planned, findings=sum(cell.batches for cell in planned.cells))
    folder = SweepFolder.open(out, record)
    with open_engine(engine, workers, out) as opened:
        finished = compute_shown(shards, folder, opened, retry_broken=retry_broken)
    findings = folder.gather(shards)
    folder.write_record({**record, "complete": finished})
    if not findings:
        raise typer.Exit(Verdict.NOT_AUDITED)
    shared, table = _table(tallies(findings))
    console.print(shared, markup=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"findings: {out / 'findings.jsonl'}; for a page of them: seepage report {out}", markup=False, soft_wrap=True
    )
    console.print(
        f"digest (without times, numbers to {DIGITS} digits): {canonical_digest(findings)}",
        markup=False,
        soft_wrap=True,
    )
    raise typer.Exit(verdict(findings, batches=record["findings"], threshold=threshold))


def sweep_record(plan: Plan, *, findings: int) -> dict[str, Any]:
    """``run.json`` of a sweep; reads the data once, so that a wrong path or table is said before any worker starts."""
    cell = plan.cells[0]
    dataset = load_dataset(cell.data, normalize=cell.normalize, target=cell.target or None, size=cell.size or None)
    weights = hashlib.sha256(Path(cell.weights).read_bytes()).hexdigest() if cell.weights else None
    return {
        "schema_version": 1,
        "command": readable(shlex.join(["seepage", *sys.argv[1:]])),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": plan.source.read_text(encoding="utf8"),
        "cells": len(plan.cells),
        "findings": findings,
        "data": dataset.name,
        "data_sha256": dataset.sha256,
        "kind": dataset.kind.value,
        "normalize": dataset.normalization.name,
        "input_shape": list(dataset.input_shape),
        "classes": dataset.classes,
        "weights": cell.weights or None,
        "weights_sha256": weights,
        "attacks_sha256": {one: attack_sha256(one) for one in sorted({cell.attack for cell in plan.cells})},
        "networks_sha256": {one: network_source_sha256(one) for one in sorted({cell.network for cell in plan.cells})},
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": versions(),
    }


def compute_shown(shards: Sequence[Shard], folder: SweepFolder, engine: Engine, *, retry_broken: bool = False) -> bool:
    """Compute what is not there, with a live table on standard error; returns whether all is done (no Ctrl-C)."""
    there = sum(folder.has(shard, retry_broken=retry_broken) for shard in shards)
    if there:
        err.print(f"Taking up {folder.path}: {there} of {len(shards)} shards are there.", markup=False)
    bar = Progress(
        TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), console=err,
    )  # fmt: skip
    task = bar.add_task("", total=len(shards), completed=there)
    found: list[Finding] = []
    shown = 0.0
    with Live(_live(bar, found), console=err, transient=True, refresh_per_second=4) as live:
        try:
            for _, rows in compute(shards, folder, engine, retry_broken=retry_broken):
                found.extend(rows)
                bar.advance(task)
                if time.monotonic() - shown > 0.5:
                    live.update(_live(bar, found))
                    shown = time.monotonic()
        except KeyboardInterrupt:
            err.print("Stopped; what is finished is kept, and the same command goes on from there.")
            return False
    return True


def _refuse_frontier(plan: Plan) -> None:
    """A sweep would leave the axis out in silence, and take a place such as ``{noise}`` for a name."""
    if plan.frontier is not None:
        raise InputError(
            f"{plan.source}: a sweep needs a plan without the table [frontier]; found one, which is for "
            "`seepage frontier`."
        )
    for cell in plan.cells:
        for text in (cell.network, cell.rule, *cell.defenses):
            if has_place(text):
                raise InputError(
                    f"{plan.source}: a sweep needs settings without places; found {text!r}, which is for "
                    "`seepage frontier`."
                )


def _live(bar: Progress, found: Sequence[Finding]) -> Table:
    grid = Table.grid()
    grid.add_row(bar)
    if found:
        shared, table = _table(tallies(found)[-12:])
        grid.add_row(shared)
        grid.add_row(table)
    return grid


def _table(rows: Sequence[Tally]) -> tuple[str, Table]:
    """A row a cell; settings that all cells share are said once, beside it, so that the rest fits into 80 columns."""
    settings = [_settings(row) for row in rows]
    varying = [word for word in _settings(rows[0]) if len({one[word] for one in settings}) > 1] if rows else []
    shared = ", ".join(f"{word} {text}" for word, text in (settings or [{}])[0].items() if word not in varying)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("setting", overflow="fold")
    for heading in ("b", "batches", "exact", "certified", "worst"):
        table.add_column(heading, no_wrap=True)
    for row, one in zip(rows, settings, strict=True):
        table.add_row(
            "\n".join([*(one[word] for word in varying), *([row.notes] if row.notes else [])]),
            str(row.batch_size),
            str(row.batches),
            f"{row.exact} of {row.examples}" if row.examples else "–",
            str(row.certified),
            f"{row.worst} of {row.batch_size}" if row.examples else "–",
        )
    return shared, table


def _settings(row: Tally) -> dict[str, str]:
    return {
        "network": row.network,
        "rule": row.rule,
        "defenses": "+".join(row.defenses) or "no defense",
        "server": row.threat_model.removeprefix("honest-but-curious: "),
        "attack": row.attack,
    }
