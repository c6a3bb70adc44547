"""Figures of docs/attacks/git.md: strips, convergence, training. Run: python benchmarks/git_figures.py.

The strips show the package's own photographs (the attack networks are trained on CIFAR-10), the curves CIFAR-10.
"""

from pathlib import Path
from statistics import median

import matplotlib as mpl
import torch
from git import cifar
from matplotlib.figure import Figure
from torch import Tensor, nn

from seepage.attacks.inverters.blueprint import InverterKind, draw_blueprint
from seepage.attacks.matching import ig, refined
from seepage.attacks.solvedgit import SolvedGIT
from seepage.attacks.training import Trained, Training, train_inverter
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import psnr
from seepage.networks.zoo import build_network
from seepage.types import Attack, Observation, PrivateBatch, ThreatModel

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
PAIRS, IMAGES, STEPS = 3000, 4, 200
mpl.rcParams["svg.hashsalt"] = "seepage"  # a figure drawn again is the same file


def main() -> None:
    """Train on CIFAR-10, attack, draw."""
    torch.set_num_threads(1)
    FIGURES.mkdir(exist_ok=True)
    network = build_network("lenet:sigmoid", input_shape=(3, 32, 32), classes=10, seed=0)
    given = cifar("train_batch1").batch(torch.arange(PAIRS))
    trained = {
        "LTI": inverter(network, InverterKind.LTI, given, 18),
        "Coarse-GIT": inverter(network, InverterKind.COARSE_GIT, given, 6),
    }
    training_curves(trained)
    git = trained["Coarse-GIT"].inverter
    attacks: dict[str, Attack] = {
        "LTI": trained["LTI"].inverter,
        "Coarse-GIT": git,
        f"IG, {STEPS}": ig(iterations=STEPS),
        f"Coarse-GIT + IG, {STEPS // 2}": refined(git, iterations=STEPS // 2),
        "Solved-GIT": SolvedGIT(public=given.inputs),
    }
    photos = load_dataset("photos", size=32, normalize="none")
    rows = [photos.batch(torch.tensor([place])) for place in (0, 40, 75, 110)[:IMAGES]]
    strips(network, rows, attacks)
    private = cifar("test")
    convergence(network, [private.batch(torch.tensor([place])) for place in range(IMAGES)], git)


def inverter(network: nn.Module, kind: InverterKind, given: PrivateBatch, epochs: int) -> Trained:
    """One attack network."""
    blueprint = draw_blueprint(network, kind=kind, input_shape=(3, 32, 32))
    training = Training(epochs=epochs, patience=epochs)
    return train_inverter(network, blueprint, given.inputs, given.labels, training=training)


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


def strips(network: nn.Module, rows: list[PrivateBatch], attacks: dict[str, Attack]) -> None:
    """One row an image, one column an attack, PSNR below."""
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


def convergence(network: nn.Module, batches: list[PrivateBatch], start: Attack) -> None:
    """Median of the least matching loss so far over the gradients taken."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    walks: dict[str, tuple[Attack, str, int]] = {
        "IG from noise, first step 0.1": (ig(iterations=STEPS), "-", 1),
        "IG from noise, first step 0.01": (ig(iterations=STEPS, step=0.01), ":", 1),
        "IG from Coarse-GIT, signed Adam, first step 0.003": (ig(iterations=STEPS, step=0.003, start=start), "--", 1),
        "IG from Coarse-GIT, L-BFGS": (refined(start, iterations=STEPS // 2), "-.", 2),  # two gradients a direction
    }
    for word, (walk, style, each) in walks.items():
        curves: list[dict[int, float]] = []
        for batch in batches:
            curve: dict[int, float] = {}
            curves.append(curve)

            def note(
                done: int, total: int | None, said: str, curve: dict[int, float] = curve, each: int = each
            ) -> bool:
                if said.startswith("matching loss") and total is not None:
                    curve[each * done] = float(said.rsplit(maxsplit=1)[-1])
                return True

            walk(observe(network, batch), generator=torch.Generator().manual_seed(0), progress=note)
        places = sorted(set.intersection(*(set(curve) for curve in curves)))
        axes.semilogy(places, [median(curve[at] for curve in curves) for at in places], style, label=word)
    axes.set_xlabel("gradients taken (about)")
    axes.set_ylabel("1 - cosine of the gradients, least so far")
    axes.legend(fontsize=8)
    figure.savefig(FIGURES / "git-convergence.svg", metadata={"Date": None})


def training_curves(trained: dict[str, Trained]) -> None:
    """Error on training and held-out pairs by epoch."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for color, (word, done) in zip(("C0", "C1"), trained.items(), strict=True):
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
