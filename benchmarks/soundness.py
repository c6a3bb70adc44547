"""Is a wrong example ever certified? Hundreds of audits, most infeasible. Run: python benchmarks/soundness.py."""

import argparse
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import build_attack, build_defense, build_rule
from seepage.audit.run import Audit
from seepage.data.sources import Dataset, load_dataset
from seepage.networks.zoo import build_network
from seepage.types import Defense, GradientUpdate, ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "soundness.md"
_RULES = ("fedsgd", "fedavg:epochs=2,local_batch=2,lr=0.01", "fedavg:epochs=1,lr=0.001", "dpsgd:clip=1,noise=0")
_SECONDS, _SMOOTH_SECONDS = 2.0, 10.0  # of a batch; without a ReLU a fit of the whole batch takes its time
_SMOOTH = (":gelu", ":sigmoid", ":tanh")


@dataclass(frozen=True, slots=True)
class Changed:
    """A defense from a function on one tensor."""

    name: str
    change: Callable[[Tensor, torch.Generator], Tensor]

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        return GradientUpdate({name: self.change(value, generator) for name, value in update.items()})


def top_k(value: Tensor, _: torch.Generator) -> Tensor:
    """Keep the tenth of the entries that are largest."""
    least = value.abs().flatten().kthvalue(max(1, int(0.9 * value.numel()))).values
    return torch.where(value.abs() >= least, value, 0.0)


def noise(value: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of a hundredth of the tensor's root mean square."""
    return value + 0.01 * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator)


def half(value: Tensor, _: torch.Generator) -> Tensor:
    """Rounded to half precision and back."""
    return value.half().float()


