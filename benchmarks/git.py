"""GIT, LTI, IG and GIT+IG on CIFAR-10, scaled down for a CPU. Run: python benchmarks/git.py [--seeds 2]."""

import argparse
import os
import platform
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, pstdev

import torch

from seepage.attacks.blueprint import InverterKind, draw_blueprint
from seepage.attacks.git import ExactGIT
from seepage.attacks.inverter import build_module
from seepage.attacks.matching import ig
from seepage.attacks.publicdata import NearestPublic, PublicMean
from seepage.attacks.training import Training, train_inverter
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr, ssim
from seepage.networks.zoo import build_network
from seepage.types import Attack, Outcome, PrivateBatch, ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "git.md"
FULL = 600  # iterations of IG here; GIT+IG gets a third
Score = tuple[float, float, float, float]


def main() -> None:
    """Run all cells and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--cells", default="lenet:sigmoid/1,lenet:sigmoid/2,lenet/1,lenet/2", help="network/b,...")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[str] = []
    learned = exact(options)
    for network, _, examples in (one.partition("/") for one in options.cells.split(",")):
        rows += cell(network, int(examples), options)
        print("\n".join(rows[-7:]), flush=True)
    head = (
        "# GIT on CIFAR-10, scaled down\n\n"
        f"Command: `python benchmarks/git.py --seeds {options.seeds} --pairs {options.pairs} "
        f"--batches {options.batches} --epochs {options.epochs} --cells {options.cells}`. This is far below the "
        "paper's scale (10,000 pairs, thousands of seconds on a GPU): "
        f"{options.pairs} public examples of the train file, {options.epochs} epochs for GIT and three times as many "
        f"for LTI, {options.batches} test batches a seed, {options.seeds} seeds (network, split, batches). Width 512 "
        f"for both. IG walks {FULL} iterations, GIT+IG {FULL // 3} with a first step of 0.01. Batch size known, labels "
        "restored by the label attacks, inputs in [0, 1]. Mean and deviation over batches. Machine: "
        f"{platform.machine()}, one thread of a busy shared machine, torch {torch.__version__}, no GPU.\n\n"
        "Not run: CIFAR ResNet, ViT, batch 4, noise, staleness, other public data, cells not named in the command.\n\n"
        "| network | b | attack | MSE | PSNR, dB | SSIM | failed | s a batch | training s |\n"
        "|---|--:|---|--:|--:|--:|--:|--:|--:|\n"
    )
    RESULTS.write_text(head + "\n".join(rows) + "\n" + learned, encoding="utf8")


def cell(name: str, examples: int, options: argparse.Namespace) -> list[str]:
    """All attacks on one network and batch size."""
    public = load_dataset(str(DATA / "cifar10" / "cifar10_train_batch1.npz"), normalize="none")
    private = load_dataset(str(DATA / "cifar10" / "cifar10_test.npz"), normalize="none")
    scores: dict[str, list[Score]] = defaultdict(list)
    failed: dict[str, int] = defaultdict(int)
    trained_in: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.seeds):
        chance = torch.Generator().manual_seed(seed)
        network = build_network(name, input_shape=public.input_shape, classes=10, seed=seed)
        given = public.batch(torch.randperm(len(public), generator=chance)[: options.pairs])
        attacks: dict[str, Attack] = {
            "public mean": PublicMean(inputs=given.inputs, examples=examples),
            "nearest public": NearestPublic(inputs=given.inputs, labels=given.labels, examples=examples),
        }
        for kind, word, epochs in ((InverterKind.LTI, "LTI", 3), (InverterKind.COARSE_GIT, "Coarse-GIT", 1)):
            started = time.perf_counter()
            blueprint = draw_blueprint(network, kind=kind, input_shape=(3, 32, 32), examples=examples)
            training = Training(epochs=epochs * options.epochs, seed=seed)
            attacks[word] = train_inverter(network, blueprint, given.inputs, given.labels, training=training).inverter
            trained_in[word].append(time.perf_counter() - started)
        attacks[f"IG, {FULL}"] = ig(iterations=FULL)
        attacks[f"IG, {FULL // 3}"] = ig(iterations=FULL // 3)
        attacks[f"Coarse-GIT + IG, {FULL // 3}"] = ig(iterations=FULL // 3, step=0.01, start=attacks["Coarse-GIT"])
        rows = torch.randperm(len(private), generator=chance)[: options.batches * examples].reshape(-1, examples)
        for row in rows:
            batch = private.batch(row)
            for word, attack in attacks.items():
                score = attacked(attack, network, batch)
                failed[word] += score is None
                scores[word] += [score] if score is not None else []
    return [line(f"{name} | {examples} | {word}", scores[word], failed[word], trained_in[word]) for word in attacks]


def attacked(attack: Attack, network: torch.nn.Module, batch: PrivateBatch) -> Score | None:
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


def line(place: str, scores: list[Score], failed: int, seconds: list[float]) -> str:
    """One row of the table, which begins with ``place``."""
    if not scores:
        return f"| {place} | | | | {failed} of {failed} | | |"
    errors, decibels, likeness, spent = zip(*scores, strict=True)
    return (
        f"| {place} | {mean(errors):.4f} ± {pstdev(errors):.4f} | "
        f"{mean(decibels):.1f} ± {pstdev(decibels):.1f} | {mean(likeness):.3f} | {failed} of {failed + len(scores)} | "
        f"{mean(spent):.2f} | {f'{mean(seconds):.0f}' if seconds else ''} |"
    )


def exact(options: argparse.Namespace) -> str:
    """Exact-GIT on a two-layer network: distance of Theta from the true weights, from a random start and from them."""
    public = load_dataset(str(DATA / "cifar10" / "cifar10_train_batch1.npz"), normalize="none")
    rows = []
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
            training = Training(epochs=options.epochs, seed=seed)
            done = train_inverter(network, blueprint, given.inputs, given.labels, training=training, module=module)
            rows.append(
                f"| {seed} | {'known weights' if known else 'random'} | {before:.2f} | "
                f"{module.distance_to(network):.2f} | "
                f"{done.held_out_errors[0]:.2e} | {min(done.held_out_errors):.2e} |"
            )
            print(rows[-1], flush=True)
    head = (
        "\n## Exact-GIT, MLP 3072-64-10 with sigmoid, batch 1\n\nDistance: |Theta - W| / |W|.\n\n"
        "| seed | start | distance before | distance after | held-out MSE, first epoch | best |\n"
        "|--:|---|--:|--:|--:|--:|\n"
    )
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
