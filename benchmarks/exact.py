"""SPEAR++, PRISM and Exactify on real data: whole batches, no labels given. Run: python benchmarks/exact.py GROUP."""

import argparse
import functools
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn.functional import cross_entropy

from seepage.attacks.budget import Budget
from seepage.attacks.exactify import Exactify
from seepage.attacks.matching import ig
from seepage.attacks.prism import PRISM
from seepage.attacks.spear import SPEAR
from seepage.attacks.spearpp import SPEARPlusPlus
from seepage.audit.catalogue import build_rule
from seepage.audit.findings import Finding
from seepage.audit.run import Audit
from seepage.data.normalization import make_normalization
from seepage.data.sources import BUNDLED, Dataset, InputKind, load_dataset
from seepage.networks.zoo import build_network
from seepage.types import (
    Attack,
    Observation,
    Obstacle,
    Outcome,
    PrivateBatch,
    Progress,
    Reconstruction,
    ThreatModel,
    go_on,
)

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
_SIZE_KNOWN = ThreatModel(batch_size=True)
INNER = "3"  # the second linear layer of an MLP
LINES = "lines"  # rows of the bundled photographs as signals [3, 640]
CIFAR, CIFAR_TRAIN = "cifar10/cifar10_test.npz", "cifar10/cifar10_train_batch1.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of a table: one attack on one setting; with ``epochs`` on one trained network and other batches."""

    attack: Callable[[Budget], Attack]
    batch_size: int
    network: str
    source: str = CIFAR
    size: int | None = None
    normalize: str = "channel"
    seconds: float = 120.0
    seeds: int | None = None
    title: str = ""
    epochs: int = 0
    knows: ThreatModel = ThreatModel()  # noqa: RUF009 - frozen


def spear(budget: Budget) -> Attack:
    return SPEAR(budget=budget)


def spearpp(budget: Budget) -> Attack:
    return SPEARPlusPlus(budget=budget)


def prism(budget: Budget) -> Attack:
    return PRISM(budget=budget)


def unmixing(budget: Budget) -> Attack:
    return PRISM(budget=budget, couplings=(), searches=(), spans=False)


def coupling(budget: Budget) -> Attack:
    return PRISM(budget=budget, filters=(), searches=(), spans=False)


def prism_inside(budget: Budget) -> Attack:
    return PRISM(budget=budget, layer=INNER)


def spearpp_inside(budget: Budget) -> Attack:
    return SPEARPlusPlus(budget=budget, layer=INNER)


def mlp(width: int, hidden: int) -> str:
    """First layer ``width`` wide, the others 400."""
    return "mlp:" + ",".join([str(width), *["400"] * (hidden - 1)])


def spearpp_cells() -> Iterator[Cell]:
    yield Cell(attack=spearpp, batch_size=210, network="mlp:4000,4000,4000", title="the paper's point")
    yield Cell(attack=spearpp, batch_size=120, network=mlp(1000, 3))
    for batch_size in (8, 16, 20):
        yield Cell(attack=spear, batch_size=batch_size, network=mlp(400, 3), title="SPEAR, to compare")
        yield Cell(attack=spearpp, batch_size=batch_size, network=mlp(400, 3))
    for width in (1000, 2000, 4000):
        for batch_size in (24, 50, 100, 150, 210, 256):
            yield Cell(attack=spearpp, batch_size=batch_size, network=mlp(width, 3), seconds=20.0, seeds=2)
    for hidden in (1, 2, 4, 6):
        yield Cell(attack=spearpp, batch_size=65, network=mlp(1000, hidden), seconds=30.0, seeds=3)
    for batch_size in (24, 65):
        yield Cell(attack=spearpp, batch_size=batch_size, network=mlp(1000, 3), normalize="none", seconds=30.0, seeds=3)
    yield Cell(attack=spearpp, batch_size=32, network=mlp(400, 3), source="tabular/adult.test", seconds=30.0)


