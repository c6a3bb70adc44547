"""Phase diagram: share of examples exact over b and m / b. Run: python benchmarks/phase.py; the same again goes on."""

import argparse
import csv
import os
import platform
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from exact import CIFAR, RESULTS, Cell, coupling, load, prism, run_seed, spearpp, unmixing

ROOT = Path(__file__).resolve().parents[1]
TABLE, PAGE = RESULTS / "phase.csv", RESULTS / "phase.md"
FIGURE = ROOT / "docs" / "figures" / "prism-phase.svg"
ATTACKS = {"SPEAR++": spearpp, "Unmixing alone": unmixing, "Coupling alone": coupling, "PRISM": prism}
RATIOS = (1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 20)
SECONDS = {16: 4.0, 32: 5.0, 64: 8.0, 100: 12.0, 160: 25.0, 210: 40.0, 256: 120.0, 512: 900.0}  # of one thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the batches of some panels come from.

    Args:
        title: as the figure has it.
        path: inside the data folder.
        sizes: batch sizes.
        ratios: widths of the first layer, as multiples of the batch size.
        size: pixels a side, ``None`` for the images' own.
        slower: factor on the seconds, for inputs that are larger.
        seeds: at most.
    """

    title: str
    path: str
    sizes: tuple[int, ...]
    ratios: tuple[float, ...] = RATIOS
    size: int | None = None
    slower: float = 1.0
    seeds: int = 3


SOURCES = {
    "cifar10": Source(title="CIFAR-10", path=CIFAR, sizes=(16, 32, 64, 100, 160, 210, 256, 512), seeds=10),
    "lfw64": Source(title="LFW at 64", path="lfw/images", sizes=(16, 32, 64), size=64, slower=1.5, seeds=10),
    "imagenet64": Source(
        title="ImageNet at 64", path="imagenet64/imagenet64_500.npz", sizes=(16, 32, 64), slower=1.5, seeds=10
    ),
    "imagenet224": Source(
        title="ImageNet at 224",
        path="imagenet224/images",
        sizes=(16, 32, 64),
        ratios=(2, 3, 4, 6, 8),
        slower=3.0,
        seeds=10,
    ),
    "adult": Source(title="a table (Adult)", path="tabular/adult.test", sizes=(16, 32), seeds=5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One batch: one line of the table."""

    data: str
    attack: str
    b: int
    m: int
    seed: int
    exact: int
    certified: int
    wrong: int
    outcome: str
    budget: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """What was run."""
        return self.data, self.attack, self.b, self.m, self.seed


def wanted(
    names: list[str], sizes: list[int], ratios: list[float], attacks: list[str], seeds: int
) -> Iterator[tuple[str, str, int, int, int]]:
    """Keys of the runs, whole grids first: a seed after the other."""
    for seed in range(seeds):
        for name in names:
            source = SOURCES[name]
            for b in (b for b in source.sizes if b in sizes and seed < source.seeds):
                for ratio in (ratio for ratio in source.ratios if ratio in ratios):
                    for attack in attacks:
                        yield name, attack, b, round(ratio * b), seed


def measure(key: tuple[str, str, int, int, int], patience: float = 1.0) -> Row:
    """Run one batch with ``patience`` times its seconds."""
    name, attack, b, m, seed = key
    source = SOURCES[name]
    budget = SECONDS[b] * source.slower * patience
    cell = Cell(
        attack=ATTACKS[attack],
        batch_size=b,
        network=f"mlp:{m},400,400",
        source=source.path,
        size=source.size,
        seconds=budget,
    )
    finding = run_seed(cell, load(cell), seed)
    truth = finding.scores.get("exact")
    exact = [bool(value) for value in truth] if isinstance(truth, list) else [False] * len(finding.certified)
    return Row(
        data=name,
        attack=attack,
        b=b,
        m=m,
        seed=seed,
        exact=sum(exact),
        certified=sum(finding.certified),
        wrong=sum(sure and not right for sure, right in zip(finding.certified, exact, strict=True)),
        outcome="broke" if finding.error is not None or finding.obstacles else str(finding.outcome),
        budget=budget,
        seconds=round(finding.seconds, 2),
    )


