"""What the label benchmarks are asked for on the command line: sections, tables, rows, and where they are kept."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from label_networks import ROOT
from label_results import Row, store

from seepage.types import Attack

ASKED: set[str] = set()  # methods, of `--methods`; all if empty
WITHIN: list[str] = []  # what a table's title should hold, of `--tables`; at least one
Keep = Callable[[list[Row]], None]


def arguments(description: str | None, sections: Mapping[str, object]) -> argparse.ArgumentParser:
    """``--only`` some of the sections, ``--tables`` whose title holds such a text, ``--methods``, and ``--out``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(sections))
    parser.add_argument("--tables", default="", help="whose title holds one of these; parted by semicolons")
    parser.add_argument("--methods", default="", help="of each table; parted by semicolons")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "labels"))
    return parser


def run(sections: Mapping[str, Callable[[Keep], None]], options: argparse.Namespace) -> None:
    """One section after the other; each table is written as soon as it is there."""
    torch.set_num_threads(1)
    ASKED.update(name for name in options.methods.split(";") if name)
    WITHIN.extend(text for text in options.tables.split(";") if text)
    for name in options.only.split(","):
        started = time.perf_counter()
        sections[name](lambda rows, name=name: store(rows, Path(options.out), section=name))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def asked(methods: Mapping[str, Attack]) -> dict[str, Attack]:
    """Those of ``--methods``."""
    return {name: attack for name, attack in methods.items() if not ASKED or name in ASKED}


def wanted(title: str) -> bool:
    """Whether ``--tables`` names it."""
    return not WITHIN or any(text in title for text in WITHIN)