def paper_cells() -> Iterator[Cell]:
    yield Cell(attack=spearpp, batch_size=210, network="mlp:4000,4000,4000", title="the paper's point")
    yield Cell(attack=prism, batch_size=210, network="mlp:4000,4000,4000", title="the paper's point")


def prism_cells() -> Iterator[Cell]:
    yield Cell(attack=prism, batch_size=40, network=mlp(200, 3))
    yield Cell(attack=prism, batch_size=100, network=mlp(500, 3))
    yield Cell(attack=prism, batch_size=160, network=mlp(1000, 3))
    yield Cell(attack=prism, batch_size=210, network=mlp(2100, 3))
    yield Cell(attack=prism, batch_size=40, network=mlp(1000, 1), title="one hidden layer")
    yield Cell(attack=prism, batch_size=100, network=mlp(1000, 1), title="one hidden layer")
    for hidden in (2, 4, 6):
        yield Cell(attack=prism, batch_size=100, network=mlp(1000, hidden))
    yield Cell(attack=prism, batch_size=64, network=mlp(400, 3), source="lfw/images", size=64)
    yield Cell(attack=prism, batch_size=64, network=mlp(320, 3), source="imagenet64/imagenet64_500.npz")
    yield Cell(attack=prism, batch_size=64, network=mlp(1000, 3), source="imagenet224/images")
    yield Cell(attack=prism, batch_size=65, network=mlp(1000, 3), normalize="none", title="inputs in [0, 1]")


def by(cell: Cell, *attacks: Callable[[Budget], Attack]) -> Iterator[Cell]:
    """The same setting for several attacks, one after the other."""
    return (replace(cell, attack=attack) for attack in attacks)


def side_cells() -> Iterator[Cell]:
    for batch_size, width, seeds, seconds in (
        (40, 400, 10, 120.0),
        (100, 1000, 10, 120.0),
        (210, 2100, 10, 300.0),  # what SPEAR++ takes on a busy machine
        (210, 1680, 10, 120.0),
    ):
        cell = Cell(attack=prism, batch_size=batch_size, network=mlp(width, 3), seeds=seeds, seconds=seconds)
        yield from by(replace(cell, title="side by side"), spearpp, unmixing, coupling, prism)


def other_inputs_cells() -> Iterator[Cell]:
    table = Cell(attack=prism, batch_size=32, network="", source="tabular/adult.test", seconds=20.0, seeds=5)
    for width in (128, 160, 192, 384):
        yield from by(replace(table, network=mlp(width, 3)), spearpp, prism)
    for batch_size, width in ((8, 200), (16, 200), (32, 400)):
        shallow = replace(table, batch_size=batch_size, network=mlp(width, 1), title="one hidden layer")
        yield from by(shallow, spearpp, prism)
    for width in (160, 192, 256, 320):
        yield from by(replace(table, source="digits", network=mlp(width, 3), title="8 x 8"), spearpp, prism)
    inner = replace(table, batch_size=40, source=CIFAR, title="second layer")
    for width in (160, 200, 240, 400):
        yield from by(replace(inner, network=f"mlp:1000,{width},100"), spearpp_inside, prism_inside)


def alike_cells() -> Iterator[Cell]:
    """Crops of two bundled photographs, and their rows as signals: neighbours are much alike. No data folder needed."""
    for source in ("photos", LINES):
        for batch_size in (16, 32, 64):
            for ratio in (4, 8):
                network = mlp(ratio * batch_size, 3)
                yield Cell(attack=prism, batch_size=batch_size, network=network, source=source, seconds=60.0)


def stretch_cells() -> Iterator[Cell]:
    yield Cell(attack=prism, batch_size=210, network=mlp(1050, 3), seconds=300.0, title="stretch")
    yield Cell(attack=prism, batch_size=300, network=mlp(1500, 3), seconds=600.0, title="stretch")
    yield Cell(attack=prism, batch_size=512, network=mlp(4000, 3), seconds=1800.0, seeds=3, title="stretch")


