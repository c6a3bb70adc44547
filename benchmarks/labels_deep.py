"""Labels of trained deep networks, clipped gradients and what float32 hides; adds to benchmarks/results/labels.*.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --only trained,clipped,visible,matching; --out. Each table is
written as soon as it is there. Networks that take minutes to train are kept in a temporary folder.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from labels import BASELINES, ROOT, accuracy, cifar100, seeded, store
from labels_more import KEPT, Keep, on_top, several
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.exactlabels import ExactLabels
from seepage.attacks.labelbaselines import PresentClasses
from seepage.attacks.labels_auto import RestoreLabels
from seepage.attacks.pooled import PooledEmbedding
from seepage.networks.architectures import resnet18
from seepage.types import Attack

_STAGES = (3, 10)  # epochs


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    for name in options.only.split(","):
        started = time.perf_counter()
        SECTIONS[name](lambda rows, name=name: store(rows, Path(options.out), section=name))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def trained(keep: Keep) -> None:
    """VGG-16 at half its width and ResNet-18, both with batch norm, after 3 and 10 epochs on 7,000 CIFAR-100 images."""
    x, y = cifar100()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding(), "present classes": PresentClasses()}
    methods |= {"exact": ExactLabels(), "the entry": RestoreLabels()}
    for name, build in (("ResNet18", small_resnet18), ("VGG16 at half width", half_vgg16)):
        for epochs, net in zip(_STAGES, stages(name, build, x[:7000], y[:7000]), strict=True):
            shares = f"{accuracy(net, x[:1000], y[:1000]):.2f}/{accuracy(net, x[7000:9000], y[7000:9000]):.2f}"
            for split, part in (("held out", slice(7000, 9000)), ("train", slice(0, 2000))):
                head = on_top(net, x[part])
                for examples, batches in ((8, 20), (24, 20), (33, 10)):
                    title = f"{name} CIFAR-100, {epochs} epochs (accuracy train/held out {shares}), {split}"
                    several(keep, f"{title}, K={examples}", [head], y[part], examples, batches, methods)


def stages(name: str, build: Callable[[], nn.Sequential], x: Tensor, y: Tensor) -> list[nn.Sequential]:
    """The network after each number of epochs, in evaluation mode; from the folder if it is there."""
    paths = [KEPT / f"{name.replace(' ', '-')}-{epochs}.pt" for epochs in _STAGES]
    if not all(path.exists() for path in paths):
        KEPT.mkdir(parents=True, exist_ok=True)
        net, generator = seeded(0, build), torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for epoch in range(1, max(_STAGES) + 1):
            for chosen in torch.randperm(len(x), generator=generator)[: len(x) // 64 * 64].split(64):
                flip = torch.rand((), generator=generator) < 0.5
                optimizer.zero_grad()
                cross_entropy(net(x[chosen].flip(3) if flip else x[chosen]), y[chosen]).backward()
                optimizer.step()
            if epoch in _STAGES:
                torch.save(net.state_dict(), paths[_STAGES.index(epoch)])
    nets = []
    for path in paths:
        net = seeded(0, build)
        net.load_state_dict(torch.load(path, weights_only=True))
        nets.append(net.eval())
    return nets


def small_resnet18() -> nn.Sequential:
    """ResNet-18 with the 7 x 7 stem of stride 2 and pooling, on 32 x 32 pixels."""
    net = resnet18(3, 100)
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stem, *list(net)[1:])


def half_vgg16() -> nn.Sequential:
    """VGG-16 with batch norm and half its channels, for 3 x 32 x 32 and 100 classes; 512 features."""
    body: list[nn.Module] = []
    before = 3
    for block in ((32, 32), (64, 64), (128,) * 3, (256,) * 3, (256,) * 3):
        for width in block:
            body += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        body.append(nn.MaxPool2d(2))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(before, 512), nn.ReLU(), nn.Linear(512, 100))


SECTIONS: dict[str, Callable[[Keep], None]] = {"trained": trained}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "labels"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
