"""Which loss and optimizer find directions, and where the time of SPEAR++ goes. Run: python benchmarks/search.py."""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.closing import choose
from seepage.attacks.disaggregation.directions import accept
from seepage.attacks.disaggregation.found import Found
from seepage.attacks.disaggregation.layerattack import LEAST_SHARE
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.spearpp import SPEARPlusPlus, round_ends
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.linalg.dictionary import L1, L4, Huber, LogCosh, LogSum, SparsityLoss, sparse_directions
from seepage.linalg.rounding import least_directions
from seepage.linalg.sphere import FixedPoint, RiemannianAdam, SphereOptimizer, Subgradient
from seepage.networks.zoo import build_network
from seepage.types import Observation, ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "search.md"
LOSSES: dict[str, SparsityLoss] = {
    "annealed log-cosh": LogCosh(),
    "annealed Huber": Huber(),
    "annealed log-sum": LogSum(),
    "l1": L1(),
    "l4": L4(),
}
OPTIMIZERS: dict[str, SphereOptimizer] = {
    "Riemannian Adam, 100 steps": RiemannianAdam(),
    "subgradient, 400 steps": Subgradient(),
    "fixed point, 100 steps": FixedPoint(),
}
SIZES = ((24, 400), (64, 1000), (100, 1000))
STARTS = 256


def observe(dataset: Dataset, batch_size: int, width: int, seed: int) -> tuple[Observation, AttackedLayer]:
    """One client's gradient at a fresh network."""
    chance = torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance)[:batch_size])
    network = build_network(f"mlp:{width},400,400", input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    rule = FedSGD()
    update = rule(network, batch, chance)
    seen = ThreatModel().view(network=network, update=update, batch=batch, rule=rule, classes=dataset.classes)
    layer = find_relu_layer(seen)
    assert isinstance(layer, AttackedLayer)
    return seen, layer


def mixed(layer: AttackedLayer, seed: int) -> Mixture:
    """The layer's factors."""
    mixture = mix(layer, least_share=LEAST_SHARE, generator=torch.Generator().manual_seed(seed))
    assert mixture is not None
    return mixture


def first_round(mixture: Mixture, loss: SparsityLoss, optimizer: SphereOptimizer, seed: int) -> tuple[int, float]:
    """Different directions, accepted, from one round of starts at rows of ``L``; and seconds of the descent."""
    U = mixture.white
    rows = torch.randperm(len(U), generator=torch.Generator().manual_seed(seed))[:STARTS]
    started = time.perf_counter()
    ends = sparse_directions(U, U[rows], loss=loss, optimizer=optimizer)
    seconds = time.perf_counter() - started
    found = Found.nothing(mixture.L)
    accept(mixture, found, round_ends(mixture, found, ends))
    return len(found), seconds


def timed(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def parts(dataset: Dataset, batch_size: int, width: int) -> str:
    """One row: seconds of each part of a whole inversion, and of the floor, the factors and ``b`` kernels."""
    seen, layer = observe(dataset, batch_size, width, 0)
    mixture, found = mixed(layer, 0), Found.nothing(mixed(layer, 0).L)
    chance = torch.Generator().manual_seed(0)
    search = rounding = 0.0
    proposals = SPEARPlusPlus().propose(mixture, found, chance)
    while len(found) < batch_size and search < 60:
        started = time.perf_counter()
        proposed = next(proposals)
        middle = time.perf_counter()
        accept(mixture, found, proposed.directions)
        search, rounding = search + middle - started, rounding + time.perf_counter() - middle
    factor = timed(lambda: mixed(layer, 0))
    zeros = (found.directions @ mixture.L.T).abs() < 1e-4
    kernels = timed(lambda: least_directions(mixture.L, zeros, found.directions))
    choice = timed(lambda: choose(mixture, seen, found, chance))
    return (
        f"| {batch_size} | {width} | {len(found)} | {factor:.2f} | {search:.2f} | {rounding:.2f} | {choice:.2f} | "
        f"{factor + kernels:.2f} |\n"
    )


def main() -> None:
    """Both tables, the second as rows come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = load_dataset(str(DATA / "cifar10/cifar10_test.npz"))
    text = (
        f"# Losses, optimizers, and where the time goes\n\nCommand: `python benchmarks/search.py --seeds "
        f"{options.seeds} --threads {options.threads}`. CIFAR-10 normalised by channel, `mlp:m,400,400`, seeds 0 to "
        f"{options.seeds - 1}, every run counted. "
        f"Machine: {platform.machine()}, {os.cpu_count()} cores shared with other work, torch "
        f"{torch.__version__}, CPU.\n\n## One round of {STARTS} starts at rows of `L`\n\nShare of the batch's "
        "directions found, rounding included, and median seconds of the descent.\n\n| loss | optimizer | "
    )
    text += " | ".join(f"b = {b}, m = {m}" for b, m in SIZES) + " |\n|---|---|" + "---|" * len(SIZES) + "\n"
    mixtures = {
        size: [mixed(observe(dataset, *size, seed)[1], seed) for seed in range(options.seeds)] for size in SIZES
    }
    for loss_name, loss in LOSSES.items():
        for optimizer_name, optimizer in OPTIMIZERS.items():
            cells = []
            for size in SIZES:
                runs = [first_round(one, loss, optimizer, seed) for seed, one in enumerate(mixtures[size])]
                share = sum(count for count, _ in runs) / (size[0] * options.seeds)
                cells.append(f"{share:.2f}, {statistics.median(seconds for _, seconds in runs):.2f} s")
            text += f"| {loss_name} | {optimizer_name} | " + " | ".join(cells) + " |\n"
            print(text.splitlines()[-1], flush=True)
    text += (
        "\n## Parts of a whole inversion, seconds\n\nSeed 0. The floor is the factorisation and `b` kernels of size "
        "`b`. The choice holds the certificate with its replay.\n\n| b | m | directions | factor | search | rounding | "
        "choice | floor |\n|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    for size in (*SIZES, (210, 4000)):
        text += parts(dataset, *size)
        print(text.splitlines()[-1], flush=True)
        RESULTS.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