def read() -> list[Row]:
    """What was measured so far."""
    if not TABLE.exists():
        return []
    with TABLE.open(encoding="utf8", newline="") as file:
        return [_parsed(line) for line in csv.DictReader(file)]


def _parsed(line: dict[str, str]) -> Row:
    return Row(
        data=line["data"],
        attack=line["attack"],
        b=int(line["b"]),
        m=int(line["m"]),
        seed=int(line["seed"]),
        exact=int(line["exact"]),
        certified=int(line["certified"]),
        wrong=int(line["wrong"]),
        outcome=line["outcome"],
        budget=float(line["budget"]),
        seconds=float(line["seconds"]),
    )


def append(row: Row) -> None:
    """One line more; a run that is cut off keeps its lines, and two runs may write at once."""
    new = not TABLE.exists()
    with TABLE.open("a", encoding="utf8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([field.name for field in fields(Row)])
        writer.writerow(astuple(row))


def share(rows: list[Row], what: str) -> float:
    """Of all examples of some batches."""
    of: float = sum(getattr(row, what) for row in rows) / sum(row.b for row in rows)
    return of


def draw(rows: list[Row], path: Path) -> None:
    """One panel for each data set and attack: batch size down, units an example across, colour the share exact."""
    names = [name for name in SOURCES if any(row.data == name for row in rows)]
    sizes = {name: sorted({row.b for row in rows if row.data == name}) for name in names}
    figure, panels = plt.subplots(
        len(names),
        len(ATTACKS),
        figsize=(14, 1.1 + sum(0.45 * len(sizes[name]) + 0.75 for name in names)),
        gridspec_kw={"height_ratios": [len(sizes[name]) for name in names]},
        layout="constrained",
        squeeze=False,
    )
    colours = mpl.colormaps["cividis"].with_extremes(bad="white")
    image = None
    for name, line in zip(names, panels, strict=True):
        for attack, panel in zip(ATTACKS, line, strict=True):
            values = torch.full((len(sizes[name]), len(RATIOS)), torch.nan)
            for i, b in enumerate(sizes[name]):
                for j, ratio in enumerate(RATIOS):
                    where = name, attack, b, round(ratio * b)
                    cell = [row for row in rows if row.key[:4] == where]
                    if cell:
                        values[i, j] = share(cell, "exact")
                        text = f"{float(values[i, j]):.2f}".rstrip("0").rstrip(".")
                        tone = "black" if float(values[i, j]) > 0.5 else "white"
                        panel.text(j, i, text, ha="center", va="center", color=tone, fontsize=9)
            image = panel.imshow(values, vmin=0, vmax=1, cmap=colours, aspect="auto")
            panel.set_title(f"{attack}, {SOURCES[name].title}", fontsize=10)
            panel.set_xticks(range(len(RATIOS)), [f"{ratio:g}" for ratio in RATIOS])
            panel.set_yticks(range(len(sizes[name])), [str(b) for b in sizes[name]])
            panel.tick_params(length=0)
            panel.set_xlabel("units of the first layer for each example, m / b", fontsize=9)
        line[0].set_ylabel("batch size b", fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=panels, label="share of examples exact", shrink=0.6, aspect=30)
    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "seepage"}):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def write(rows: list[Row]) -> None:
    """The page: shares exact and certified, and how many batches each cell rests on."""
    run = {row.b for row in rows}
    patient = sum(row.budget > SECONDS[row.b] * SOURCES[row.data].slower for row in rows)
    longer = f"; {patient} batches had longer" if patient else ""
    parts = [
        "# Phase diagram: share of examples exact over b and m / b\n\n"
        "Command: `OMP_NUM_THREADS=1 python benchmarks/phase.py`, in parts (`--data`, `--sizes`, `--attacks`, "
        "`--seeds`), stopped before its end. "
        "`mlp:m,400,400` with PyTorch's default start, one fresh network and batch a seed, inputs normalised by "
        "channel, no labels given, float32 updates. Each cell: "
        "share of all examples exact, then share certified where that differs, then the number of batches. `-`: not "
        "run. Every run is counted. Each batch had "
        + ", ".join(f"{seconds:.0f} s at b = {b}" for b, seconds in SECONDS.items() if b in run)
        + f" (times 1.5 at 64 pixels, 3 at 224{longer}) of one thread of a busy machine "
        f"({platform.machine()}, "
        f"{os.cpu_count()} cores shared with other work, torch {torch.__version__}, CPU only): a low share can mean "
        f"that time was up. [prism.md](prism.md) has more large batches. "
        "PRISM's cells at b = 256 from the fourth batch on, at 512 and five units, and at one and a half from "
        "160 on are of the code that refines directions until their zeros stay the same (docs/decisions/0006), some of "
        "a first version that did so while they grew; "
        "those on CIFAR-10 to b = 64, on the table and the others at 512 of that in which later layers overrule "
        "zeros (0019), its others of that which unmixes by local scales (0018), but for 512 at four units, of "
        "before. Unmixing and Coupling alone on CIFAR-10 and SPEAR++ at 224, below four units, at 256 and from twelve "
        "units on at 160 and 210 are of 0019, all others older. "
        "One line a batch: [phase.csv](phase.csv).\n"
    ]
    wrong, broke = sum(row.wrong for row in rows), sum(row.outcome == "broke" for row in rows)
    parts.append(f"\n{len(rows)} batches, {wrong} wrong certificates, {broke} broke.\n")
    for name, source in SOURCES.items():
        for attack in ATTACKS:
            mine = [row for row in rows if row.data == name and row.attack == attack]
            if not mine:
                continue
            parts.append(f"\n## {attack}, {source.title}\n\n| b | " + " | ".join(f"m / b = {r:g}" for r in RATIOS))
            parts.append(" | median s |\n|--:|" + "--:|" * (len(RATIOS) + 1) + "\n")
            for b in source.sizes:
                cells = [[row for row in mine if (row.b, row.m) == (b, round(ratio * b))] for ratio in RATIOS]
                if any(cells):
                    taken = sorted(row.seconds for row in mine if row.b == b)
                    parts.append(f"| {b} | " + " | ".join(map(_cell, cells)) + f" | {taken[len(taken) // 2]:.1f} |\n")
    PAGE.write_text("".join(parts), encoding="utf8")