def exactify_cells() -> Iterator[Cell]:
    for width in (800, 400, 200, 160, 120, 80, 60):
        yield Cell(attack=exactify, batch_size=40, network=mlp(width, 3), seconds=30.0, title="truth plus noise, 8 dB")

    for source in ("digits", CIFAR):
        for batch_size in (8, 16, 32):
            for ratio in (2, 3, 5):
                guess = Cell(
                    attack=exactify_noise,
                    batch_size=batch_size,
                    network=mlp(ratio * batch_size, 2),
                    source=source,
                    seconds=10.0,
                    title="noise, the control; batch size known",
                    knows=_SIZE_KNOWN,
                )
                yield guess
                yield replace(guess, attack=exactify_ig, title="400 steps; batch size known")


def trained_cells() -> Iterator[Cell]:
    for batch_size, seeds in ((100, 3), (40, 10)):  # of SPEAR++, which takes all of its time at 100
        for hidden in (1, 2, 3, 6):
            cell = Cell(attack=prism, batch_size=batch_size, network=mlp(1000, hidden), seconds=60.0, epochs=5)
            yield cell
            yield replace(cell, attack=spearpp, seeds=seeds)


def imagenet_cells() -> Iterator[Cell]:
    for batch_size in (64, 100, 150, 200):
        yield Cell(
            attack=prism,
            batch_size=batch_size,
            network=mlp(1000, 3),
            source="imagenet224/images",
            seconds=240.0,
            seeds=3,
        )


def imagenet_wide_cells() -> Iterator[Cell]:
    for width in (2000, 4000):  # 8 GiB of memory, and 14 or so
        yield Cell(
            attack=prism,
            batch_size=200,
            network=mlp(width, 3),
            source="imagenet224/images",
            seconds=900.0,
            seeds=1,
            title="all photos of the data set",
        )


def activations_cells() -> Iterator[Cell]:
    for activation in ("gelu", "sigmoid", "tanh"):
        cell = Cell(attack=prism, batch_size=16, network=f"mlp:400,400,400:{activation}", seconds=60.0)
        yield replace(cell, attack=ig_known, seeds=3, title="400 steps; batch size known", knows=_SIZE_KNOWN)
        for batch_size in (16, 64, 100):
            yield replace(cell, batch_size=batch_size)
        yield replace(cell, batch_size=160, seconds=120.0, seeds=3)
        yield replace(cell, batch_size=64, network=f"mlp:80,400,400:{activation}", title="80 units in the first layer")
        yield replace(cell, batch_size=64, network=f"mlp:400,80,400:{activation}", title="80 units in the second layer")
        yield replace(cell, batch_size=64, network=f"mlp:400,400:{activation}")
        yield replace(cell, batch_size=8, network=f"mlp:400:{activation}", title="the output layer is the later one")
        yield replace(cell, batch_size=64, epochs=5)
        yield replace(cell, batch_size=32, source="digits", network=f"mlp:200,200:{activation}")
        yield replace(cell, batch_size=32, source="tabular/adult.test", network=f"mlp:200,200:{activation}", seeds=5)
        yield replace(cell, batch_size=64, source="imagenet64/imagenet64_500.npz", seeds=3)


GROUPS = {
    "spearpp": spearpp_cells,
    "paper": paper_cells,
    "prism": prism_cells,
    "stretch": stretch_cells,
    "alike": alike_cells,
    "side-by-side": side_cells,
    "other-inputs": other_inputs_cells,
    "exactify": exactify_cells,
    "trained": trained_cells,
    "activations": activations_cells,
    "imagenet": imagenet_cells,
    "imagenet-wide": imagenet_wide_cells,
}


