"""IG on FedAvg: local steps taken again, or treated as one gradient. Run: python benchmarks/matching_fedavg.py."""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from seepage.attacks.matching import ig
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.fedavg import FedAvg
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr
from seepage.networks.zoo import build_network
from seepage.types import ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "matching_fedavg.md"
ROWS = RESULTS.with_suffix(".json")
CAP = 150.0  # dB: beyond, float32 pixels are equal
Run = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line: what is attacked, and how the client trains."""

    data: str
    network: str
    examples: int
    local_batch: int | None
    epochs: int
    lr: float
    iterations: int

    def rule(self) -> FedAvg:
        """Of the client."""
        return FedAvg(epochs=self.epochs, local_batch=self.local_batch, lr=self.lr)


def cells() -> list[Cell]:
    """Steps on the whole batch, and on local batches in an order that the server does not know."""
    digits = Cell(
        data="digits", network="mlp:200:sigmoid", examples=4, local_batch=None, epochs=1, lr=0.01, iterations=1000
    )
    cifar = replace(digits, data="cifar10", network="lenet:sigmoid", examples=1, iterations=400)
    found = []
    for lr in (0.001, 0.01):
        found += [replace(digits, epochs=steps, lr=lr) for steps in (1, 2, 4, 8)]
    found += [replace(digits, epochs=1, local_batch=4 // steps) for steps in (2, 4)]
    found += [replace(digits, epochs=2, local_batch=1)]
    for lr in (0.001, 0.01):
        found += [replace(cifar, epochs=steps, lr=lr) for steps in (1, 2, 4, 8)]
    return found


def main() -> None:
    """Run the cells; every run is kept as it ends, and the page written from all that were kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", default="", help="Only those whose description holds this word.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for cell in cells():
        if options.cells not in repr(cell) or done(cell) >= options.seeds:
            continue
        dataset = load_dataset("digits" if cell.data == "digits" else str(DATA / "cifar10" / "cifar10_test.npz"))
        runs: dict[str, list[Run]] = {"unrolled": [], "as one gradient": []}
        for seed in range(options.seeds):
            for word, found in runs.items():
                found.append(one(cell, dataset, seed, unrolled=word == "unrolled"))
            keep(cell, runs)
        print(cell, runs, flush=True)


def done(cell: Cell) -> int:
    """Runs kept of an earlier call."""
    kept: list[dict[str, Any]] = json.loads(ROWS.read_text(encoding="utf8")) if ROWS.is_file() else []
    return max((len(row["runs"]["unrolled"]) for row in kept if row["cell"] == asdict(cell)), default=0)


def one(cell: Cell, dataset: Dataset, seed: int, *, unrolled: bool) -> Run:
    """Mean PSNR and seconds of one batch; labels given, in no order."""
    chance = torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance)[: cell.examples])
    network = build_network(cell.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    observation = ThreatModel(batch_size=True, labels=True).view(
        network=network,
        update=cell.rule()(network, batch, chance),
        batch=batch,
        rule=cell.rule(),
        classes=dataset.classes,
        bounds=dataset.normalization.bounds(),
    )
    if not unrolled:
        observation = replace(observation, rule=FedSGD())  # the same estimate, taken for a gradient
    started = time.perf_counter()
    found = ig(iterations=cell.iterations)(observation, generator=chance)
    seconds = time.perf_counter() - started
    if found.inputs is None:
        return 0.0, seconds
    raw, truth = dataset.normalization.invert(found.inputs), dataset.normalization.invert(batch.inputs)
    return float(psnr(raw[match(raw, truth)], truth).clamp(max=CAP).mean()), seconds


def keep(cell: Cell, runs: dict[str, list[Run]]) -> None:
    """Put the runs of a cell in place of earlier ones and write the page."""
    kept: list[dict[str, Any]] = json.loads(ROWS.read_text(encoding="utf8")) if ROWS.is_file() else []
    kept = [row for row in kept if row["cell"] != asdict(cell)] + [{"cell": asdict(cell), "runs": runs}]
    places = {json.dumps(asdict(known)): place for place, known in enumerate(cells())}
    kept.sort(key=lambda row: places.get(json.dumps(row["cell"]), len(places)))
    ROWS.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept) + "\n]\n", encoding="utf8")
    RESULTS.write_text(page(kept), encoding="utf8")


def page(kept: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    head = (
        "# Gradient matching under FedAvg\n\n"
        "Command: `python benchmarks/matching_fedavg.py` (taken up where it was cut); the runs are in "
        "`matching_fedavg.json` beside this page. Sigmoid, where matching by itself is no matter of luck. IG with "
        "labels given (sorted), batch size known, 1,000 iterations on digits and 400 on CIFAR-10, the client's float32 "
        "weights as PyTorch starts them, inputs normalised by channel, batches as drawn. `Unrolled`: the client's "
        "steps are taken again, and which examples stood in which local batch is sought along the way. `As one "
        "gradient`: the same estimate of a gradient, matched by one gradient at the state sent out. PSNR in raw "
        f"units, mean over a batch and over seeds 0, 1, ..., capped at {CAP:.0f} dB; in brackets the least. Machine: "
        f"{platform.machine()}, one thread of a busy shared machine, torch {torch.__version__}, no GPU.\n\n"
        "| data | network | b | local batch | epochs | steps | lr | unrolled, dB | as one gradient, dB | s unrolled | "
        "s as one | runs |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    lines = []
    for row in kept:
        cell = Cell(**row["cell"])
        both = [row["runs"][word] for word in ("unrolled", "as one gradient")]
        decibels = [f"{mean(run[0] for run in runs):.1f} ({min(run[0] for run in runs):.1f})" for runs in both]
        seconds = [f"{mean(run[1] for run in runs):.1f}" for runs in both]
        lines.append(
            f"| {cell.data} | {cell.network} | {cell.examples} | {cell.local_batch or 'all'} | {cell.epochs} | "
            f"{cell.rule().steps(cell.examples)} | {cell.lr:g} | {' | '.join(decibels)} | {' | '.join(seconds)} | "
            f"{len(both[0])} |"
        )
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
