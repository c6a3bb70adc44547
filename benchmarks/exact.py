"""SPEAR++ and PRISM on real data: whole batches, no labels given. Run: python benchmarks/exact.py spearpp|prism."""

import argparse
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seepage.attacks.disaggregation import Budget
from seepage.attacks.exactify import Exactify
from seepage.attacks.prism import PRISM
from seepage.attacks.spear import SPEAR
from seepage.attacks.spearpp import SPEARPlusPlus
from seepage.audit.catalogue import build_rule
from seepage.audit.findings import Finding
from seepage.audit.run import Audit
from seepage.data.sources import Dataset, load_dataset
from seepage.networks.zoo import build_network
from seepage.types import Attack, Observation, Obstacle, Outcome, PrivateBatch, Progress, Reconstruction, go_on

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
CIFAR = "cifar10/cifar10_test.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of a table: one attack on one setting."""

    attack: Callable[[Budget], Attack]
    batch_size: int
    network: str
    source: str = CIFAR
    size: int | None = None
    normalize: str = "channel"
    seconds: float = 120.0
    seeds: int | None = None
    title: str = ""


def spear(budget: Budget) -> Attack:
    return SPEAR(budget=budget)


def spearpp(budget: Budget) -> Attack:
    return SPEARPlusPlus(budget=budget)


def prism(budget: Budget) -> Attack:
    return PRISM(budget=budget)


def prism_alone(budget: Budget) -> Attack:
    return PRISM(budget=budget, searches=())


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


def prism_cells() -> Iterator[Cell]:
    yield Cell(attack=prism, batch_size=40, network=mlp(200, 3))
    yield Cell(attack=prism, batch_size=100, network=mlp(500, 3))
    yield Cell(attack=prism, batch_size=160, network=mlp(1000, 3))
    yield Cell(attack=prism, batch_size=210, network=mlp(2100, 3))
    yield Cell(attack=prism, batch_size=40, network=mlp(1000, 1), title="one hidden layer")
    yield Cell(attack=prism, batch_size=100, network=mlp(1000, 1), title="one hidden layer")
    for hidden in (2, 4, 6):
        yield Cell(attack=prism, batch_size=100, network=mlp(1000, hidden), seeds=3)
    for batch_size, width in ((40, 400), (100, 1000)):
        for attack in (spearpp, prism, prism_alone):
            yield Cell(attack=attack, batch_size=batch_size, network=mlp(width, 3), title="side by side")
    yield Cell(attack=prism, batch_size=64, network=mlp(400, 3), source="lfw/images", size=64, seeds=3)
    yield Cell(attack=prism, batch_size=64, network=mlp(320, 3), source="imagenet64/imagenet64_500.npz", seeds=3)
    yield Cell(attack=prism, batch_size=64, network=mlp(1000, 3), source="imagenet224/images", seeds=3)
    yield Cell(attack=prism, batch_size=65, network=mlp(1000, 3), normalize="none", seeds=3, title="inputs in [0, 1]")
    yield Cell(attack=prism, batch_size=210, network=mlp(1050, 3), seconds=300.0, seeds=2, title="stretch")
    yield Cell(attack=prism, batch_size=300, network=mlp(4000, 3), seconds=300.0, seeds=2, title="stretch")
    yield Cell(attack=prism, batch_size=512, network=mlp(4000, 3), seconds=600.0, seeds=1, title="stretch")


def exactify_cells() -> Iterator[Cell]:
    for width in (800, 400, 200, 160, 120):
        yield Cell(attack=exactify, batch_size=40, network=mlp(width, 3), seconds=30.0, title="truth plus noise, 8 dB")


GROUPS = {"spearpp": spearpp_cells, "prism": prism_cells, "exactify": exactify_cells}


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


def exactify(budget: Budget) -> Attack:
    return Exactify(attack=NoisyTruth(), budget=budget)


def run(cell: Cell, dataset: Dataset, seeds: int) -> list[Finding]:
    """One batch for each seed, each with its own network."""
    findings = []
    for seed in range(seeds):
        audit = Audit(
            network=build_network(cell.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed),
            network_name=cell.network,
            dataset=dataset,
            rule=build_rule("fedsgd"),
            attack=cell.attack(Budget(seconds=cell.seconds)),
            batch_size=cell.batch_size,
            seed=seed,
        )
        if isinstance(audit.attack, Exactify) and isinstance(audit.attack.attack, NoisyTruth):
            audit.attack.attack.truth = audit._draw(0)  # the one place where an attack sees the truth
        findings += [audited.finding for audited in audit()]
    return findings


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
    share = sum(directions) / sum(finding.batch_size for finding in findings)
    seconds = [finding.seconds for finding in findings]
    data = Path(cell.source).parts[0] + ("" if cell.normalize == "channel" else " in [0, 1]")
    name = {"prism_alone": "prism without sphere search"}.get(cell.attack.__name__, cell.attack.__name__)
    return (
        f"| {name} | {data} | {cell.batch_size} | {cell.network} | {cell.title} | {len(findings)} | {whole} | "
        f"{share:.3f} | {wrong} | {broke} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | "
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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = (
        f"# {options.group}, whole batches, no labels given\n\n"
        f"Command: `python benchmarks/exact.py {options.group} --seeds {options.seeds} --threads {options.threads}`. "
        "Seeds from 0 on, one fresh network (PyTorch's default start) and one batch each; every run is counted, those "
        f"that broke too. Machine: {platform.machine()}, {os.cpu_count()} cores shared with other work, "
        f"{options.threads} threads, torch {torch.__version__}, CPU only. Inputs normalised by channel where nothing "
        "else is said. Seconds are of the attack alone.\n\n"
        "| attack | data | b | network | | batches | whole and certified | directions found | wrong certificates | "
        "broke | median s | longest s | peak MiB of the process so far |\n"
        "|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    RESULTS.mkdir(exist_ok=True)
    rows = []
    for cell in GROUPS[options.group]():
        dataset = load_dataset(str(DATA / cell.source), size=cell.size, normalize=cell.normalize)
        rows.append(line(cell, run(cell, dataset, min(options.seeds, cell.seeds or options.seeds))))
        print(rows[-1], flush=True)
        (RESULTS / f"{options.group}.md").write_text(head + "\n".join(rows) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
