"""What each part of PRISM is worth: filters, contrasts, deflation, float64. Run: python benchmarks/ablation.py."""

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean, median

import torch
from exact import CIFAR, RESULTS, Cell, load, mlp, prism
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.directions import accept, least_apart, round_inputs
from seepage.attacks.disaggregation.found import Found, Kept
from seepage.attacks.disaggregation.layerattack import LEAST_SHARE
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.unmixing import Unmixing
from seepage.data.sources import Dataset
from seepage.federated.rules import FedSGD
from seepage.linalg.filters import FILTER_BANKS, FilterBank
from seepage.linalg.ica import Contrast, ScaleMixture, SoftSign, Tanh
from seepage.linalg.nullspace import largest_leverage, merge_directions, zero_mask
from seepage.linalg.rounding import refine_directions, robust_null_directions
from seepage.networks.zoo import build_network
from seepage.types import ThreatModel

SIZE = 100
NEAR = 0.9  # cosine of a guess that is near
RAW = FilterBank(name="raw pixels", stencils=(((1.0,),),))
Rounding = Callable[[Mixture, Found, Tensor], None]  # (mixture, found, guesses [k, b]): adds to what is found


@dataclass(frozen=True, slots=True)
class Cube:
    """``y^3``: the classical contrast, kurtosis."""

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        return sources**3, 3 * sources.square().flatten(1).mean(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """PRISM's three steps with one of them changed.

    Args:
        title: what was changed.
        bank: filters of step 1.
        contrast: of step 1.
        momentum: of step 1.
        free_steps: of step 1, in which sources may be correlated.
        unit_rows: whether the rows of ``L`` are scaled to unit length, for step 2.
        rounding: step 2 and acceptance.
        deflate: whether step 3 is done.
        arm: the whole turn of PRISM, which adds a descent on the sphere.
    """

    title: str
    bank: FilterBank = FILTER_BANKS[0]
    contrast: Contrast = ScaleMixture()  # noqa: RUF009 - frozen
    momentum: float = 0.8
    free_steps: int = 20
    unit_rows: bool = True
    rounding: Rounding | None = None
    deflate: bool = True
    arm: bool = False


def round_in_float64(mixture: Mixture, found: Found, guesses: Tensor) -> None:
    """Step 2 as PRISM does it."""
    accept(mixture, found, round_inputs(mixture, guesses))


def round_in_float32(mixture: Mixture, found: Found, guesses: Tensor) -> None:
    """Kernels in float32; directions are then refined and accepted in float64."""
    accept(mixture, found, _float32_directions(mixture, guesses).double())


def all_in_float32(mixture: Mixture, found: Found, guesses: Tensor) -> None:
    """Kernels and refinement in float32; only zeros are counted, and acceptance decided, in float64."""
    rough = _float32_directions(mixture, guesses)
    directions = refine_directions(mixture.L.float(), rough, zero_tol=1e-3).double()
    zeros = zero_mask(mixture.L, directions, zero_tol=mixture.zero_tol)
    keep = zeros.sum(dim=1) >= mixture.least_zeros
    directions, zeros = directions[keep], zeros[keep]
    keep = merge_directions(directions, found.directions, coherence=1 - 1e-6)
    leverage = largest_leverage(mixture.L, zeros, rank_tol=mixture.rank_tol)
    unknown = torch.zeros(len(directions), dtype=torch.bool)
    kept = Kept(directions=directions, zeros=zeros.sum(dim=1), leverage=leverage, replayed=unknown)
    kept = kept.at(keep & kept.pinned)
    found.add(kept, apart=least_apart(mixture, kept.directions))


def _float32_directions(mixture: Mixture, guesses: Tensor) -> Tensor:
    height = guesses @ mixture.height.T + mixture.layer.bias[mixture.awake].double()
    size = height.square().mean(dim=1, keepdim=True).sqrt()
    trusted = (-height / (0.6 * size)).clamp(0.0, 1.0)  # as in round_inputs
    return robust_null_directions(mixture.L.float(), trusted.float())


VARIANTS = (
    Variant(title="steps 1 to 3 of PRISM"),
    Variant(title="PRISM's own turn, with a descent on the sphere besides", arm=True),
    Variant(title="raw pixels in place of derivatives", bank=RAW),
    *(Variant(title=f"filters: {bank.name}", bank=bank) for bank in FILTER_BANKS[1:]),
    Variant(title="guesses that stay uncorrelated", free_steps=0),
    Variant(title="contrast: soft sign of each sample by itself", contrast=SoftSign()),
    Variant(title="no momentum", momentum=0.0),
    Variant(title="soft sign, no momentum, uncorrelated", contrast=SoftSign(), momentum=0.0, free_steps=0),
    Variant(title="contrast: tanh(2 y)", contrast=Tanh()),
    Variant(title="contrast: tanh(y)", contrast=Tanh(sharpness=1.0)),
    Variant(title="contrast: y^3", contrast=Cube()),
    Variant(title="rows of L as they are, not of unit length", unit_rows=False),
    Variant(title="no deflation", deflate=False),
    Variant(title="kernels in float32, refined in float64", rounding=round_in_float32),
    Variant(title="all of step 2 in float32", rounding=all_in_float32),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One variant on one batch: likeness of the first guesses, near ones, directions after each turn, seconds."""

    likeness: float
    near: int
    known: list[int]
    seconds: float


def mixture_of(dataset: Dataset, batch_size: int, width: int, seed: int) -> tuple[Mixture, Tensor]:
    """One batch's mixture, and the truth ``[b, n]`` for the likeness alone."""
    shape, classes = dataset.input_shape, dataset.classes
    network = build_network(mlp(width, 3), input_shape=shape, classes=classes, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance)[:batch_size])
    update = FedSGD()(network, batch, chance)
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=classes)
    layer = find_relu_layer(view)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=LEAST_SHARE, generator=chance)
    assert mixture is not None
    return mixture, batch.inputs.flatten(1).double()


