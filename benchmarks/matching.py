"""IG and DLG on digits, beside the figures measured of breaching and AIJack. Run: python benchmarks/matching.py."""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from seepage.attacks.gradientmatching import GradientMatching
from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.matching import dlg, idlg, ig
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch, ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "matching.md"
ROWS = RESULTS.with_suffix(".json")
CAP = 150.0  # dB: beyond, float32 pixels are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line: which attack, on what, where its labels come from, and the peer's figure."""

    attack: str
    batch_size: int
    labels: str
    distinct: bool = True
    network: str = "mlp:200"
    data: str = "digits"
    peer: str = ""


CELLS = (
    Cell(attack="ig", batch_size=1, labels="given", peer="breaching 76 dB"),
    Cell(attack="ig", batch_size=4, labels="given", peer="breaching 74 dB"),
    Cell(attack="ig", batch_size=8, labels="given", peer="breaching 77 dB"),
    Cell(attack="ig, 4 starts", batch_size=8, labels="given"),
    Cell(attack="ig, then L-BFGS", batch_size=8, labels="given"),
    Cell(attack="ig", batch_size=8, labels="given", distinct=False),
    Cell(attack="ig, 4 starts", batch_size=8, labels="given", distinct=False),
    Cell(attack="ig, then L-BFGS", batch_size=8, labels="given", distinct=False),
    Cell(attack="ig", batch_size=16, labels="given", distinct=False, peer="breaching 31.7 dB"),
    Cell(attack="ig", batch_size=4, labels="restored"),
    Cell(attack="dlg", batch_size=1, labels="walked along", peer="AIJack 102 dB"),
    Cell(attack="dlg", batch_size=4, labels="walked along", peer="AIJack 98.7 dB"),
    Cell(attack="dlg", batch_size=8, labels="walked along", peer="AIJack 28.7 dB"),
    Cell(attack="dlg", batch_size=16, labels="walked along", distinct=False, peer="AIJack 20.5 dB"),
    Cell(attack="dlg", batch_size=8, labels="walked along", network="mlp:200:sigmoid"),
    *(
        Cell(attack="ig", batch_size=8, labels=labels, distinct=False, network="mlp:200:sigmoid")
        for labels in ("given", "ilrg", "pooled", "guessed")
    ),
    *(
        Cell(attack="ig", batch_size=8, labels=labels, distinct=False, network="lenet:sigmoid", data="cifar100")
        for labels in ("given", "ilrg", "pooled", "guessed")
    ),
)
POLISHED = "ig, then L-BFGS"


