"""ViT-patches on the zoo's transformer, fresh and trained, under noise. Run: python benchmarks/vit_patches.py"""

import argparse
import os
import platform
import time
from pathlib import Path
from statistics import mean

import torch
from torch import nn

from seepage.attacks.matching import ig
from seepage.attacks.vitpatches import ViTPatches
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import psnr
from seepage.networks.zoo import build_network
from seepage.types import Attack, GradientUpdate, Observation, Outcome, PrivateBatch, ThreatModel

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "vit_patches.md"
WRONG = 1e-3  # of the spread: a certified image may not be off by more
HEAD = """# ViT-patches

Command: `python benchmarks/vit_patches.py`. The zoo's `vit` (width 96, 4 blocks; patches of 4 at 32 x 32, 8 at
64 x 64, 32 at 224 x 224), batch 1, float32 but where said, batch size known, labels not, inputs in [0, 1]. Seeds decide
network and images. "steps": of SGD at rate 0.1 on batches of 32 other images before. Noise: Gaussian, deviation as a
share of the whole gradient's root mean square. "beyond its bound": images further off than the six deviations that the
attack tells. "certified, wrong": off by more than 1e-3 of the spread.

"""
COLUMNS = (
    "| data | steps | dtype | noise | attack | median dB | least dB | labels right | certified | certified, wrong | "
    "beyond its bound | median s | images | seeds |\n|---|--:|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)


def main() -> None:
    """One line a case, written as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10, help="Each seed; a fifth of it at 224 x 224 and for IG.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[str] = []
    patches = ViTPatches()
    for name in ("cifar10", "lfw64", "photos224"):
        data = source(name)
        count = options.images if name != "photos224" else options.images // 5
        cases: list[tuple[int, torch.dtype, float, Attack, int]] = [
            (0, torch.float32, 0.0, patches, count),
            (0, torch.float64, 0.0, patches, count),
        ]
        if name != "photos224":
            cases.append((100, torch.float32, 0.0, patches, count))
        if name == "cifar10":
            cases += [(0, torch.float32, share, patches, count) for share in (1e-5, 1e-4, 1e-3, 1e-2)]
            cases.append((0, torch.float32, 0.0, ig(iterations=200), count // 5))
        for steps, dtype, noise, attack, images in cases:
            lines.append(line(name, data, (steps, dtype, noise), attack, (images, options.seeds)))
            print(lines[-1], flush=True)
            where = (
                f"Machine: {platform.machine()}, one thread of a busy machine, torch {torch.__version__}, no GPU.\n\n"
            )
            RESULTS.write_text(HEAD + where + COLUMNS + "\n".join(lines) + "\n", encoding="utf8")


def source(name: str) -> Dataset:
    """CIFAR-10's test file, faces, or photographs."""
    if name == "cifar10":
        return load_dataset(str(DATA / "cifar10" / "cifar10_test.npz"), normalize="none")
    if name == "lfw64":
        return load_dataset(str(DATA / "lfw" / "images"), size=64, normalize="none")
    return load_dataset(str(DATA / "imagenet224" / "images"), size=224, normalize="none")


def line(
    name: str, data: Dataset, case: tuple[int, torch.dtype, float], attack: Attack, counts: tuple[int, int]
) -> str:
    """One line of the table."""
    (steps, dtype, noise), (images, seeds) = case, counts
    rows = []
    for seed in range(seeds):
        chance = torch.Generator().manual_seed(seed)
        classes = max(10, int(data.labels.max()) + 1)
        network = build_network("vit", input_shape=tuple(data.input_shape), classes=classes, seed=seed)
        order = torch.randperm(len(data), generator=chance)
        trained(network, data, order[images:], steps)
        for row in order[:images]:
            batch = data.batch(row[None])
            batch = PrivateBatch(inputs=batch.inputs.to(dtype), labels=batch.labels)
            rows.append(attacked(attack, observe(network.to(dtype), batch, classes, noise, chance), batch))
    decibels, right, certified, wrong, beyond, spent = (sorted(column) for column in zip(*rows, strict=True))
    middle = len(rows) // 2
    first = f"| {name} | {steps} | {str(dtype).removeprefix('torch.')} | {noise:g} | {attack.name} "
    scores = f"| {decibels[middle]:.1f} | {decibels[0]:.1f} | {mean(right):.0%} | {sum(certified)} | {sum(wrong)} "
    return f"{first}{scores}| {sum(beyond)} | {spent[middle]:.1f} | {len(rows)} | {seeds} |"


def trained(network: nn.Module, data: Dataset, rows: torch.Tensor, steps: int) -> None:
    """So many steps of SGD on other images."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(steps):
        batch = data.batch(rows[(torch.arange(32) + 32 * step) % len(rows)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch.inputs), batch.labels).backward()
        optimizer.step()
    optimizer.zero_grad()


def observe(
    network: nn.Module, batch: PrivateBatch, classes: int, noise: float, chance: torch.Generator
) -> Observation:
    """What the server has."""
    update = FedSGD()(network, batch, chance)
    numbers = sum(value.numel() for value in update.values())
    size = (sum(float(value.square().sum()) for value in update.values()) / numbers) ** 0.5
    if noise:
        update = GradientUpdate(
            {name: value + noise * size * torch.randn(value.shape, generator=chance) for name, value in update.items()}
        )
    bounds = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    model = ThreatModel(batch_size=True)
    return model.view(network=network, update=update, batch=batch, rule=FedSGD(), classes=classes, bounds=bounds)


def attacked(attack: Attack, seen: Observation, batch: PrivateBatch) -> tuple[float, bool, bool, bool, bool, float]:
    """PSNR (0 if it failed), label right, certified, certified though wrong, beyond its own bound, seconds."""
    started = time.perf_counter()
    if attack.obstacles(seen):
        raise SystemExit(f"{attack.obstacles(seen)}")
    found = attack(seen, generator=torch.Generator().manual_seed(0))
    spent = time.perf_counter() - started
    if found.inputs is None or found.outcome is Outcome.FAILED:
        return 0.0, False, False, False, False, spent
    truth = batch.inputs
    off = float((found.inputs - truth).abs().max() / (truth.max() - truth.min()))
    certified = bool(found.certified.all())
    right = found.labels is not None and found.labels.equal(batch.labels)
    beyond = off > 6 * float(found.stats.get("deviation", 1.0))
    return float(psnr(found.inputs, truth).clamp(max=150)), right, certified, certified and off > WRONG, beyond, spent


if __name__ == "__main__":
    main()