@dataclass(slots=True)
class NoisyTruth:
    """The truth, which the benchmark slips in, plus white noise of 1.5 standard deviations (about 8 dB)."""

    truth: PrivateBatch | None = None
    name: str = "noisy truth"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:  # noqa: ARG002
        return []

    def __call__(
        self,
        observation: Observation,  # noqa: ARG002
        *,
        generator: torch.Generator,
        progress: Progress = go_on,  # noqa: ARG002
    ) -> Reconstruction:
        assert self.truth is not None
        inputs = self.truth.inputs
        noise = torch.randn(inputs.shape, generator=generator)
        return Reconstruction(
            outcome=Outcome.APPROXIMATE,
            inputs=inputs + 1.5 * inputs.std() * noise,
            certified=torch.zeros(len(inputs), dtype=torch.bool),
        )


@dataclass(frozen=True, slots=True)
class Noise:
    """White noise in place of inputs: what an attack that wraps others finds without any help from them."""

    name: str = "noise"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:  # noqa: ARG002
        return []

    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,
        progress: Progress = go_on,  # noqa: ARG002
    ) -> Reconstruction:
        count = observation.latest.batch_size
        assert count is not None
        return Reconstruction(
            outcome=Outcome.APPROXIMATE,
            inputs=torch.randn(count, *observation.input_shape, generator=generator),
            certified=torch.zeros(count, dtype=torch.bool),
        )


def ig_known(budget: Budget) -> Attack:
    return ig(iterations=400, budget=budget)


def exactify(budget: Budget) -> Attack:
    return Exactify(attack=NoisyTruth(), budget=budget)


def exactify_noise(budget: Budget) -> Attack:
    return Exactify(attack=Noise(), budget=budget)


def exactify_ig(budget: Budget) -> Attack:
    return Exactify(attack=ig(iterations=400), budget=budget)


