"""GIT, LTI, DLG, IG and GIT+IG, scaled down for a CPU. Run: python benchmarks/git.py --part attacks --cells CELL,...

A cell is ``NETWORK/B`` on CIFAR-10, or ``lfw64@NETWORK/B`` and ``photos64@NETWORK/B`` on faces and photos at 64 x 64.
"""

import argparse
import copy
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from git_page import page
from torch import nn

from seepage.attacks.blueprint import InverterKind, draw_blueprint
from seepage.attacks.budget import Budget
from seepage.attacks.chain import read_chain
from seepage.attacks.git import ExactGIT
from seepage.attacks.inverter import Inverter, build_module
from seepage.attacks.matching import dlg, ig, refined
from seepage.attacks.publicdata import NearestPublic, PublicMean
from seepage.attacks.solvedgit import SolvedGIT
from seepage.attacks.training import Training, train_inverter
from seepage.attacks.vitpatches import ViTPatches
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr, ssim
from seepage.networks.architectures import ViT
from seepage.networks.zoo import build_network
from seepage.types import (
    Attack,
    GradientUpdate,
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
RESULTS = Path(__file__).parent / "results" / "git.md"
ROWS = RESULTS.with_suffix(".json")
FULL = 600  # iterations of IG at LeNet; GIT+IG gets a third
DEEP = 200  # the same at networks with more layers, where a step takes ten times as long
Row = dict[str, Any]
Score = tuple[float, float, float, float]


def main() -> None:
    """Run one part, replace its rows in the JSON file, and write the page from all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("attacks", "exact", "robust", "page"), default="attacks")
    parser.add_argument("--cells", default="lenet:sigmoid/1", help="[data@]network/b,...")
    parser.add_argument("--seeds", default="0,1", help="Numbers; all cells of one seed before the next seed.")
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=120.0, help="Training of each attack network.")
    parser.add_argument("--only", default="", help="Attacks of which only those rows are measured again, by name: A;B.")
    parser.add_argument("--batches", type=int, default=4, help="Attacked, each seed.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    if options.part == "attacks":
        for seed in options.seeds:
            for cell in options.cells.split(","):
                attacks(cell, seed, options)
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


def attacks(cell: str, seed: int, options: argparse.Namespace) -> None:
    """All attacks on one network and batch size, with one seed."""
    where, _, size = cell.partition("/")
    source, _, name = where.rpartition("@")
    examples = int(size)
    public, private = split(source or "cifar10", options.pairs, seed)
    classes = int(max(public.labels.max(), private.labels.max())) + 1
    network = build_network(name, input_shape=tuple(public.inputs.shape[1:]), classes=classes, seed=seed)
    full = FULL if name.startswith("lenet") else DEEP
    wanted = set(options.only.split(";")) if options.only else set()
    tried, spent = candidates(network, public, (examples, full), wanted, seed=seed, seconds=options.seconds)
    scores: dict[str, list[Score | None]] = defaultdict(list)
    for rows in torch.arange(options.batches * examples).reshape(-1, examples):
        batch = PrivateBatch(inputs=private.inputs[rows], labels=private.labels[rows])
        for word, attack in tried.items():
            scores[word].append(attacked(attack, network, batch, classes=classes))
        for word in tried:
            row = {"scores": scores[word], "training": spent.get(word)}
            row |= {"pairs": len(public), "walk": full, "seconds": options.seconds}
            place = {"data": source or "cifar10", "network": name, "examples": examples, "seed": seed}
            keep([row], part="attacks", **place, attack=word)
    print(f"{cell}: seed {seed} done", flush=True)


def candidates(
    network: nn.Module, public: PrivateBatch, sizes: tuple[int, int], wanted: set[str], *, seed: int, seconds: float
) -> tuple[dict[str, Attack], dict[str, float]]:
    """The wanted attacks (all if empty) for a batch size and IG's iterations; CPU seconds of what was trained."""
    examples, full = sizes
    near = 1000 if full == FULL else 200
    tried: dict[str, Attack] = {
        "public mean": PublicMean(inputs=public.inputs, examples=examples),
        "nearest public": NearestPublic(inputs=public.inputs[:near], labels=public.labels[:near], examples=examples),
    }
    spent: dict[str, float] = {}
    for kind, word in ((InverterKind.LTI, "LTI"), (InverterKind.COARSE_GIT, "Coarse-GIT")):
        if not wanted or word in wanted:
            tried[word], spent[word] = trained(network, kind, public, examples=examples, seconds=seconds, seed=seed)
    tried["DLG"] = dlg(starts=2, budget=Budget(samples=full if full == FULL else full // 4))
    tried["IG"] = ig(iterations=full)
    tried["IG, a third"] = ig(iterations=full // 3)
    if "Coarse-GIT" in tried:
        tried["Coarse-GIT"] = Remembered(tried["Coarse-GIT"])
        tried["Coarse-GIT + IG, a third"] = refined(tried["Coarse-GIT"], iterations=full // 6)  # two gradients each
    if examples == 1 and isinstance(network, ViT):
        tried["ViT-patches"] = ViTPatches()
    if examples == 1 and not isinstance(read_chain(network, public.inputs.shape[1:]), Obstacle):
        tried["Solved-GIT"] = SolvedGIT(public=public.inputs)
    return {word: attack for word, attack in tried.items() if not wanted or word in wanted}, spent


class Remembered:
    """An attack that is asked for the same update once: GIT+IG starts where GIT, measured just before, has ended."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._last: tuple[GradientUpdate, Reconstruction] | None = None

    @property
    def name(self) -> str:
        """The attack's."""
        return self._attack.name

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """The attack's."""
        return self._attack.obstacles(observation)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """The attack's."""
        update = observation.latest.update
        if self._last is None or any(not value.equal(self._last[0][name]) for name, value in update.items()):
            self._last = update, self._attack(observation, generator=generator, progress=progress)
        return self._last[1]


def split(source: str, pairs: int, seed: int) -> tuple[PrivateBatch, PrivateBatch]:
    """Public examples, mirrored too where there are few, and private ones, drawn by the seed."""
    chance = torch.Generator().manual_seed(seed)
    if source == "cifar10":
        public, private = cifar("train_batch1"), cifar("test")
        given = public.batch(torch.randperm(len(public), generator=chance)[:pairs])
        return given, private.batch(torch.randperm(len(private), generator=chance)[:64])
    if source == "lfw64":
        whole = load_dataset(str(DATA / "lfw" / "images"), size=64, normalize="none")
    else:
        whole = load_dataset(str(DATA / "imagenet64" / "imagenet64_500.npz"), normalize="none")
    order = torch.randperm(len(whole), generator=chance)
    kept, given = whole.batch(order[:40]), whole.batch(order[40:])
    inputs = torch.cat([given.inputs, given.inputs.flip(-1)])
    # A class an image would leave nothing to learn: the labels of photos are folded to ten.
    fold = whole.classes if source == "lfw64" else 10
    both = PrivateBatch(inputs=inputs, labels=torch.cat([given.labels, given.labels]) % fold)
    return both, PrivateBatch(inputs=kept.inputs, labels=kept.labels % fold)


def trained(
    network: nn.Module, kind: InverterKind, given: PrivateBatch, *, examples: int, seconds: float, seed: int
) -> tuple[Inverter, float]:
    """An attack network after about so many CPU seconds, and those; two short runs on a tenth are timed first."""
    blueprint = draw_blueprint(network, kind=kind, input_shape=tuple(given.inputs.shape[1:]), examples=examples)
    few = max(40 * examples, len(given) // 10)
    spent = []
    for epochs in (1, 2):  # what comes before the first epoch is not counted twice
        started = time.process_time()
        training = Training(epochs=epochs, patience=epochs, seed=seed)
        train_inverter(network, blueprint, given.inputs[:few], given.labels[:few], training=training)
        spent.append(time.process_time() - started)
    each = max(1e-3, spent[1] - spent[0]) * len(given) / few
    epochs = max(1, round((seconds - max(0.0, spent[0] - each * few / len(given))) / each))
    training = Training(epochs=epochs, patience=epochs, seed=seed)
    started = time.process_time()
    found = train_inverter(network, blueprint, given.inputs, given.labels, training=training)
    return found.inverter, time.process_time() - started


def robust(name: str, options: argparse.Namespace) -> None:
    """One example: noised gradients, pairs of other data, parameters that moved on after the training of the attack."""
    public, private = cifar("train_batch1"), cifar("test")
    other = load_dataset(str(DATA / "cifar100" / "cifar100_test.npz"), normalize="none")
    wanted = set(options.only.split(";")) if options.only else set()
    for seed in options.seeds:
        found: dict[tuple[str, str], list[Score | None]] = defaultdict(list)
        chance = torch.Generator().manual_seed(seed)
        network = build_network(name, input_shape=public.input_shape, classes=10, seed=seed)
        order = torch.randperm(len(public), generator=chance)
        given, rest = public.batch(order[: options.pairs]), order[options.pairs :]
        foreign = other.batch(torch.randperm(len(other), generator=chance)[: options.pairs])
        foreign = PrivateBatch(inputs=foreign.inputs, labels=foreign.labels % 10)  # any label makes a gradient
        tried: dict[str, Attack] = {"public mean": PublicMean(inputs=given.inputs)}
        for kind, word in ((InverterKind.LTI, "LTI"), (InverterKind.COARSE_GIT, "Coarse-GIT")):
            for data, source in ((given, ""), (foreign, ", pairs of CIFAR-100")):
                if not wanted or word + source in wanted:
                    tried[word + source], _ = trained(
                        network, kind, data, examples=1, seconds=options.seconds, seed=seed
                    )
        tried["Solved-GIT"] = SolvedGIT(public=given.inputs)
        tried[f"IG, {FULL // 3}"] = ig(iterations=FULL // 3)
        tried = {word: attack for word, attack in tried.items() if not wanted or word in wanted}
        moved = {steps: trained_on(network, public, rest, steps) for steps in (1, 10, 100)}
        for row in torch.randperm(len(private), generator=chance)[: options.batches]:
            batch = private.batch(row[None])
            for word, attack in tried.items():
                cases = {"none": (network, 0.0)}
                if "CIFAR" not in word:
                    cases |= {f"noise {share:g}": (network, share) for share in (1e-3, 1e-2, 1e-1)}
                    cases |= {f"{steps} steps on": (later, 0.0) for steps, later in moved.items()}
                cases["10 steps on, noise 0.01"] = moved[10], 1e-2
                for case, (victim, noise) in cases.items():
                    score = attacked(attack, victim, batch, noise=noise)
                    found[word, case].append(score)
        done = [{"case": case, "scores": scores, "pairs": options.pairs} for (_, case), scores in found.items()]
        for word in tried:
            own = [row for row, (attack, _) in zip(done, found, strict=True) if attack == word]
            keep(own, part="robust", network=name, seed=seed, attack=word)
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


def attacked(
    attack: Attack, network: nn.Module, batch: PrivateBatch, *, noise: float = 0.0, classes: int = 10
) -> Score | None:
    """MSE, PSNR, SSIM and seconds, ``None`` if it failed."""
    chance = torch.Generator().manual_seed(0)
    update = FedSGD()(network, batch, chance)
    assert isinstance(update, GradientUpdate)
    observation = ThreatModel(batch_size=True).view(
        network=network,
        update=noised(update, noise) if noise else update,
        batch=batch,
        rule=FedSGD(),
        classes=classes,
        bounds=(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)),
    )
    if attack.obstacles(observation):
        return None  # counted as failed: it gives nothing here
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
    for seed in options.seeds:
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


if __name__ == "__main__":
    main()
