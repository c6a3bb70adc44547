"""How far an image may be off until its gradient says nothing of the client's. Run: python benchmarks/smoothness.py.

An image on the line between the client's and the public mean has a gradient too. Where its cosine with the client's
falls to that of any other image with its label, neither matching nor a map learned from public images can lead there.
"""

import platform
from pathlib import Path
from statistics import mean

import torch
from git_cells import split
from torch import Tensor, nn

from seepage.attacks.inverters.gradientviews import channel_products
from seepage.attacks.inverters.pairs import Pairs
from seepage.metrics import psnr
from seepage.networks.layers import read_layers
from seepage.networks.zoo import build_network

RESULTS = Path(__file__).parent / "results" / "smoothness.md"
NETWORKS = ("lenet:sigmoid", "lenet", "vit", "resnet20", "resnet20, eval")
EVAL = ", eval"
SHARES = (0.99, 0.97, 0.9, 0.7, 0.5, 0.25, 0.0)  # of the image; the rest is the public mean
SEEDS, IMAGES, PUBLIC = 3, 10, 100


def main() -> None:
    """Measure and write the page."""
    torch.set_num_threads(1)
    rows = []
    for name in NETWORKS:
        seen = [one(name, seed) for seed in range(SEEDS)]
        for place, word in enumerate(("gradient", "products of channels")):
            cells = [f"{mean(each[place][at] for each in seen):.2f}" for at in range(len(SHARES) + 1)]
            rows.append(f"| {name} | {word} | {' | '.join(cells)} |")
        decibels = [mean(each[2][at] for each in seen) for at in range(len(SHARES))]
        print(rows[-2:], decibels, flush=True)
    head = (
        "# How smooth gradients are\n\nCommand: `python benchmarks/smoothness.py`. CIFAR-10, batch 1, networks as "
        f"PyTorch starts them, in training mode but for `eval`; mean over {SEEDS} seeds of {IMAGES} images. The image "
        "is moved on a line to the public mean (label kept). Gradient: cosine of the whole gradient with that of the "
        f"image, both as differences from the mean over {PUBLIC} public images. Products of channels: the same of "
        "`gW^T gW` with trace one, mean over all layers that see more than one row an example. Last column: another "
        f"image with the same label. Machine: {platform.machine()}, CPU, torch {torch.__version__}.\n\n"
    )
    shares = " | ".join(f"{value:.0f} dB" for value in decibels)
    table = f"| network | of | {shares} | another |\n|---|---|{'--:|' * (len(SHARES) + 1)}\n"
    RESULTS.write_text(head + table + "\n".join(rows) + "\n", encoding="utf8")


def one(name: str, seed: int) -> tuple[list[float], list[float], list[float]]:
    """Cosines of gradients and of products of channels, by share and last of another image; PSNR by share."""
    public, private = split("cifar10", PUBLIC, seed)
    network = build_network(name.removesuffix(EVAL), input_shape=(3, 32, 32), classes=10, seed=seed)
    network.train(not name.endswith(EVAL))
    wide = [layer.weight for layer in read_layers(network, (3, 32, 32)).layers if layer.positions * layer.calls > 1]
    center = public.inputs.mean(dim=0)
    label = torch.tensor([3])
    usual = views(network, wide, public.inputs, label)
    found: tuple[list[list[float]], list[list[float]], list[list[float]]] = ([], [], [])
    for image, another in zip(private.inputs[:IMAGES], private.inputs[IMAGES : 2 * IMAGES], strict=True):
        moved = torch.stack([image, *(share * image + (1 - share) * center for share in SHARES), another])
        whole, *layers = (
            cosines(own - other.mean(dim=0))
            for own, other in zip(views(network, wide, moved, label), usual, strict=True)
        )
        found[0].append(whole)
        found[1].append([mean(values) for values in zip(*layers, strict=True)])
        found[2].append(psnr(moved[1:-1], image.expand(len(SHARES), *image.shape)).tolist())
    return tuple([mean(values) for values in zip(*each, strict=True)] for each in found)  # type: ignore[return-value]


def views(network: nn.Module, wide: list[str], inputs: Tensor, label: Tensor) -> list[Tensor]:
    """Of each image alone ``[k, n]``: its whole gradient, and the products of channels of each wide layer."""
    pairs = Pairs(network, inputs, label.expand(len(inputs)), 1)
    seen, _, _ = pairs.pair(torch.arange(len(inputs))[:, None])
    whole = torch.cat([value.flatten(1) for value in seen.values()], dim=1)
    return [whole, *(channel_products(seen[name]).flatten(1) for name in wide)]


def cosines(rows: Tensor) -> list[float]:
    """Of the first row with all others."""
    found: list[float] = torch.cosine_similarity(rows[:1], rows[1:]).tolist()
    return found


if __name__ == "__main__":
    main()
