"""SPEAR on real data: whole batches, no labels given. Run: python benchmarks/spear.py [--seeds 10] [--threads 2]."""

import argparse
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_rule
from seepage.audit.findings import Finding
from seepage.audit.run import Audit
from seepage.data.sources import load_dataset
from seepage.networks.zoo import build_network

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "spear.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of the table: data, network, batch size and the budget of a batch in seconds."""

    title: str
    source: str
    batch_size: int
    network: str = "mlp:400,400,400"
    size: int | None = None
    seconds: float = 60.0


CELLS = (
    Cell(title="CIFAR-10 b=10", source="cifar10/cifar10_test.npz", batch_size=10),
    Cell(title="CIFAR-10 b=16", source="cifar10/cifar10_test.npz", batch_size=16),
    Cell(title="CIFAR-10 b=20", source="cifar10/cifar10_test.npz", batch_size=20, seconds=600.0),
    Cell(title="MNIST b=8", source="mnist/t10k-images-idx3-ubyte.gz", batch_size=8),
    Cell(title="LFW 64 px b=8", source="lfw/images", batch_size=8, size=64),
    Cell(title="Adult b=8", source="tabular/adult.test", batch_size=8),
    Cell(title="German Credit b=8", source="tabular/german_credit.csv", batch_size=8),
    Cell(title="ImageNet 224 px b=10", source="imagenet224/images", batch_size=10),
)


def run(cell: Cell, seeds: int) -> list[Finding]:
    """One batch for each seed, each with its own network."""
    dataset = load_dataset(str(DATA / cell.source), size=cell.size)
    findings = []
    for seed in range(seeds):
        audit = Audit(
            network=build_network(cell.network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed),
            network_name=cell.network,
            dataset=dataset,
            rule=build_rule("fedsgd"),
            attack=build_attack("spear", budget=Budget(seconds=cell.seconds)),
            batch_size=cell.batch_size,
            seed=seed,
        )
        findings += [audited.finding for audited in audit()]
    return findings


def line(cell: Cell, findings: list[Finding]) -> str:
    """One row of the results."""
    whole = sum(finding.outcome == "exact" and finding.exact_examples == finding.batch_size for finding in findings)
    wrong = sum(
        sure and not truth
        for finding in findings
        for sure, truth in zip(finding.certified, finding.scores.get("exact") or [], strict=True)  # type: ignore[arg-type]
    )
    decibels = [value for finding in findings for value in finding.scores.get("psnr") or [] if value is not None]  # type: ignore[union-attr]
    seconds = [finding.seconds for finding in findings]
    share = sum(finding.exact_examples for finding in findings) / sum(finding.batch_size for finding in findings)
    return (
        f"| {cell.title} | {cell.network} | {len(findings)} | {whole} | {share:.3f} | {wrong} | "
        f"{min(decibels, default=0):.0f} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | "
        f"{max(finding.peak_memory_mib or 0 for finding in findings):.0f} |"
    )


def main() -> None:
    """Run all cells and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for cell in CELLS:
        rows.append(line(cell, run(cell, options.seeds)))
        print(rows[-1], flush=True)
    head = (
        "# SPEAR, whole batches, no labels given\n\n"
        f"Command: `python benchmarks/spear.py --seeds {options.seeds} --threads {options.threads}`. Seeds 0 to "
        f"{options.seeds - 1}, one fresh network (PyTorch's default start) and one batch each; every run is counted. "
        f"Machine: {platform.machine()}, {os.cpu_count()} cores shared with other work, {options.threads} threads, "
        f"torch {torch.__version__}, CPU only. Inputs normalised by channel (tables: by feature).\n\n"
        "| data | network | batches | whole and certified | examples exact | wrong certificates | least PSNR, dB | "
        "median s | longest s | peak MiB of the process so far |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(head + "\n".join(rows) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