def run(
    variant: Variant, mixture: Mixture, truth: Tensor, shape: tuple[int, ...], *, turns: int, seconds: float, seed: int
) -> Run:
    """Some turns of one variant."""
    if not variant.unit_rows:
        mixture = replace(mixture, L=mixture.factors.left[mixture.awake])
    chance = torch.Generator().manual_seed(seed)
    found = Found.nothing(mixture.L)
    nothing = Found.nothing(mixture.L)
    unmixing = Unmixing(
        bank=variant.bank,
        contrast=variant.contrast,
        shape=shape,
        samples=32_768,
        momentum=variant.momentum,
        free_steps=variant.free_steps,
    )
    known: list[int] = []
    likeness, near, started = 0.0, 0, time.monotonic()
    while len(known) < turns and len(found) < mixture.batch_size and time.monotonic() - started < seconds:
        left = found if variant.deflate else nothing
        state = chance.get_state()
        guesses = unmixing.guess(mixture, left, chance, steps=60)
        if not known:
            true = normalize(truth @ mixture.factors.right.T, dim=1)
            best = (true @ normalize(guesses, dim=1).T).abs().max(dim=1).values
            likeness, near = float(best.mean()), int((best > NEAR).sum())
        if variant.arm:
            chance.set_state(state)
            accept(mixture, found, unmixing(mixture, left, chance, effort=1).directions)
        else:
            (variant.rounding or round_in_float64)(mixture, found, torch.cat([guesses, -guesses]))
        known.append(min(len(found), mixture.batch_size))
    return Run(likeness=likeness, near=near, known=known, seconds=time.monotonic() - started)


def main() -> None:
    """Run all variants, seed by seed, and write the table after each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=SIZE)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0, help="no new turn after so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load(Cell(attack=prism, batch_size=options.batch_size, network="", source=CIFAR))
    runs: dict[str, list[Run]] = {variant.title: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        mixture, truth = mixture_of(dataset, options.batch_size, options.width, seed)
        for variant in VARIANTS:
            latest = run(
                variant,
                mixture,
                truth,
                dataset.input_shape,
                turns=options.turns,
                seconds=options.seconds,
                seed=seed,
            )
            runs[variant.title].append(latest)
            print(seed, variant.title, latest, flush=True)
        write(runs, options)


def write(runs: dict[str, list[Run]], options: argparse.Namespace) -> None:
    """The table."""
    b, count = options.batch_size, len(next(iter(runs.values())))
    head = (
        "# What each part of PRISM is worth\n\n"
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/ablation.py --seeds {count} --batch-size {b} "
        f"--width {options.width} --turns {options.turns}`. CIFAR-10 test images, b = {b}, "
        f"`{mlp(options.width, 3)}` (m / b = {options.width / b:g}), PyTorch's default start, one fresh network and "
        f"batch a seed, seeds 0 to {count - 1}. At most {options.turns} turns of steps 1 to 3, none begun "
        f"after {options.seconds:.0f} s; no sphere search, no other filter or contrast takes over, as it does in PRISM "
        "itself. *Likeness*: mean over the examples of the best absolute cosine with a guess of the first turn (the "
        f"truth is used for this column and the next alone); *near*: examples that have a guess above {NEAR}, mean. "
        "*Found*: directions accepted, as a share of all, mean over the seeds "
        f"and the least of them. Machine: {platform.machine()}, one thread of {os.cpu_count()} cores shared with other "
        f"work, torch {torch.__version__}, CPU only; seconds show orders of magnitude.\n\n"
        f"| changed | likeness | near | found, 1 turn | found, {options.turns} turns | least | whole batches "
        "| median s |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    lines = []
    for title, done in runs.items():
        last = [item.known[-1] / b for item in done]
        lines.append(
            f"| {title} | {mean(item.likeness for item in done):.2f} | {mean(item.near for item in done):.0f} | "
            f"{mean(item.known[0] / b for item in done):.3f} | {mean(last):.3f} | {min(last):.2f} | "
            f"{sum(share == 1.0 for share in last)} of {len(done)} | {median(item.seconds for item in done):.1f} |"
        )
    name = "ablation.md" if b == SIZE else f"ablation-{b}.md"
    (RESULTS / name).write_text(head + "\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
