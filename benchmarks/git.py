"""GIT, LTI, IG and GIT+IG on CIFAR-10, scaled down for a CPU. Run: python benchmarks/git.py --part attacks."""

import argparse
import copy
import json
import math
import os
import platform
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from torch import nn

from seepage.attacks.blueprint import InverterKind, draw_blueprint
from seepage.attacks.chain import read_chain
from seepage.attacks.disaggregation import Budget
from seepage.attacks.git import ExactGIT
from seepage.attacks.inverter import Inverter, build_module
from seepage.attacks.matching import dlg, ig
from seepage.attacks.publicdata import NearestPublic, PublicMean
from seepage.attacks.solvedgit import SolvedGIT
from seepage.attacks.training import Training, train_inverter
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr, ssim
from seepage.networks.zoo import build_network
from seepage.types import Attack, GradientUpdate, Obstacle, Outcome, PrivateBatch, ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "git.md"
ROWS = RESULTS.with_suffix(".json")
FULL = 600  # iterations of IG here; GIT+IG gets a third
Row = dict[str, Any]
Score = tuple[float, float, float, float]


def main() -> None:
    """Run one part, replace its rows in the JSON file, and write the page from all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("attacks", "exact", "robust", "page"), default="attacks")
    parser.add_argument("--cells", default="lenet:sigmoid/1", help="network/b,...")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=120.0, help="Training of each attack network.")
    parser.add_argument("--batches", type=int, default=4, help="Attacked, each seed.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "attacks":
        for network, _, examples in (one.partition("/") for one in options.cells.split(",")):
            attacks(network, int(examples), options)
    elif options.part == "exact":
        exact(options)
    elif options.part == "robust":
        for network, _, _ in (one.partition("/") for one in options.cells.split(",")):
            robust(network, options)
    RESULTS.write_text(page(stored()), encoding="utf8")


def stored() -> list[Row]:
    """All rows so far."""
    found: list[Row] = json.loads(ROWS.read_text(encoding="utf8")) if ROWS.is_file() else []
    return found


def keep(rows: list[Row], **place: object) -> None:
    """Replace the rows of a place."""
    others = [row for row in stored() if any(row.get(key) != value for key, value in place.items())]
    text = ",\n".join(json.dumps(place | row) for row in rows)
    before = "".join(json.dumps(row) + ",\n" for row in others)
    ROWS.write_text(f"[\n{before}{text}\n]\n", encoding="utf8")
    RESULTS.write_text(page(stored()), encoding="utf8")  # a cut keeps what was done


def attacks(name: str, examples: int, options: argparse.Namespace) -> None:
    """All attacks on one network and batch size."""
    public, private = cifar("train_batch1"), cifar("test")
    scores: dict[str, list[Score]] = defaultdict(list)
    failed: dict[str, int] = defaultdict(int)
    trained_in: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.seeds):
        chance = torch.Generator().manual_seed(seed)
        network = build_network(name, input_shape=public.input_shape, classes=10, seed=seed)
        given = public.batch(torch.randperm(len(public), generator=chance)[: options.pairs])
        tried: dict[str, Attack] = {
            "public mean": PublicMean(inputs=given.inputs, examples=examples),
            "nearest public": NearestPublic(inputs=given.inputs[:1000], labels=given.labels[:1000], examples=examples),
        }
        for kind, word in ((InverterKind.LTI, "LTI"), (InverterKind.COARSE_GIT, "Coarse-GIT")):
            tried[word], spent = trained(network, kind, given, examples=examples, seconds=options.seconds, seed=seed)
            trained_in[word].append(spent)
        tried[f"DLG, {FULL}"] = dlg(starts=2, budget=Budget(samples=FULL))
        tried[f"IG, {FULL}"] = ig(iterations=FULL)
        tried[f"IG, {FULL // 3}"] = ig(iterations=FULL // 3)
        tried[f"Coarse-GIT + IG, {FULL // 3}"] = ig(iterations=FULL // 3, step=0.003, start=tried["Coarse-GIT"])
        if examples == 1 and not isinstance(read_chain(network, public.input_shape), Obstacle):
            tried["Solved-GIT, no public data"] = SolvedGIT()
            tried["Solved-GIT"] = SolvedGIT(public=given.inputs)
            tried[f"Solved-GIT + IG, {FULL // 3}"] = ig(iterations=FULL // 3, step=1e-3, start=tried["Solved-GIT"])
        rows = torch.randperm(len(private), generator=chance)[: options.batches * examples].reshape(-1, examples)
        for row in rows:
            batch = private.batch(row)
            for word, attack in tried.items():
                score = attacked(attack, network, batch)
                failed[word] += score is None
                scores[word] += [score] if score is not None else []
        done = [
            {"attack": word, "scores": scores[word], "failed": failed[word], "training": trained_in[word]}
            | {"pairs": options.pairs, "seeds": seed + 1}
            for word in tried
        ]
        keep(done, part="attacks", network=name, examples=examples)
        print(f"{name}/{examples}: seed {seed} done", flush=True)


def trained(
    network: nn.Module, kind: InverterKind, given: PrivateBatch, *, examples: int, seconds: float, seed: int
) -> tuple[Inverter, float]:
    """An attack network after about so many CPU seconds, and those; two short runs are timed first."""
    blueprint = draw_blueprint(network, kind=kind, input_shape=tuple(given.inputs.shape[1:]), examples=examples)
    spent = []
    for epochs in (1, 2):  # what comes before the first epoch is not counted twice
        started = time.process_time()
        train_inverter(network, blueprint, given.inputs, given.labels, training=Training(epochs=epochs, seed=seed))
        spent.append(time.process_time() - started)
    each = max(1e-3, spent[1] - spent[0])
    epochs = max(1, round((seconds - (spent[0] - each)) / each))
    training = Training(epochs=epochs, patience=epochs, seed=seed)
    started = time.process_time()
    found = train_inverter(network, blueprint, given.inputs, given.labels, training=training)
    return found.inverter, time.process_time() - started


def robust(name: str, options: argparse.Namespace) -> None:
    """One example: noised gradients, pairs of other data, parameters that moved on after the training of the attack."""
    public, private = cifar("train_batch1"), cifar("test")
    other = load_dataset(str(DATA / "cifar100" / "cifar100_test.npz"), normalize="none")
    found: dict[tuple[str, str], list[Score | None]] = defaultdict(list)
    for seed in range(options.seeds):
        chance = torch.Generator().manual_seed(seed)
        network = build_network(name, input_shape=public.input_shape, classes=10, seed=seed)
        order = torch.randperm(len(public), generator=chance)
        given, rest = public.batch(order[: options.pairs]), order[options.pairs :]
        foreign = other.batch(torch.randperm(len(other), generator=chance)[: options.pairs])
        foreign = PrivateBatch(inputs=foreign.inputs, labels=foreign.labels % 10)  # any label makes a gradient
        tried: dict[str, Attack] = {}
        for kind, word in ((InverterKind.LTI, "LTI"), (InverterKind.COARSE_GIT, "Coarse-GIT")):
            for data, source in ((given, ""), (foreign, ", pairs of CIFAR-100")):
                tried[word + source], _ = trained(network, kind, data, examples=1, seconds=options.seconds, seed=seed)
        tried["Solved-GIT"] = SolvedGIT(public=given.inputs)
        tried["Solved-GIT, public CIFAR-100"] = SolvedGIT(public=foreign.inputs)
        tried[f"IG, {FULL // 3}"] = ig(iterations=FULL // 3)
        moved = {steps: trained_on(network, public, rest, steps) for steps in (1, 10, 100)}
        for row in torch.randperm(len(private), generator=chance)[: options.batches]:
            batch = private.batch(row[None])
            for word, attack in tried.items():
                cases = {"none": (network, 0.0)}
                if "CIFAR" not in word:
                    cases |= {f"noise {share:g}": (network, share) for share in (1e-3, 1e-2, 1e-1)}
                    cases |= {f"{steps} steps on": (later, 0.0) for steps, later in moved.items()}
                for case, (victim, noise) in cases.items():
                    score = attacked(attack, victim, batch, noise=noise)
                    found[word, case].append(score)
        done = [
            {"attack": word, "case": case, "scores": scores, "pairs": options.pairs, "seeds": seed + 1}
            for (word, case), scores in found.items()
        ]
        keep(done, part="robust", network=name)
        print(f"robust {name}: seed {seed} done", flush=True)


def trained_on(network: nn.Module, data: Dataset, rows: torch.Tensor, steps: int) -> nn.Module:
    """The network after so many steps of SGD, rate 0.1, on batches of 32 that no attacker saw."""
    later = copy.deepcopy(network)
    optimizer = torch.optim.SGD(later.parameters(), lr=0.1)
    for step in range(steps):
        batch = data.batch(rows[(torch.arange(32) + 32 * step) % len(rows)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(later(batch.inputs), batch.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return later


def noised(update: GradientUpdate, share: float) -> GradientUpdate:
    """Gaussian noise of a standard deviation of ``share`` of the root mean square of the whole gradient."""
    numbers = sum(value.numel() for value in update.values())
    size = math.sqrt(sum(float(value.square().sum()) for value in update.values()) / numbers)
    chance = torch.Generator().manual_seed(1)
    return GradientUpdate(
        {name: value + share * size * torch.randn(value.shape, generator=chance) for name, value in update.items()}
    )


def attacked(attack: Attack, network: nn.Module, batch: PrivateBatch, *, noise: float = 0.0) -> Score | None:
    """MSE, PSNR, SSIM and seconds, ``None`` if it failed."""
    chance = torch.Generator().manual_seed(0)
    update = FedSGD()(network, batch, chance)
    assert isinstance(update, GradientUpdate)
    observation = ThreatModel(batch_size=True).view(
        network=network,
        update=noised(update, noise) if noise else update,
        batch=batch,
        rule=FedSGD(),
        classes=10,
        bounds=(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)),
    )
    if attack.obstacles(observation):
        return None
    started = time.perf_counter()
    found = attack(observation, generator=chance)
    seconds = time.perf_counter() - started
    if found.inputs is None or found.outcome is Outcome.FAILED:
        return None
    ordered = found.inputs[match(found.inputs, batch.inputs)]
    likeness = ssim(ordered, batch.inputs)
    return (
        float((ordered - batch.inputs).square().mean()),
        float(psnr(ordered, batch.inputs).clamp(max=150).mean()),
        0.0 if likeness is None else float(likeness.mean()),
        seconds,
    )


def exact(options: argparse.Namespace) -> None:
    """Exact-GIT on a two-layer network: distance of Theta from the true weights, from a random start and from them."""
    public = cifar("train_batch1")
    done: list[Row] = []
    for seed in range(options.seeds):
        chance = torch.Generator().manual_seed(seed)
        network = build_network("mlp:64:sigmoid", input_shape=public.input_shape, classes=10, seed=seed)
        given = public.batch(torch.randperm(len(public), generator=chance)[: options.pairs])
        blueprint = draw_blueprint(network, kind=InverterKind.EXACT_GIT, input_shape=(3, 32, 32))
        for known in (False, True):
            module = build_module(blueprint)
            assert isinstance(module, ExactGIT)
            if known:
                module.start_from(network)
            before = module.distance_to(network)
            training = Training(epochs=12, seed=seed)
            found = train_inverter(network, blueprint, given.inputs, given.labels, training=training, module=module)
            done.append(
                {"seed": seed, "start": "known weights" if known else "random", "pairs": options.pairs}
                | {"before": before, "after": module.distance_to(network)}
                | {"first": found.held_out_errors[1], "best": min(found.held_out_errors)}
            )
            print(done[-1], flush=True)
        keep(done, part="exact")


def cifar(file: str) -> Dataset:
    """One file of CIFAR-10, inputs in [0, 1]."""
    return load_dataset(str(DATA / "cifar10" / f"cifar10_{file}.npz"), normalize="none")


def page(rows: list[Row]) -> str:
    """The results as Markdown."""
    table = [line(row) for row in rows if row["part"] == "attacks"]
    learned = [
        f"| {row['seed']} | {row['start']} | {row['pairs']} | {row['before']:.2f} | {row['after']:.2f} | "
        f"{row['first']:.2e} | {row['best']:.2e} |"
        for row in rows
        if row["part"] == "exact"
    ]
    head = (
        "# GIT on CIFAR-10, scaled down\n\n"
        "Commands: `python benchmarks/git.py --part attacks --cells NETWORK/B`, `--part exact`; the rows are kept in "
        "`git.json` beside this page. This is far below the paper's scale (10,000 pairs, thousands of seconds on a "
        "GPU): pairs are examples of the first train file, seeds decide network, split and attacked examples, which "
        "are of the test file. Width 512 for both attack networks, which train for about the same CPU seconds (two "
        f"short runs are timed, then the number of epochs planned). IG walks {FULL} iterations, "
        f"GIT+IG {FULL // 3} with a first step of 0.003, DLG at most {FULL} directions of L-BFGS in at most 2 starts. "
        "Batch size known, labels restored by the label attacks (DLG walks them along), inputs in [0, 1]. The nearest "
        "public example is sought among 1,000. Solved-GIT+IG begins with a step of 0.001. Mean and deviation over "
        f"attacked batches. Machine: {platform.machine()}, one thread of a busy shared machine, torch "
        f"{torch.__version__}, no GPU.\n\n"
    )
    head += (
        "Not run: LeNet with ReLU, a CIFAR ResNet, a small ViT, faces, the published width and hours of LTI, the "
        "paper's scale of GIT. Few images and seeds: see the columns. LTI is far from its end at these "
        "budgets, and GIT's closed form alone takes longer than the shortest of them (batch 2 and 4).\n\n"
    )
    columns = (
        "| network | b | attack | MSE | PSNR, dB | SSIM | failed | s a batch | training CPU s | pairs | seeds |\n"
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    tail = (
        "\n## Exact-GIT, MLP 3072-64-10 with sigmoid, batch 1\n\nDistance: |Theta - W| / |W|. 12 epochs.\n\n"
        "| seed | start | pairs | distance before | distance after | held-out MSE, first epoch | best |\n"
        "|--:|---|--:|--:|--:|--:|--:|\n"
    )
    found = head + columns + "\n".join(table) + "\n" + (tail + "\n".join(learned) + "\n" if learned else "")
    return found + "".join(robustness([row for row in rows if row["part"] == "robust"]))


def robustness(rows: list[Row]) -> list[str]:
    """A table of PSNR, one line an attack and one column a case."""
    if not rows:
        return []
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = [
        "\n## Robustness, batch 1, PSNR in dB\n\nNoise: Gaussian, its standard deviation as a share of the root mean "
        "square of the whole gradient. Steps on: the network was trained for so many steps (SGD, rate 0.1, batches of "
        "32) after the attack networks had been; Solved-GIT and IG read the weights of the round. Failures are left "
        "out of the mean and counted in brackets.\n\n",
        f"| network | attack | {' | '.join(cases)} | images |\n|---|---|{'--:|' * len(cases)}--:|\n",
    ]
    for network, word in dict.fromkeys((row["network"], row["attack"]) for row in rows):
        cells, images = [], 0
        for case in cases:
            scores = [
                score
                for row in rows
                if (row["network"], row["attack"], row["case"]) == (network, word, case)
                for score in row["scores"]
            ]
            good = [score[1] for score in scores if score is not None]
            lost = f" ({len(scores) - len(good)} failed)" if len(good) < len(scores) else ""
            cells.append((f"{mean(good):.1f}" if good else "") + lost)
            images = max(images, len(scores))
        lines.append(f"| {network} | {word} | {' | '.join(cells)} | {images} |\n")
    return lines


def line(row: Row) -> str:
    """One row of the table of attacks."""
    place, failed = f"{row['network']} | {row['examples']} | {row['attack']}", row["failed"]
    if not row["scores"]:
        return f"| {place} | | | | {failed} of {failed} | | | {row['pairs']} | {row['seeds']} |"
    errors, decibels, likeness, spent = zip(*row["scores"], strict=True)
    seconds = f"{mean(row['training']):.0f}" if row["training"] else ""
    return (
        f"| {place} | {mean(errors):.2g} ± {pstdev(errors):.1g} | "
        f"{mean(decibels):.1f} ± {pstdev(decibels):.1f} | {mean(likeness):.3f} | {failed} of {failed + len(errors)} | "
        f"{mean(spent):.2f} | {seconds} | {row['pairs']} | {row['seeds']} |"
    )


if __name__ == "__main__":
    main()