def main() -> None:
    """Run the cells; every run is kept as it ends, and the page written from all that were kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--cells", default="", help="Only those whose description holds this word.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for cell in CELLS:
        if options.cells not in repr(cell):
            continue
        dataset = data(cell)
        runs: list[tuple[float, float, int]] = []
        for seed in range(options.seeds):
            runs.append(one(attack(cell), cell, dataset, seed))
            keep(cell, runs)
        print(cell, sorted(run[0] for run in runs), flush=True)


def data(cell: Cell) -> Dataset:
    """What is attacked."""
    return load_dataset("digits" if cell.data == "digits" else str(DATA / "cifar100" / "cifar100_test.npz"))


def attack(cell: Cell) -> GradientMatching:
    """The attack of a cell."""
    if cell.attack == "dlg":
        return dlg()
    iterations = 2000 if cell.data == "digits" else 600
    labels = {"ilrg": ILRG(), "pooled": PooledEmbedding()}.get(cell.labels)
    walk = ig(iterations=iterations, labels=labels, starts=4 if "4 starts" in cell.attack else 1)
    return idlg(starts=1, start=walk) if cell.attack == POLISHED else walk


def keep(cell: Cell, runs: list[tuple[float, float, int]]) -> None:
    """Put the runs of a cell in place of earlier ones and write the page."""
    kept: list[dict[str, Any]] = json.loads(ROWS.read_text(encoding="utf8")) if ROWS.is_file() else []
    kept = [row for row in kept if row["cell"] != asdict(cell)] + [{"cell": asdict(cell), "runs": runs}]
    places = {json.dumps(asdict(known)): place for place, known in enumerate(CELLS)}
    kept.sort(key=lambda row: places.get(json.dumps(row["cell"]), len(places)))
    ROWS.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept) + "\n]\n", encoding="utf8")
    RESULTS.write_text(page(kept), encoding="utf8")


def page(kept: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    head = (
        "# Gradient matching on digits, and labels on CIFAR-100\n\n"
        "Command: `python benchmarks/matching.py`; the runs are kept in `matching.json` beside this page. Bundled "
        "digits (8 x 8), MLP 64-200-10, and CIFAR-100's test file, LeNet with sigmoid; "
        "PyTorch's default start, one network and batch a seed, inputs normalised by channel, float32 updates, bounds "
        "known. IG: 2,000 iterations (600 on CIFAR-100), one start; `then L-BFGS`: at most 300 directions in float64 "
        "from its result, whose seconds and iterations count too. Guessed labels: drawn evenly. "
        "DLG: up to 8 starts of at most 300 directions of L-BFGS, and 1,000 iterations of signed Adam if none matched. "
        "PSNR in raw "
        f"units, mean over a batch, capped at {CAP:.0f} dB. Machine: {platform.machine()}, one thread of a busy shared "
        f"machine, torch {torch.__version__}.\n\nThe peers' figures were measured earlier on the same network and "
        "data, and breaching's with distinct labels; their batches and network starts are not ours. "
        "DLG's seconds were taken while the machine was several times overloaded.\n\n"
        "| attack | data | network | b | labels | drawn | mean dB | median dB | least dB | below 60 dB | median s | "
        "ms an iteration | peer |\n|---|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|---|\n"
    )
    rows = []
    for row in kept:
        cell, runs = Cell(**row["cell"]), row["runs"]
        decibels = sorted(run[0] for run in runs)
        rows.append(
            f"| {cell.attack} | {cell.data} | {cell.network} | {cell.batch_size} | {cell.labels} | "
            f"{'distinct' if cell.distinct else 'as drawn'} | {mean(decibels):.1f} | {median(decibels):.1f} | "
            f"{decibels[0]:.1f} | {sum(value < 60 for value in decibels)} of {len(decibels)} | "
            f"{median(run[1] for run in runs):.1f} | {1000 * mean(run[1] / run[2] for run in runs):.1f} | {cell.peer} |"
        )
    return head + "\n".join(rows) + "\n"


def one(walk: GradientMatching, cell: Cell, dataset: Dataset, seed: int) -> tuple[float, float, int]:
    """Mean PSNR, seconds and iterations of one batch."""
    chance = torch.Generator().manual_seed(seed)
    pool = dataset.batch(torch.randperm(len(dataset), generator=chance))
    rows = list(range(cell.batch_size))
    if cell.distinct:
        rows = [int((pool.labels == label).nonzero()[0]) for label in torch.unique(pool.labels)]
        rows = sorted(rows)[: cell.batch_size]
    batch = PrivateBatch(inputs=pool.inputs[rows], labels=pool.labels[rows])
    network = build_network(cell.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    guessed = torch.randint(dataset.classes, (cell.batch_size,), generator=chance)
    said = PrivateBatch(inputs=batch.inputs, labels=guessed if cell.labels == "guessed" else batch.labels)
    observation = ThreatModel(batch_size=True, labels=cell.labels in {"given", "guessed"}).view(
        network=network,
        update=FedSGD()(network, batch, chance),
        batch=said,
        rule=FedSGD(),
        classes=dataset.classes,
        bounds=dataset.normalization.bounds(),
    )
    started = time.perf_counter()
    found = walk(observation, generator=chance)
    seconds = time.perf_counter() - started
    if found.inputs is None:
        return 0.0, seconds, int(found.stats.get("iterations", 1))
    raw, truth = dataset.normalization.invert(found.inputs), dataset.normalization.invert(batch.inputs)
    places = match(raw, truth)
    return float(psnr(raw[places], truth).clamp(max=CAP).mean()), seconds, int(found.stats["iterations"])


if __name__ == "__main__":
    main()
