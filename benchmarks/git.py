"""GIT, LTI, IG and GIT+IG on CIFAR-10, scaled down for a CPU. Run: python benchmarks/git.py --part attacks."""

import argparse
import json
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
from seepage.attacks.disaggregation import Budget
from seepage.attacks.git import ExactGIT
from seepage.attacks.inverter import Inverter, build_module
from seepage.attacks.matching import dlg, ig
from seepage.attacks.publicdata import NearestPublic, PublicMean
from seepage.attacks.training import Training, train_inverter
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr, ssim
from seepage.networks.zoo import build_network
from seepage.types import Attack, Outcome, PrivateBatch, ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "git.md"
ROWS = RESULTS.with_suffix(".json")
FULL = 600  # iterations of IG here; GIT+IG gets a third
Row = dict[str, Any]
Score = tuple[float, float, float, float]


def main() -> None:
    """Run one part, replace its rows in the JSON file, and write the page from all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("attacks", "exact", "page"), default="attacks")
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
            "nearest public": NearestPublic(inputs=given.inputs, labels=given.labels, examples=examples),
        }
        for kind, word in ((InverterKind.LTI, "LTI"), (InverterKind.COARSE_GIT, "Coarse-GIT")):
            tried[word], spent = trained(network, kind, given, examples=examples, seconds=options.seconds, seed=seed)
            trained_in[word].append(spent)
        tried[f"DLG, {FULL}"] = dlg(starts=2, budget=Budget(samples=FULL))
        tried[f"IG, {FULL}"] = ig(iterations=FULL)
        tried[f"IG, {FULL // 3}"] = ig(iterations=FULL // 3)
        tried[f"Coarse-GIT + IG, {FULL // 3}"] = ig(iterations=FULL // 3, step=0.01, start=tried["Coarse-GIT"])
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
    """An attack network after about so many seconds, and the seconds: one epoch is timed, then the whole is planned."""
    blueprint = draw_blueprint(network, kind=kind, input_shape=tuple(given.inputs.shape[1:]), examples=examples)
    started = time.perf_counter()
    train_inverter(network, blueprint, given.inputs, given.labels, training=Training(epochs=1, seed=seed))
    epochs = max(1, round(seconds / (time.perf_counter() - started)))
    training = Training(epochs=epochs, patience=epochs, seed=seed)
    started = time.perf_counter()
    found = train_inverter(network, blueprint, given.inputs, given.labels, training=training)
    return found.inverter, time.perf_counter() - started


def attacked(attack: Attack, network: nn.Module, batch: PrivateBatch) -> Score | None:
    """MSE, PSNR, SSIM and seconds, ``None`` if it failed."""
    chance = torch.Generator().manual_seed(0)
    observation = ThreatModel(batch_size=True).view(
        network=network,
        update=FedSGD()(network, batch, chance),
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
                | {"first": found.held_out_errors[0], "best": min(found.held_out_errors)}
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
        "are of the test file. Width 512 for both attack networks, which train for about the same seconds (one epoch "
        f"is timed, then the number of epochs planned). IG walks {FULL} iterations, GIT+IG {FULL // 3} with a first "
        f"step of 0.01, DLG at most {FULL} directions of L-BFGS in at most 2 starts. Batch size known, labels "
        "restored by the label attacks (DLG walks them along), inputs in [0, 1]. Mean and deviation over attacked "
        f"batches. Machine: {platform.machine()}, one thread of a busy shared machine, torch {torch.__version__}, no "
        "GPU.\n\n"
    )
    columns = (
        "| network | b | attack | MSE | PSNR, dB | SSIM | failed | s a batch | training s | pairs | seeds |\n"
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    tail = (
        "\n## Exact-GIT, MLP 3072-64-10 with sigmoid, batch 1\n\nDistance: |Theta - W| / |W|. 12 epochs.\n\n"
        "| seed | start | pairs | distance before | distance after | held-out MSE, first epoch | best |\n"
        "|--:|---|--:|--:|--:|--:|--:|\n"
    )
    return head + columns + "\n".join(table) + "\n" + (tail + "\n".join(learned) + "\n" if learned else "")


def line(row: Row) -> str:
    """One row of the table of attacks."""
    place, failed = f"{row['network']} | {row['examples']} | {row['attack']}", row["failed"]
    if not row["scores"]:
        return f"| {place} | | | | {failed} of {failed} | | | {row['pairs']} | {row['seeds']} |"
    errors, decibels, likeness, spent = zip(*row["scores"], strict=True)
    seconds = f"{mean(row['training']):.0f}" if row["training"] else ""
    return (
        f"| {place} | {mean(errors):.4f} ± {pstdev(errors):.4f} | "
        f"{mean(decibels):.1f} ± {pstdev(decibels):.1f} | {mean(likeness):.3f} | {failed} of {failed + len(errors)} | "
        f"{mean(spent):.2f} | {seconds} | {row['pairs']} | {row['seeds']} |"
    )


if __name__ == "__main__":
    main()
