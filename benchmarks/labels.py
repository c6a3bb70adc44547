"""Label restoration side by side: writes benchmarks/results/labels.md and .json, table by table.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --inits, --batches, --out; --only untrained,trained,large,wide.
"""

from collections.abc import Callable
from functools import partial

import torch
from label_networks import accuracy, cifar100, clusters, cnn, fit, head, lenet5, mnist, seeded, shuffled_cifar100
from label_options import Keep, arguments, run
from label_tables import BASELINES, table
from torch import nn

from seepage.attacks.labels.auxiliary import AuxiliaryData
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.noiseprior import NoisePrior
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.networks.architectures import mlp
from seepage.types import Attack


def main() -> None:
    parser = arguments(__doc__, SECTIONS)
    parser.add_argument("--inits", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    options = parser.parse_args()
    sized = {name: partial(one, inits=options.inits, batches=options.batches) for name, one in SECTIONS.items()}
    run(sized, options)


def untrained(keep: Keep, *, inits: int, batches: int) -> None:
    """Published settings: FCN-3 on MNIST, LeNet on CIFAR-100, networks as drawn."""
    x, y = mnist()
    methods = {**BASELINES, "pooled": PooledEmbedding(), "noise prior": NoisePrior(), "the entry": RestoreLabels()}
    for examples in (24, 32, 64, 128, 256):
        nets = [seeded(seed, lambda: mlp(784, [300], 10, nn.ReLU)) for seed in range(inits)]
        keep(table(f"FCN-3 MNIST untrained, K={examples}", nets, (x, y), examples, batches, methods))
    x, y = cifar100()
    for name, activation in (("ReLU", nn.ReLU), ("SiLU", nn.SiLU), ("LeakyReLU", nn.LeakyReLU)):
        for examples in (24, 128, 1024, 4096) if name == "ReLU" else (1024,):
            nets = [seeded(seed, lambda a=activation: lenet5(a)) for seed in range(inits)]
            some = max(1, batches // 5) if examples > 1000 else batches
            title = f"LeNet5-{name} CIFAR-100 untrained, K={examples}"
            keep(table(title, nets, (x, y), examples, some, methods))


def trained(keep: Keep, *, inits: int, batches: int) -> None:
    """A CNN trained on 7,000 CIFAR-100 test images: lightly, and until it has memorised them."""
    x, y = shuffled_cifar100()
    aux = AuxiliaryData(inputs=x[9000:], labels=y[9000:])
    methods = {**BASELINES, "pooled": PooledEmbedding(), "exact": ExactLabels()}
    batches = max(1, batches // 5)
    for steps in (100, 600):
        nets = [fit(seeded(seed, cnn), x[:7000], y[:7000], steps) for seed in range(inits)]
        share = ", ".join(f"{accuracy(n, x[:2000], y[:2000]):.2f}/{accuracy(n, x[7000:], y[7000:]):.2f}" for n in nets)
        for split, part in (("train", slice(0, 7000)), ("held out", slice(7000, 9000))):
            for examples in (8, 24, 36, 48):
                title = f"CNN CIFAR-100 {steps} steps (accuracy train/held out {share}), {split}, K={examples}"
                some = max(1, batches // 2) if examples == 48 else batches  # the search is long where it fails
                keep(table(title, nets, (x[part], y[part]), examples, some, methods))
            more = {
                **BASELINES,
                "pooled": PooledEmbedding(),
                "the entry, 1,000 auxiliary": RestoreLabels(auxiliary=aux),
            }
            title = f"CNN CIFAR-100 {steps} steps (accuracy train/held out {share}), {split}, K=256, skewed"
            keep(table(title, nets, (x[part], y[part]), 256, batches, more, skew=0.3))
    unknown = {"exact, K unknown": ExactLabels()}
    title = "CNN CIFAR-100 600 steps, held out, K=24"
    keep(table(title, nets, (x[7000:9000], y[7000:9000]), 24, batches, unknown, known=False))


def large(keep: Keep, *, inits: int, batches: int) -> None:  # noqa: ARG001 - two batches
    """1,000 classes: random last layers with post-ReLU embeddings, for the times."""
    for width, examples in ((512, 32), (512, 64), (2048, 64), (4096, 64), (2048, 4096)):
        nets = [seeded(seed, lambda w=width: head(w, 1000)) for seed in range(min(inits, 2))]
        generator = torch.Generator().manual_seed(7)
        x = torch.relu(torch.randn(4 * examples, width, generator=generator) + 0.3)
        y = torch.randint(1000, (len(x),), generator=generator)
        methods = {**BASELINES, "pooled": PooledEmbedding()}
        del methods["RLG"]  # 1,000 linear programs
        if examples < 100:
            methods["exact"] = ExactLabels()
        keep(table(f"synthetic C=1000, m={width}, K={examples}", nets, (x, y), examples, 2, methods))


def wide(keep: Keep, *, inits: int, batches: int) -> None:
    """Many small networks at all stages of training: is any wrong label ever certified?"""
    batches = max(1, 3 * batches // 5)
    for activation in (nn.ReLU, nn.SiLU):
        for steps in (0, 40, 200):
            nets, x, y = [], *clusters(30)
            for seed in range(inits):
                net = seeded(seed, lambda a=activation: nn.Sequential(nn.Linear(12, 48), a(), nn.Linear(48, 30)))
                nets.append(fit(net, x[:2000], y[:2000], steps, rate=1e-2))
            for examples in (2, 4, 6, 8, 10, 12, 14):
                title = f"MLP clusters C=30 {activation.__name__} {steps} steps, K={examples}"
                methods: dict[str, Attack] = {**BASELINES, "exact": ExactLabels()}
                keep(table(title, nets, (x[2000:], y[2000:]), examples, batches, methods))


SECTIONS: dict[str, Callable[..., None]] = {
    "untrained": untrained,
    "trained": trained,
    "large": large,
    "wide": wide,
}


if __name__ == "__main__":
    main()
