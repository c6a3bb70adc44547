"""Attacks under every rule and defense, CIFAR-10. Run: python benchmarks/rules.py [--seeds 3] [--workers 2]."""

import argparse
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import torch

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_defense, build_rule
from seepage.audit.findings import Finding
from seepage.audit.run import Audit
from seepage.data.sources import load_dataset
from seepage.networks.zoo import build_network
from seepage.types import ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "rules.md"
NETWORK = "mlp:400,400,400"
ATTACKS = {8: ("spear", "spearpp", "prism", "labels", "ig"), 32: ("spearpp", "prism", "labels")}  # by batch size
SECONDS = 3.0
RECOGNISABLE = (
    "exact, or 20 dB or more and 6 dB above a flat picture, or by its detail "
    "([decision 7](../../docs/decisions/0007-detail.md))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One audit but for its seed: what the client does, in which precision, and what attacks it."""

    rule: str = "fedsgd"
    defenses: tuple[str, ...] = ()
    dtype: str = "float32"
    attack: str = "spear"
    batch_size: int = 8


STEPS = tuple(
    Cell(rule=f"fedavg:epochs={epochs},lr={lr}", dtype=dtype)
    for dtype in ("float32", "float64")
    for lr in (0.001, 0.01)
    for epochs in (1, 2, 4, 8)
)
RULES = tuple(
    Cell(rule=rule)
    for rule in (
        "fedsgd",
        "fedavg:epochs=1,local_batch=4,lr=0.01",
        "fedavg:epochs=2,local_batch=4,lr=0.001",
        "fedavg:epochs=1,local_batch=1,lr=0.001",
        "fedavg:epochs=2,lr=0.001,momentum=0.9",
        "fedavg:epochs=2,lr=0.001,weight_decay=0.01",
        "fedavg:epochs=2,lr=0.001,optimizer=adam",
        "dpsgd:clip=1,noise=0",
        "dpsgd:clip=1,noise=0.001",
        "dpsgd:clip=1,noise=1",
        "sum:clients=2",
        "sum:clients=4",
        "sum:clients=4,of=fedavg:epochs=2,lr=0.001",
    )
)
DEFENSES = tuple(
    Cell(defenses=(defense,))
    for defense in (
        "noise:1e-6,relative=true",
        "noise:0.001,relative=true",
        "noise:0.1,relative=true",
        "laplace:0.001,relative=true",
        "clip:1",
        "topk:0.1",
        "topk:0.9",
        "random:0.5",
        "sign",
        "quantise:4",
        "quantise:8",
        "quantise:16",
        "fp16",
        "bf16",
        "drop:1",
        "drop:*",
    )
)


def run(job: tuple[Cell, int]) -> Finding:
    """One batch of one seed, with its own network."""
    cell, seed = job
    torch.set_num_threads(1)
    dataset = load_dataset(str(DATA / "cifar10/cifar10_test.npz"))
    audit = Audit(
        network=build_network(NETWORK, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed),
        network_name=NETWORK,
        dataset=dataset,
        rule=build_rule(cell.rule),
        defenses=tuple(build_defense(text) for text in cell.defenses),
        attack=build_attack(cell.attack, budget=Budget(seconds=SECONDS)),
        batch_size=cell.batch_size,
        threat_model=ThreatModel(batch_size=cell.attack in {"labels", "ig"}),
        seed=seed,
        dtype=getattr(torch, cell.dtype),
    )
    return next(iter(audit())).finding


def line(cell: Cell, findings: Sequence[Finding]) -> str:
    """One row of the results: a word for it, and how the audits ended."""
    ends = [end(finding) for finding in findings]
    examples = sum(finding.batch_size for finding in findings)
    exact = sum(finding.exact_examples for finding in findings)
    certified = sum(sum(finding.certified) for finding in findings)
    wrong = sum(
        sure and not truth
        for finding in findings
        for sure, truth in zip(finding.certified, finding.scores.get("exact") or [], strict=True)  # type: ignore[arg-type]
    )
    layers = sorted({finding.layer or "input" for finding in findings if finding.scores})
    counts = ", ".join(f"{ends.count(one)} {one}" for one in dict.fromkeys(ends))
    seconds = statistics.median(finding.seconds for finding in findings)
    client = " + ".join((findings[0].rule, *findings[0].defenses))
    return (
        f"| `{client}` | {cell.dtype} | {counts} | {', '.join(layers)} | {exact / examples:.3f} | "
        f"{certified / examples:.3f} | {wrong} | {seconds:.1f} |"
    )


def end(finding: Finding) -> str:
    """How one audit ended, by the truth: the attack's own word is ``certified``."""
    if finding.obstacles:
        return "obstacle"
    if finding.error is not None:
        return "broke"
    if finding.outcome == "failed":
        return "failed"
    if finding.exact_examples == 0:
        return "found nothing"
    return "all found" if finding.exact_examples == finding.batch_size else "some found"


def word(findings: Sequence[Finding]) -> str:
    """One cell of the matrix: what came out of all examples (or labels) of one client and attack."""
    examples = sum(finding.batch_size for finding in findings)
    if all(finding.obstacles for finding in findings):
        return "obstacle"
    if any(finding.error is not None for finding in findings):
        return "**broke**"
    if findings[0].restores_labels or any(finding.restores_labels for finding in findings):
        right = sum(finding.right_labels for finding in findings) / examples
        sure = sum(sum(finding.certified) for finding in findings) / examples
        return f"{right:.2f} right" + (f", {sure:.2f} certified" if sure else "")
    exact = sum(finding.exact_examples for finding in findings) / examples
    seen = sum(finding.recognisable_examples for finding in findings) / examples
    sure = sum(sum(finding.certified) for finding in findings) / examples
    if seen == 0:
        return "nothing"
    if exact == seen:
        return f"{exact:.2f} exact" + (f", {sure:.2f} certified" if sure else "")
    return f"{seen:.2f} recognisable" + (f", {exact:.2f} exact" if exact else "")


def matrix(batch_size: int, seeds: int, pool: ProcessPoolExecutor) -> Iterator[str]:
    """Rules and defenses by attacks, a line at a time."""
    names = ATTACKS[batch_size]
    cells = [replace(cell, attack=name, batch_size=batch_size) for cell in (*RULES, *DEFENSES) for name in names]
    findings = pool.map(run, [(cell, seed) for cell in cells for seed in range(seeds)])
    yield f"\n## All attacks, b = {batch_size}\n\n| client | {' | '.join(names)} |\n|---|{'---|' * len(names)}\n"
    for start in range(0, len(cells), len(names)):
        row = [list(islice(findings, seeds)) for _ in names]
        client = " + ".join((cells[start].rule, *cells[start].defenses))
        yield f"| `{client}` | " + " | ".join(word(each) for each in row) + " |\n"


def local_steps(seeds: int, pool: ProcessPoolExecutor) -> Iterator[str]:
    """SPEAR where the client took steps on the whole batch, a line at a time."""
    yield (
        "\n## SPEAR, b = 8: local steps on the whole batch\n\n| client | dtype | how the audits ended | layer | "
        "exact | certified | wrong certificates | median s |\n|---|---|---|---|--:|--:|--:|--:|\n"
    )
    findings = pool.map(run, [(cell, seed) for cell in STEPS for seed in range(seeds)])
    for cell in STEPS:
        yield line(cell, list(islice(findings, seeds))) + "\n"


def main() -> None:
    """Run all cells and write the tables, a line as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    text = (
        f"# Attacks under rules and defenses\n\nCommand: `python benchmarks/rules.py --seeds {options.seeds} --workers "
        f"{options.workers}`. CIFAR-10 normalised by channel, {NETWORK}, seeds 0 to "
        f"{options.seeds - 1}, one fresh network (PyTorch's default start) and one batch each; every run is counted. "
        f"The server knows the rule, not the "
        f"defense, and the batch size for `labels` and `ig` alone. Budget {SECONDS:.0f} s a batch on 1 thread, "
        "which is little for `ig`. "
        f"Machine: {platform.machine()}, {os.cpu_count()} cores shared with other work, "
        f"torch {torch.__version__}, CPU. *Exact*: equal to the original in every pixel of 8 bits; *recognisable*: "
        f"{RECOGNISABLE}; *obstacle*: not run; *nothing*: nothing recognisable came out. "
        "Shares are of examples. Inputs of an inner layer are counted where the first layer was withheld.\n"
    )
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        parts = [matrix(batch_size, options.seeds, pool) for batch_size in ATTACKS]
        for part in chain(*parts, local_steps(options.seeds, pool)):
            text += part
            RESULTS.write_text(text, encoding="utf8")
            print(part, end="", flush=True)


if __name__ == "__main__":
    main()
