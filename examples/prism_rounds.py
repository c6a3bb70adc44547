"""Draws the rounds of PRISM on bundled photographs. Run: python examples/prism_rounds.py [FILE.png]."""

import argparse
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.closing import choose
from seepage.attacks.disaggregation.directions import accept, complete
from seepage.attacks.disaggregation.found import Found
from seepage.attacks.disaggregation.layerattack import LEAST_SHARE
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.solution import Solution
from seepage.attacks.disaggregation.unmixing import Unmixing
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.linalg.filters import FILTER_BANKS
from seepage.linalg.ica import ScaleMixture
from seepage.networks.zoo import build_network
from seepage.types import Observation, ThreatModel

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "prism-rounds.png"
NAMES = ("mixtures", "guesses", "exact")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round began with and came to: rows of images ``[k, n]``, and how many directions were known after it."""

    mixtures: Tensor
    guesses: Tensor
    known: int


def observe(dataset: Dataset, batch_size: int, width: int, seed: int) -> Observation:
    """What the server has: the network it sent out, and the gradient that came back."""
    network = build_network(f"mlp:{width},100,100", input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    batch = dataset.batch(detailed(dataset)[torch.randperm(len(dataset) // 2, generator=chance)[:batch_size]])
    update = FedSGD()(network, batch, chance)
    return ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=dataset.classes)


def detailed(dataset: Dataset) -> Tensor:
    """The half of the crops whose neighbouring pixels differ most; many others are plain sky, one like another."""
    inputs = dataset.inputs
    slope = (inputs[..., 1:] - inputs[..., :-1]).abs().flatten(1).mean(dim=1)
    return slope.argsort(descending=True)[: len(inputs) // 2]


def play(mixture: Mixture, found: Found, shape: tuple[int, ...], chance: torch.Generator, most: int) -> list[Round]:
    """Unmix what is left, round, deflate; the next filter when one finds nothing."""
    rounds: list[Round] = []
    banks = iter(FILTER_BANKS)
    bank = next(banks)
    while len(found) < mixture.batch_size and len(rounds) < most:
        unmixing = Unmixing(bank=bank, contrast=ScaleMixture(), shape=shape, samples=32_768)
        basis = mixture.missing(found.directions)
        state = chance.get_state()  # so that the guesses drawn are those of the turn
        guesses = unmixing.guess(mixture, found, chance, steps=60)
        chance.set_state(state)
        if accept(mixture, found, unmixing(mixture, found, chance, effort=1).directions):
            right = mixture.factors.right
            rounds.append(Round(mixtures=basis @ right, guesses=guesses @ right, known=len(found)))
        elif (other := next(banks, None)) is not None:
            bank = other
        else:
            break
    complete(mixture, found, chance)
    return rounds


def examples_in_order_found(mixture: Mixture, found: Found, solution: Solution) -> list[int]:
    """For each direction the example of the solution that it is, -1 if it was not chosen."""
    columns = found.directions @ mixture.factors.left.T  # [f, m], errors up to scale
    alike = torch.nn.functional.cosine_similarity(columns[:, None], solution.errors[None], dim=2).abs()
    best = alike.max(dim=1)
    return [int(index) if float(value) > 1 - 1e-6 else -1 for value, index in zip(*best, strict=True)]


def aligned(guesses: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """For each of ``inputs [k, n]`` its best guess, in its sign and size, and how well they correlate."""
    cosine = torch.nn.functional.normalize(inputs, dim=1) @ torch.nn.functional.normalize(guesses, dim=1).T
    best = cosine.abs().argmax(dim=1)
    value = cosine.gather(1, best[:, None])
    scale = inputs.norm(dim=1, keepdim=True) / guesses[best].norm(dim=1, keepdim=True)
    return guesses[best] * scale * value.sign(), value[:, 0].abs()


def tiles(dataset: Dataset, rows: Tensor) -> list[Tensor]:
    """Rows ``[k, n]`` as images ``[h, w, 3]`` in [0, 1]."""
    images = dataset.normalization.invert(rows.float().reshape(-1, *dataset.input_shape)).clamp(0, 1)
    return list(images.permute(0, 2, 3, 1))


def columns_of(known: list[int], order: list[int], columns: int) -> list[int]:
    """Places in ``order`` to show: as many of each round, in the order found."""
    shown: list[int] = []
    for before, after in zip([0, *known], [*known, len(order)], strict=True):
        places = [place for place in range(before, after) if order[place] >= 0]
        shown += places[: columns // len(known)]
    return shown[:columns]


def draw(
    dataset: Dataset, rounds: list[Round], *, solution: Solution, order: list[int], columns: int, path: Path
) -> None:
    """Three rows a round; a column is an example, but for the mixtures, which belong to nobody."""
    shown = columns_of([played.known for played in rounds], order, columns)
    truth = solution.inputs[[order[place] for place in shown]]
    figure, panels = plt.subplots(
        3 * len(rounds),
        len(shown),
        figsize=(0.62 * len(shown) + 0.9, 0.62 * 3 * len(rounds) + 0.1),
        gridspec_kw={"wspace": 0.04, "hspace": 0.04, "left": 0.13, "right": 0.995, "top": 0.99, "bottom": 0.01},
        squeeze=False,
    )
    before = 0
    for number, played in enumerate(rounds):
        mixtures = played.mixtures * (truth.norm(dim=1).mean() / played.mixtures.norm(dim=1, keepdim=True))
        spread = torch.linspace(0, len(mixtures) - 1, min(len(shown), len(mixtures))).round().int().tolist()
        guesses, _ = aligned(played.guesses, truth)
        lines = (tiles(dataset, mixtures[spread]), tiles(dataset, guesses), tiles(dataset, truth))
        for kind, images in enumerate(lines):
            for column, (panel, place) in enumerate(zip(panels[3 * number + kind], shown, strict=True)):
                panel.set_xticks([])
                panel.set_yticks([])
                panel.spines[:].set_visible(kind == 2 and before <= place < played.known)
                panel.spines[:].set(color="#0072b2", linewidth=2)
                if (column < len(images), place >= before, place < played.known)[kind]:
                    panel.imshow(images[column].numpy(), interpolation="nearest")
            note = f"round {number + 1}\n" if kind == 0 else ""
            note += f"{played.known} exact" if kind == 2 else NAMES[kind]
            panels[3 * number + kind][0].set_ylabel(note, rotation=0, ha="right", va="center", fontsize=9)
        before = played.known
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(buffer).convert("RGB").quantize(192, method=Image.Quantize.MEDIANCUT)
    picture.save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Attack one batch, print the rounds and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, nargs="?", default=FIGURE)
    parser.add_argument("--batch-size", type=int, default=56)
    parser.add_argument("--width", type=int, default=185)
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = load_dataset("photos", size=32)
    observation = observe(dataset, options.batch_size, options.width, options.seed)
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    chance = torch.Generator().manual_seed(options.seed)
    mixture = mix(layer, least_share=LEAST_SHARE, generator=chance)
    assert mixture is not None
    b = mixture.batch_size
    found = Found.nothing(mixture.L)
    rounds = play(mixture, found, observation.input_shape, chance, options.rounds)
    solution = choose(mixture, observation, found, chance)
    for number, played in enumerate(rounds):
        print(f"round {number + 1}: {len(played.mixtures)} mixtures, {played.known} of {b} directions known after it")
    if solution is None:
        print("No set of directions explains the update: nothing to draw.")
        return
    print(f"{int(solution.certified.sum())} of {b} examples certified")
    if rounds:
        order = examples_in_order_found(mixture, found, solution)
        draw(dataset, rounds, solution=solution, order=order, columns=options.columns, path=options.path)
        print(f"figure: {options.path}")


if __name__ == "__main__":
    main()
