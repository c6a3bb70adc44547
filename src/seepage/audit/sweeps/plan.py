"""A sweep's plan: one TOML file becomes typed cells, here and nowhere else."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_defense, build_rule
from seepage.audit.sweeps.cell import Cell
from seepage.audit.tomlfile import Table, read_toml
from seepage.data.sources import BUNDLED
from seepage.errors import InputError
from seepage.types import ThreatModel

__all__ = ["Plan", "has_place", "read_plan"]

_KNOWLEDGE = tuple(one.name for one in fields(ThreatModel))
_DTYPES = ("float32", "float64")
_MOST_BATCHES = 1_000_000  # of all cells: each is held in memory before the first is audited
_SAMPLES = 2_000_000  # of a batch, unless the plan says otherwise: SPEAR at b = 12 needs some ten thousand


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a sweep is to do.

    Args:
        cells: every point of the grid, in the order of the plan.
        shard_batches: batches in one shard.
        source: the file, for messages.
        frontier: the plan's ``[frontier]`` table as it stands, ``None`` if there is none.
    """

    cells: tuple[Cell, ...]
    shard_batches: int
    source: Path
    frontier: Table | None = field(default=None, compare=False)


def read_plan(path: Path) -> Plan:
    """Read a plan: ``[plan]`` (what holds everywhere), ``[grid]`` (lists, all combinations), optionally ``[frontier]``.

    Raises:
        InputError: the file is no plan; the message names the file, the line, what was expected and what was found.
    """
    file = read_toml(path)
    plan, grid = file.table("plan"), file.table("grid")
    frontier = file.table("frontier") if "frontier" in file else None
    file.nothing_else()
    common = _common(plan)
    shard_batches = plan.integer("shard_batches", low=1, default=1)
    plan.nothing_else()
    axes = (
        grid.texts("network"),
        _known_rules(grid),
        _defenses(grid),
        _threat_models(grid),
        _known_attacks(grid),
        grid.integers("batch_size", low=1),
        grid.integers("seed", low=0, default=[0]),
    )
    grid.nothing_else()
    asked = math.prod(len(axis) for axis in axes) * common.batches
    if asked > _MOST_BATCHES:
        raise InputError(f"{path} should ask for {_MOST_BATCHES:,} batches at most over all cells; found {asked:,}.")
    cells = tuple(
        replace(
            common,
            network=network,
            rule=rule,
            defenses=defenses,
            knowledge=knowledge,
            attack=attack,
            batch_size=batch_size,
            seed=seed,
        )
        for network, rule, defenses, knowledge, attack, batch_size, seed in itertools.product(*axes)
    )
    return Plan(cells=cells, shard_batches=shard_batches, source=path, frontier=frontier)


def _common(plan: Table) -> Cell:
    """What holds for every cell; the grid fills in the rest."""
    dtype = plan.text("dtype", "float32")
    if dtype not in _DTYPES:
        raise plan.error("dtype", f"should be one of {', '.join(_DTYPES)}")
    samples, seconds = _budget(plan)
    return Cell(
        network="",
        data=_data(plan),
        normalize=plan.text("normalize", "channel"),
        target=plan.text("target") if "target" in plan else "",
        size=plan.integer("size", low=1) if "size" in plan else 0,
        weights=_file(plan, "weights") if "weights" in plan else "",
        layer=plan.text("layer") if "layer" in plan else "",
        samples=samples,
        seconds=seconds,
        batch_size=1,
        batches=plan.integer("batches", low=1, default=1),
        dtype=dtype,
    )


def has_place(text: str) -> bool:
    """Whether a text holds a place such as ``{noise}`` that a frontier's axis fills."""
    return re.search(r"\{[a-z_]+\}", text) is not None


def _known_rules(grid: Table) -> tuple[str, ...]:
    rules = grid.texts("rule", ["fedsgd"])
    for rule in rules:
        if not has_place(rule):
            _named(grid, "rule", rule, partial(build_rule, option="rule"))
    return rules


def _known_attacks(grid: Table) -> tuple[str, ...]:
    attacks = grid.texts("attack", ["spear"])
    for attack in attacks:
        _named(grid, "attack", attack, partial(build_attack, budget=Budget(), option="attack"))
    return attacks


def _defenses(grid: Table) -> list[tuple[str, ...]]:
    """Each entry is one defense, ``"none"``, or a list of defenses applied in order."""
    chains: list[tuple[str, ...]] = []
    for entry in grid.several("defense", ["none"]):
        chain: list[object] = entry if isinstance(entry, list) else [] if entry == "none" else [entry]
        for one in chain:
            if not isinstance(one, str):
                raise grid.error("defense", "should hold texts, or lists of texts applied in order")
            if not has_place(one):
                _named(grid, "defense", one, partial(build_defense, option="defense"))
        chains.append(tuple(str(one) for one in chain))
    if len(set(chains)) < len(chains):
        raise grid.error("defense", "should hold different defenses")
    return chains


def _threat_models(grid: Table) -> list[tuple[str, ...]]:
    """Each entry lists what the server knows besides, in words parted by commas; ``"none"`` for the update only."""
    models = []
    for entry in grid.texts("threat_model", ["rule, bounds"]):
        words = [] if entry == "none" else [word.strip() for word in entry.split(",")]
        if not set(words) <= set(_KNOWLEDGE):
            raise grid.error("threat_model", f"should be made of {', '.join(_KNOWLEDGE)}, parted by commas, or none")
        models.append(tuple(sorted(set(words))))
    return models


def _data(plan: Table) -> str:
    source = plan.text("data")
    return source if source in BUNDLED else _file(plan, "data")


def _file(plan: Table, key: str) -> str:
    """A path as it stands: relative ones are relative to where seepage is called, as on the command line."""
    source = plan.text(key)
    if not Path(source).exists():
        raise plan.error(key, f"should be a file or folder that is there (bundled data: {', '.join(BUNDLED)})")
    return source


def _budget(plan: Table) -> tuple[int, float]:
    """Samples repeat on every machine; seconds do not."""
    if "budget_samples" not in plan and "budget_seconds" in plan:
        return 0, plan.number("budget_seconds", low=1e-3, high=1e6) or 0.0
    seconds = plan.number("budget_seconds", low=1e-3, high=1e6)
    return plan.integer("budget_samples", low=1, default=_SAMPLES), seconds or 0.0


def _named(grid: Table, key: str, text: str, build: Callable[[str], object]) -> None:
    """Build it once, so that a name that is not known is said with its line and not by a worker."""
    try:
        build(text)
    except InputError as error:
        raise grid.error(key, f"should hold names that are known ({error})") from error