def _cell(rows: list[Row]) -> str:
    if not rows:
        return "-"
    exact, certified = share(rows, "exact"), share(rows, "certified")
    return f"{exact:.2f}" + (f", {certified:.2f}" if round(exact - certified, 2) else "") + f" ({len(rows)})"


def main() -> None:
    """Run what is missing, then write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--sizes", nargs="*", type=int, choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--ratios", nargs="*", type=float, choices=RATIOS, default=list(RATIOS), help="values of m / b")
    parser.add_argument("--attacks", nargs="*", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seeds", type=int, default=3, help="from 0 on; a source may have a limit of its own")
    parser.add_argument("--patience", type=float, default=1.0, help="times the seconds, where a machine is busier")
    parser.add_argument("--draw", type=Path, nargs="*", default=[FIGURE], help="figures to write, .svg or .png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = {row.key for row in read()}
    for key in wanted(options.data, options.sizes, options.ratios, options.attacks, options.seeds):
        if key not in known:
            append(row := measure(key, options.patience))
            print(*astuple(row), flush=True)
    rows = read()
    write(rows)
    for path in options.draw:
        draw(rows, path)
    print(f"mean share exact {mean(row.exact / row.b for row in rows):.3f} over {len(rows)} batches")


if __name__ == "__main__":
    main()