def dead_units(network: nn.Module) -> nn.Module:
    """A quarter of the first layer's units never wake, and one has no weights at all."""
    layer = next(module for module in network.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        layer.bias[: len(layer.bias) // 4] = -1e3
        layer.weight[-1] = 0.0
    return network


def train(network: nn.Module, dataset: Dataset, *, steps: int = 300) -> nn.Module:
    """A few epochs of Adam on the data set itself: the batches of these audits are among its easiest examples."""
    inputs, labels = dataset.normalization.apply(dataset.inputs), dataset.labels
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    chance = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (64,), generator=chance)
        optimizer.zero_grad()
        cross_entropy(network(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.zero_grad()
    return network


def doubled(dataset: Dataset) -> Dataset:
    """Five examples only, each several times: duplicates in every batch, some with another label."""
    few = dataset.inputs[:5].repeat(8, *[1] * (dataset.inputs.ndim - 1))
    return replace(dataset, inputs=few, labels=dataset.labels[: len(few)])


def near_copies(dataset: Dataset) -> Dataset:
    """Six examples, each with copies that are off by a thousandth, a hundredth and a twentieth; pictures of 8 bits."""
    few, chance = dataset.inputs[:6], torch.Generator().manual_seed(0)
    copies = [few + size * few.std() * torch.randn(few.shape, generator=chance) for size in (1e-3, 1e-2, 0.05)]
    inputs = torch.cat([few, *copies])
    if inputs.ndim > 2:
        inputs = (255 * inputs.clamp(0, 1)).round() / 255
    return replace(dataset, inputs=inputs, labels=dataset.labels[:6].repeat(4))


def mislabelled(dataset: Dataset) -> Dataset:
    """Every third example with the label of the one before: those that a network was sure of are the strongest now."""
    labels = dataset.labels.clone()
    labels[::3] = labels.roll(1)[::3]
    return replace(dataset, labels=labels)


CHANGES = {
    "duplicates, GELU, size known": doubled,
    "trained, near-copies, GELU": near_copies,
    "trained, mislabelled, GELU": mislabelled,
    "duplicates": doubled,
    "near-copies": near_copies,
    "near-copies, size known": near_copies,
    "near-copies, GELU": near_copies,
    "near-copies, sigmoid, size known": near_copies,
}


def audits(seed: int, attack: str, only: tuple[str, ...]) -> Iterator[tuple[str, Audit]]:
    """Every case for one seed, which has its own networks and batches, or those of networks with a word of ``only``."""
    sources: dict[str, Dataset] = {"digits": load_dataset("digits"), "photos": load_dataset("photos")}
    if DATA.is_dir():
        sources["CIFAR-10"] = load_dataset(str(DATA / "cifar10/cifar10_test.npz"))
        sources["CIFAR-10 in [0, 1]"] = load_dataset(str(DATA / "cifar10/cifar10_test.npz"), normalize="none")
        sources["Adult"] = load_dataset(str(DATA / "tabular/adult.test"))
    cases: list[tuple[str, str, int, str, tuple[Defense, ...]]] = []
    ruled: list[tuple[str, str, int, str, str, tuple[Defense, ...]]] = []
    for name in sources:
        cases += [(name, "feasible", 8, "mlp:200,200", ()), (name, "larger", 14, "mlp:400,400", ())]
        cases += [(name, "width too small", 16, "mlp:30,30", ()), (name, "batch too large", 60, "mlp:100", ())]
        cases += [(name, "one hidden layer", 10, "mlp:200", ()), (name, "GELU", 6, "mlp:100,100:gelu", ())]
        cases += [(name, "dead units", 8, "mlp:200,200", ()), (name, "duplicates", 8, "mlp:200,200", ())]
        cases += [(name, "4 units an example", 25, "mlp:100,50", ()), (name, "3 units an example", 20, "mlp:60,60", ())]
        cases += [(name, "one layer, 3.5 units", 20, "mlp:70", ()), (name, "2.5 units an example", 24, "mlp:60,30", ())]
        cases += [(name, "trained, one hidden layer", 20, "mlp:200", ()), (name, "trained", 14, "mlp:200,100", ())]
        cases += [(name, "trained, 4 units an example", 25, "mlp:100,50", ())]
        cases += [
            (name, "3 units an example, larger", 40, "mlp:120,60", ()),
            (name, "one layer, 3 units", 32, "mlp:96", ()),
        ]
        cases += [(name, title, 8, "mlp:100,60", ()) for title in ("near-copies", "near-copies, size known")]
        cases += [
            (name, "sigmoid", 12, "mlp:60,60:sigmoid", ()),
            (name, "tanh, narrow", 12, "mlp:14,14:tanh", ()),
            (name, "trained, GELU", 14, "mlp:60,60:gelu", ()),
            (name, "near-copies, GELU", 8, "mlp:100,60:gelu", ()),
            (name, "near-copies, sigmoid, size known", 8, "mlp:100,60:sigmoid", ()),
            (name, "trained long, GELU", 14, "mlp:60,60:gelu", ()),
            (name, "trained long, tanh", 10, "mlp:40,40:tanh", ()),
            (name, "trained, sigmoid", 16, "mlp:60,60:sigmoid", ()),
            (name, "trained, near-copies, GELU", 8, "mlp:60,60:gelu", ()),
            (name, "trained, mislabelled, GELU", 14, "mlp:60,60:gelu", ()),
            (name, "duplicates, GELU, size known", 8, "mlp:60,60:gelu", ()),
            (name, "sigmoid, parallel errors", 30, "mlp:60,60:sigmoid", ()),
            (name, "GELU, weak noise", 6, "mlp:60,60:gelu", (build_defense("noise:0.0001"),)),
            (name, "GELU, half of top-k", 6, "mlp:60,60:gelu", (build_defense("topk:0.5"),)),
        ]
        cases += [(name, "narrow", 4, "mlp:24,24", ()), (name, "two at eight units", 2, "mlp:8", ())]
        for title, change in (("top-k", top_k), ("noise", noise), ("half precision", half)):
            cases.append((name, title, 6, "mlp:100,100", (Changed(title, change),)))
        # Half of the entries dropped, whole small tensors among them, once had 33 dB certified.
        halved = (build_defense("topk:0.5"),)
        ruled += [(name, f"{rule}, half of top-k", 4, "mlp:100,100", rule, halved) for rule in _RULES]
        ruled += [(name, rule, 6, "mlp:200,200", rule, ()) for rule in _RULES[1:]]
        ruled += [
            (name, text, 6, "mlp:100,100", "fedsgd", (build_defense(text),)) for text in ("quantise:8", "topk:0.9")
        ]
    plain = [(*case[:4], "fedsgd", case[4]) for case in cases]
    for name, title, batch_size, network, rule, defenses in [*plain, *ruled]:
        if only and not any(word in network for word in only):
            continue
        dataset = CHANGES[title](sources[name]) if title in CHANGES else sources[name]
        built = build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
        if title == "dead units":
            built = dead_units(built)
        elif title.startswith("trained"):
            built = train(built, sources[name], steps=2000 if "long" in title else 300)
        yield (
            f"{attack}: {title} (b={batch_size}, {network})",
            Audit(
                network=built,
                network_name=network,
                dataset=dataset,
                rule=build_rule(rule),
                defenses=defenses,
                attack=build_attack(
                    attack, budget=Budget(seconds=_SMOOTH_SECONDS if network.endswith(_SMOOTH) else _SECONDS)
                ),
                batch_size=batch_size,
                threat_model=ThreatModel(batch_size="known" in title),
                seed=seed,
            ),
        )


def run(task: tuple[int, str, tuple[str, ...]]) -> tuple[dict[str, Counter[str]], list[str]]:
    """How the audits of one seed and attack ended, and whatever has to be looked at."""
    torch.set_num_threads(1)
    ends: dict[str, Counter[str]] = {}
    odd: list[str] = []
    for title, audit in audits(*task):
        for audited in audit():
            finding = audited.finding
            end = "refused" if finding.obstacles else "broke" if finding.error else str(finding.outcome)
            row = ends.setdefault(title, Counter())
            row[end] += 1
            row["audits"] += 1
            row["certified"] += sum(finding.certified)
            exact = finding.scores.get("exact") or []
            bad = sum(sure and not truth for sure, truth in zip(finding.certified, exact, strict=True))  # type: ignore[arg-type]
            row["wrong"] += bad
            if bad or finding.error or (finding.outcome == "exact" and not all(exact)):  # type: ignore[arg-type]
                odd.append(f"{title}, {finding.data}, seed {finding.seed}: {bad} wrong, {end}, {finding.error}")
    return ends, odd


def page(ends: dict[str, Counter[str]], wrong: list[str], options: argparse.Namespace, done: int) -> str:
    """The results so far, ``done`` pairs of a seed and an attack."""
    total = sum(row["audits"] for row in ends.values())
    columns = ("exact", "approximate", "failed", "refused", "broke", "certified", "wrong")
    lines = [f"| {title} | " + " | ".join(str(row[name]) for name in columns) + " |" for title, row in ends.items()]
    planned = options.seeds * len(options.attacks)
    text = (
        f"# Soundness: {total} audits, {sum(row['wrong'] for row in ends.values())} wrong certificates\n\n"
        f"Command: `python benchmarks/soundness.py --seeds {options.seeds} --workers {options.workers} "
        f"--attacks {' '.join(options.attacks)}"
        + (f" --only {' '.join(options.only)}`" if options.only else "`")
        + (f", stopped after {done} of {planned} pairs of a seed and an attack. " if done < planned else ". ")
        + f"Seeds 0 to {options.seeds - 1}; digits, photos, CIFAR-10 normalised and in [0, 1], Adult. Budget "
        f"{_SECONDS:g} s a batch, {_SMOOTH_SECONDS:g} s without a ReLU, on 1 thread, so that many end half-way on "
        f"purpose. Machine: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, CPU. In the case "
        "with duplicates exact means that every distinct example was found. Trained: 300 steps of Adam (long: 2,000) "
        "on the data that the batches are of.\n\n"
        f"| case | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}\n" + "\n".join(lines) + "\n"
    )
    return text + ("\nTo look at:\n" + "\n".join(f"* {entry}" for entry in wrong) + "\n" if wrong else "")


def main() -> None:
    """Run all audits, count how they end, and list every wrong certificate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--attacks", nargs="+", default=["spear", "spearpp", "prism"])
    parser.add_argument("--only", nargs="+", default=[], help="cases whose network has one of these in its name")
    options = parser.parse_args()
    ends: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    RESULTS.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        tasks = product(range(options.seeds), options.attacks, [tuple(options.only)])
        for done, (counted, odd) in enumerate(pool.map(run, tasks), start=1):
            wrong += odd
            for title, row in counted.items():
                ends.setdefault(title, Counter()).update(row)
            RESULTS.write_text(page(ends, wrong, options, done), encoding="utf8")
    print(RESULTS.read_text(encoding="utf8"))


if __name__ == "__main__":
    main()