@functools.cache
def trained(spec: str, epochs: int) -> tuple[nn.Module, float]:
    """A network trained on CIFAR-10's training images, scaled as the test images are, and its train accuracy.

    Adam at 1e-3, batches of 100, seed 0; accuracy of the last state on all images that it was trained on.
    """
    test, data = load_dataset(str(DATA / CIFAR)), load_dataset(str(DATA / CIFAR_TRAIN))
    inputs, labels = test.normalization.apply(data.inputs), data.labels
    network = build_network(spec, input_shape=data.input_shape, classes=data.classes, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    chance = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=chance), 100):
            optimizer.zero_grad()
            cross_entropy(network(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        right = torch.cat([network(part).argmax(dim=1) for part in torch.split(inputs, 1000)]) == labels
    network.zero_grad()
    return network, float(right.float().mean())


@functools.lru_cache(maxsize=1)
def _load(source: str, size: int | None, normalize: str) -> Dataset:
    if source == LINES:
        return _lines(normalize)
    return load_dataset(source if source in BUNDLED else str(DATA / source), size=size, normalize=normalize)


def _lines(normalize: str) -> Dataset:
    photos = load_sample_images().images
    rows = torch.cat([torch.tensor(photo) for photo in photos]).transpose(1, 2).float() / 255
    names = ("one", "other")
    return Dataset(
        name=LINES,
        kind=InputKind.OTHER,
        inputs=rows,
        labels=torch.arange(len(names)).repeat_interleave(len(rows) // len(names)),
        class_names=names,
        normalization=make_normalization(normalize, rows),
        table=None,
        sha256="",
    )


def load(cell: Cell) -> Dataset:
    """The cell's data; the latest is kept."""
    return _load(cell.source, cell.size, cell.normalize)


def run(cell: Cell, dataset: Dataset, seeds: int) -> list[Finding]:
    """One batch for each seed, each with its own network."""
    return [run_seed(cell, dataset, seed) for seed in range(seeds)]


def run_seed(cell: Cell, dataset: Dataset, seed: int) -> Finding:
    """One batch of one network."""
    network = build_network(cell.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    audit = Audit(
        network=trained(cell.network, cell.epochs)[0] if cell.epochs else network,
        network_name=cell.network,
        dataset=dataset,
        rule=build_rule("fedsgd"),
        attack=cell.attack(Budget(seconds=cell.seconds)),
        batch_size=cell.batch_size,
        seed=seed,
        threat_model=cell.knows,
    )
    if isinstance(audit.attack, Exactify) and isinstance(audit.attack.attack, NoisyTruth):
        audit.attack.attack.truth = audit._draw(0)  # the one place where an attack sees the truth
    return next(iter(audit())).finding


def line(cell: Cell, findings: list[Finding]) -> str:
    """One row of the results."""
    whole = sum(finding.outcome == "exact" and finding.exact_examples == finding.batch_size for finding in findings)
    broke = sum(finding.error is not None or bool(finding.obstacles) for finding in findings)
    wrong = sum(
        sure and not truth
        for finding in findings
        for sure, truth in zip(finding.certified, finding.scores.get("exact") or [], strict=True)  # type: ignore[arg-type]
    )
    directions = [int(_directions(finding)) for finding in findings]
    examples = sum(finding.batch_size for finding in findings)
    share, exact = sum(directions) / examples, sum(finding.exact_examples for finding in findings) / examples
    seconds = [finding.seconds for finding in findings]
    data = Path(cell.source).parts[0] + ("" if cell.normalize == "channel" else " in [0, 1]")
    title = cell.title
    if cell.epochs:
        title = f"{cell.epochs} epochs, train accuracy {trained(cell.network, cell.epochs)[1]:.2f}"
    names = {
        "unmixing": "unmixing alone",
        "coupling": "coupling alone",
        "exactify_ig": "exactify(ig)",
        "exactify_noise": "exactify",
    }
    name = names.get(cell.attack.__name__, cell.attack.__name__)
    return (
        f"| {name} | {data} | {cell.batch_size} | {cell.network} | {title} | {len(findings)} | {whole} | "
        f"{exact:.3f} | {share:.3f} | {wrong} | {broke} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | "
        f"{max(finding.peak_memory_mib or 0 for finding in findings):.0f} |"
    )


def _directions(finding: Finding) -> float:
    stats = finding.stats
    return min(float(stats.get("directions", stats.get("exactify_directions", 0))), finding.batch_size)


def main() -> None:
    """Run all cells of a group and write the table, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--only", default="", help="cells with this in the name of their network; writes no page")
    parser.add_argument("--cells", type=int, nargs="+", help="these alone, in this order, from 0 on; writes no page")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = (
        f"# {options.group}, whole batches, no labels given\n\n"
        f"Command: `python benchmarks/exact.py {options.group} --seeds {options.seeds} --threads {options.threads}`. "
        "Seeds from 0 on, one fresh network (PyTorch's default start) and one batch each; a trained network serves all "
        "batches of its row (Adam at 1e-3 on 10,000 training images, accuracy on those; batches are of test images). "
        "Every run is counted, those that broke too; the seconds that each may take stand in `benchmarks/exact.py`. "
        f"Machine: {platform.machine()}, {os.cpu_count()} cores shared with other work, {options.threads} threads, "
        f"torch {torch.__version__}, CPU only. Inputs normalised by channel where nothing else is said. Seconds are of "
        "the attack alone.\n\n"
        "| attack | data | b | network | | batches | whole and certified | examples exact | directions found | "
        "wrong certificates | broke | median s | longest s | peak MiB of the process so far |\n"
        "|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    RESULTS.mkdir(exist_ok=True)
    rows = []
    cells = list(GROUPS[options.group]())
    for cell in [cells[place] for place in options.cells] if options.cells else cells:
        if options.only not in cell.network:
            continue
        rows.append(line(cell, run(cell, load(cell), min(options.seeds, cell.seeds or options.seeds))))
        print(rows[-1], flush=True)
        if not options.only and not options.cells:
            (RESULTS / f"{options.group}.md").write_text(head + "\n".join(rows) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
