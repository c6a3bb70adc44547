"""Figures of docs/attacks/git.md: strips, convergence, training. Run: python benchmarks/git_figures.py.

The strips show the package's own photographs (the attack networks are trained on CIFAR-10), the curves CIFAR-10.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import matplotlib as mpl
import torch
from git_cells import Remembered, cifar, trained
from matplotlib.figure import Figure
from torch import Tensor, nn

from seepage.attacks.inverters.blueprint import InverterKind
from seepage.attacks.matching import ig, refined
from seepage.attacks.solvedgit import SolvedGIT
from seepage.attacks.training import Trained
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import psnr
from seepage.networks.zoo import build_network
from seepage.types import Attack, Observation, PrivateBatch, ThreatModel

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
PAIRS, SECONDS = 5000, 20.0  # as in the table of git.py
LONG = 60.0  # CPU seconds of both trainings whose errors are drawn
PHOTOS, IMAGES, STEPS = (12, 40, 86, 94), 4, 200
mpl.rcParams["svg.hashsalt"] = "seepage"  # of two drawings only what differs differs


def main() -> None:
    """Train on CIFAR-10, attack, draw."""
    torch.set_num_threads(1)
    FIGURES.mkdir(exist_ok=True)
    given, private = cifar("train_batch1").batch(torch.arange(PAIRS)), cifar("test")
    networks = {
        word: build_network(name, input_shape=(3, 32, 32), classes=10, seed=0)
        for word, name in (("LeNet, sigmoid", "lenet:sigmoid"), ("LeNet, ReLU", "lenet"))
    }
    network = networks["LeNet, sigmoid"]
    done = {
        word: trained(each, InverterKind.COARSE_GIT, given, examples=1, seed=0, seconds=SECONDS)
        for word, each in networks.items()
    }
    starts = {word: Remembered(found.inverter) for word, (found, _) in done.items()}
    dataset = load_dataset("photos", size=32, normalize="none")
    rows = [dataset.batch(torch.tensor([place])) for place in PHOTOS]
    strips(network, rows, starts["LeNet, sigmoid"], given, done["LeNet, sigmoid"][1])
    convergence(networks, [private.batch(torch.tensor([place])) for place in range(IMAGES)], starts)
    kinds = {"LTI": InverterKind.LTI, "Coarse-GIT": InverterKind.COARSE_GIT}
    training_curves(
        {word: trained(network, kind, given, examples=1, seed=0, seconds=LONG)[0] for word, kind in kinds.items()}
    )


def observe(network: nn.Module, batch: PrivateBatch) -> Observation:
    """What the server has."""
    return ThreatModel(batch_size=True).view(
        network=network,
        update=FedSGD()(network, batch, torch.Generator().manual_seed(0)),
        batch=batch,
        rule=FedSGD(),
        classes=10,
        bounds=(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)),
    )


def strips(network: nn.Module, rows: list[PrivateBatch], git: Attack, given: PrivateBatch, spent: float) -> None:
    """One row an image, one column an attack, PSNR below; ``spent``: CPU seconds of the training of ``git``."""
    started = time.process_time()
    git(observe(network, rows[0]), generator=torch.Generator().manual_seed(0))
    spent += time.process_time() - started  # LTI gets the time of a call too
    lti, _ = trained(network, InverterKind.LTI, given, examples=1, seed=0, seconds=spent)
    attacks: dict[str, Attack] = {
        "LTI": lti.inverter,
        "Coarse-GIT": git,
        f"IG, {STEPS}": ig(iterations=STEPS),
        f"Coarse-GIT + IG, {STEPS // 2}": refined(git, iterations=STEPS // 2),
        "Solved-GIT": SolvedGIT(public=given.inputs),
    }
    figure = Figure(figsize=(1.5 * (len(attacks) + 1), 1.72 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(attacks) + 1)
    for line, batch in zip(axes, rows, strict=True):
        shown: list[tuple[str, Tensor | None]] = [("original", batch.inputs)]
        for word, attack in attacks.items():
            found = attack(observe(network, batch), generator=torch.Generator().manual_seed(0))
            shown.append((word, found.inputs))
        for at, (place, (word, image)) in enumerate(zip(line, shown, strict=True)):
            place.set_axis_off()
            if image is not None:
                place.imshow(image[0].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            said = "failed" if image is None else f"{float(psnr(image, batch.inputs)):.1f} dB"
            place.set_title(word if batch is rows[0] else "", fontsize=8)
            if at:
                place.text(0.5, -0.02, said, transform=place.transAxes, ha="center", va="top", fontsize=8)
    figure.savefig(FIGURES / "git-strips.png", dpi=90)


def convergence(networks: dict[str, nn.Module], batches: list[PrivateBatch], starts: Mapping[str, Attack]) -> None:
    """Median of the least matching loss so far over the gradients taken, and how near the images have come."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (title, network) in zip(figure.subplots(1, len(networks)), networks.items(), strict=True):
        start = starts[title]
        walks: dict[str, tuple[Attack, str, int]] = {
            "noise, signed Adam from 0.1": (ig(iterations=STEPS), "-", 1),
            "noise, signed Adam from 0.01": (ig(iterations=STEPS, step=0.01), ":", 1),
            "Coarse-GIT, signed Adam from 0.003": (ig(iterations=STEPS, step=0.003, start=start), "--", 1),
            "Coarse-GIT, L-BFGS": (refined(start, iterations=STEPS // 2), "-.", 2),  # two gradients a direction
        }
        for word, (walk, style, each) in walks.items():
            curves, near = zip(*(walked(walk, observe(network, batch), batch, each) for batch in batches), strict=True)
            places = sorted(set.union(*(set(curve) for curve in curves)))
            places = [at for at in places if at >= max(min(curve) for curve in curves)]
            losses = [median(curve[max(k for k in curve if k <= at)] for curve in curves) for at in places]
            axes.semilogy(places, losses, style, label=f"{word}: {median(near):.1f} dB")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("gradients taken (about)")
        axes.set_ylabel("1 - cosine, least so far")
        axes.legend(fontsize=7, title="IG from", title_fontsize=7)
    figure.savefig(FIGURES / "git-convergence.svg", metadata={"Date": None})


def walked(walk: Attack, seen: Observation, batch: PrivateBatch, each: int) -> tuple[dict[int, float], float]:
    """The least loss by the gradients taken, of which a step takes ``each``, and the PSNR at the end."""
    curve: dict[int, float] = {}

    def note(done: int, total: int | None, said: str) -> bool:
        if said.startswith("matching loss") and total is not None:
            curve[each * done] = float(said.rsplit(maxsplit=1)[-1])
        return True

    found = walk(seen, generator=torch.Generator().manual_seed(0), progress=note)
    assert found.inputs is not None
    return curve, float(psnr(found.inputs, batch.inputs))


def training_curves(trainings: dict[str, Trained]) -> None:
    """Error on training and held-out pairs by epoch."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for color, (word, done) in zip(("C0", "C1"), trainings.items(), strict=True):
        share = 1 / len(done.train_errors)  # both have the same seconds
        axes.semilogy([share * at for at in range(len(done.held_out_errors))], done.held_out_errors, color)
        axes.semilogy([share * (at + 1) for at in range(len(done.train_errors))], done.train_errors, f"{color}--")
        axes.plot([], [], color, label=f"{word}, held-out pairs ({len(done.train_errors)} epochs)")
        axes.plot([], [], f"{color}--", label=f"{word}, training pairs")
    axes.set_xlabel("share of the epochs")
    axes.set_ylabel("mean squared error")
    axes.legend(fontsize=8)
    figure.savefig(FIGURES / "git-training.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
