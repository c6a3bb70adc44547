"""Examples read as rows of the update where the search is not whole. Run: python benchmarks/rows.py [--seeds 3]."""

import argparse
import functools
import os
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from exact import CIFAR, load_dataset  # the neighbouring benchmark
from torch import nn
from torch.nn.functional import cross_entropy

from seepage.attacks.auto import Auto
from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_rule
from seepage.audit.findings import Finding
from seepage.audit.run import Audit
from seepage.data.sources import BUNDLED, Dataset
from seepage.networks.zoo import build_network

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "rows.md"
MNIST, MNIST_TRAIN = "mnist/t10k-images-idx3-ubyte.gz", "mnist/train-images-idx3-ubyte.gz"
TRAINED_ON = {MNIST: MNIST_TRAIN, CIFAR: "cifar10/cifar10_train_batch1.npz"}
SECONDS, IMAGES = 4.0, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting; ``sparse`` is the weight of the first layer's mean sum of activations in the training loss."""

    source: str
    batch_size: int
    width: int
    epochs: int = 0
    sparse: float = 0.0

    @property
    def network(self) -> str:
        """First layer as wide as asked for, two of 400."""
        return f"mlp:{self.width},400,400"

    @property
    def start(self) -> str:
        """How the network came about."""
        if not self.epochs:
            return "PyTorch's default start"
        sparse = f", activations penalised by {self.sparse:g}" if self.sparse else ""
        return f"{self.epochs} epochs{sparse}, train accuracy {trained(self)[1]:.2f}"


def cells() -> Iterator[Cell]:
    for width in (64, 96, 128):
        yield Cell(source="digits", batch_size=32, width=width)
    yield Cell(source="digits", batch_size=60, width=180)
    yield Cell(source=MNIST, batch_size=16, width=48)
    yield Cell(source=MNIST, batch_size=32, width=96)
    yield Cell(source=MNIST, batch_size=100, width=300)
    yield Cell(source=MNIST, batch_size=32, width=640, epochs=5)
    yield Cell(source=MNIST, batch_size=64, width=256, epochs=5)
    yield Cell(source=MNIST, batch_size=64, width=256, epochs=5, sparse=1e-3)
    yield Cell(source=CIFAR, batch_size=64, width=192)
    yield Cell(source=CIFAR, batch_size=64, width=192, epochs=5)
    yield Cell(source="tabular/adult.test", batch_size=32, width=96)


@functools.cache
def data(source: str) -> Dataset:
    return load_dataset(source if source in BUNDLED else str(DATA / source))


@functools.cache
def trained(cell: Cell) -> tuple[nn.Module, float]:
    """A network trained on the first 10,000 training images, Adam at 1e-3, batches of 100, seed 0; train accuracy."""
    test, train = data(cell.source), data(TRAINED_ON[cell.source])
    inputs, labels = test.normalization.apply(train.inputs[:IMAGES]), train.labels[:IMAGES]
    network = build_network(cell.network, input_shape=test.input_shape, classes=test.classes, seed=0)
    first = next(module for module in network.modules() if isinstance(module, nn.ReLU))
    active: list[torch.Tensor] = []
    handle = first.register_forward_hook(lambda _, __, outputs: active.append(outputs.sum(dim=1).mean()))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    chance = torch.Generator().manual_seed(0)
    for _ in range(cell.epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=chance), 100):
            active.clear()
            optimizer.zero_grad()
            loss = cross_entropy(network(inputs[rows]), labels[rows]) + cell.sparse * sum(active)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    handle.remove()
    with torch.no_grad():
        right = torch.cat([network(part).argmax(dim=1) for part in torch.split(inputs, 1000)]) == labels
    network.zero_grad()
    return network, float(right.float().mean())


def run(cell: Cell, seed: int) -> Finding:
    """One batch; a fresh network has the batch's seed."""
    dataset = data(cell.source)
    fresh = build_network(cell.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    audit = Audit(
        network=trained(cell)[0] if cell.epochs else fresh,
        network_name=cell.network,
        dataset=dataset,
        rule=build_rule("fedsgd"),
        attack=Auto(budget=Budget(seconds=SECONDS)),
        batch_size=cell.batch_size,
        seed=seed,
    )
    return next(iter(audit())).finding


def line(cell: Cell, searched: list[Finding], read: list[Finding]) -> str:
    """One row of the results."""
    held = sum(sum(value is True for value in one.scores.get("rows") or []) for one in read)  # type: ignore[union-attr]
    wrong = sum(one.wrong_certified for one in read)
    broke = sum(one.error is not None or bool(one.obstacles) for one in (*searched, *read))
    counts = (
        sum(one.exact_examples for one in searched),
        sum(one.recognisable_examples for one in searched),
        held,
        sum(int(one.stats.get("rows", 0)) for one in read),
        sum(one.exact_examples for one in read),
        sum(one.recognisable_examples for one in read),
        sum(sum(one.certified) for one in read),
        wrong,
        broke,
    )
    seconds = [f"{statistics.median(one.seconds for one in ones):.1f}" for ones in (searched, read)]
    name = Path(cell.source).parts[0]
    return (
        f"| {name} | {cell.batch_size} | {cell.width} | {cell.start} | {len(read) * cell.batch_size} | "
        f"{' | '.join(map(str, counts))} | {' | '.join(seconds)} |\n"
    )


def main() -> None:
    """All cells, a line as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = (
        f"# Examples that are rows of the update\n\nCommand: `python benchmarks/rows.py --seeds {options.seeds}`. "
        f"`auto`, {SECONDS:.0f} s a batch on one thread, networks mlp:m,400,400, `fedsgd`, seeds 0 to "
        f"{options.seeds - 1}, one batch each, and one fresh network each where none was trained (on 10,000 training "
        "images, Adam at 1e-3; batches are of test images). The server knows the rule, not batch size or labels. "
        "*Searched*: where nothing is read as a row, as before. *Held*: examples that are a row to 1 % of their"
        " length, by the truth. *Put in*: rows that took a place in the reconstruction; then all that came out "
        f"with them. Every run is counted. Machine: {platform.machine()}, {os.cpu_count()} cores shared with other "
        f"work, torch {torch.__version__}, CPU only.\n\n"
        "| data | b | m | network | examples | searched: exact | recognisable | held | put in | exact | "
        "recognisable | certified | wrong certificates | broke | median s searched | with rows |\n"
        "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    for cell in cells():
        read = [run(cell, seed) for seed in range(options.seeds)]
        with mock.patch("seepage.attacks.disaggregation.layerattack.with_rows", lambda found, *_, **__: found):
            searched = [run(cell, seed) for seed in range(options.seeds)]
        row = line(cell, searched, read)
        text += row
        print(row, end="", flush=True)
        RESULTS.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
