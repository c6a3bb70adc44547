"""More label tables: networks trained, FedAvg, noise; adds to benchmarks/results/labels.*.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --only cifar10,cifar100,...; --out. Each table is written as soon
as it is there. Networks that take minutes to train are kept in a temporary folder.
"""

from collections.abc import Callable

import torch
from label_networks import (
    accuracy,
    cifar10_images,
    cifar100,
    convolutions,
    kept,
    lenet5,
    memorised,
    mnist,
    seeded,
    shuffled_cifar100,
)
from label_options import Keep, arguments, run
from label_tables import BASELINES, table, under_rule
from torch import nn

from seepage.attacks.labels.auxiliary import AuxiliaryData
from seepage.attacks.labels.classmeans import ClassMeans
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.labelbaselines import PresentClasses
from seepage.attacks.labels.noiseprior import NoisePrior
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.data.sources import load_dataset
from seepage.federated.dpsgd import DPSGD
from seepage.federated.fedavg import FedAvg
from seepage.networks.architectures import mlp
from seepage.types import Attack


def cifar10(keep: Keep) -> None:
    """A network of about 70 % held out; C/2 is five examples here, so what lies beyond needs auxiliary data."""
    x, y = cifar10_images()
    nets = [kept(f"cifar10-{seed}", seed, lambda: convolutions(10), x[:18000], y[:18000], 10) for seed in range(5)]
    share = ", ".join(f"{accuracy(n, x[:2000], y[:2000]):.2f}/{accuracy(n, x[18000:], y[18000:]):.2f}" for n in nets)
    aux = AuxiliaryData(inputs=x[19000:], labels=y[19000:])
    methods = {**BASELINES, "present classes": PresentClasses(), "pooled": PooledEmbedding()}
    methods |= {"exact": ExactLabels(), "the entry": RestoreLabels()}
    methods["the entry, 1,000 auxiliary"] = RestoreLabels(auxiliary=aux)
    for split, part in (("train", slice(0, 18000)), ("held out", slice(18000, 19000))):
        for examples in (2, 3, 4, 8, 24, 36, 48):
            title = f"CNN CIFAR-10 (accuracy train/held out {share}), {split}, K={examples}"
            keep(table(title, nets, (x[part], y[part]), examples, 20, methods))


def cifar100_memorised(keep: Keep) -> None:
    """A network that has learnt 7,000 images by heart, beyond C/3; labels_float32.py has the rest."""
    x, y = shuffled_cifar100()
    nets = [memorised(seed, x[:7000], y[:7000]) for seed in range(5)]
    share = ", ".join(f"{accuracy(n, x[:2000], y[:2000]):.2f}/{accuracy(n, x[7000:], y[7000:]):.2f}" for n in nets)
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding(), "exact": ExactLabels()}
    for split, part in (("held out", slice(7000, 9000)), ("train", slice(0, 7000))):
        for examples, batches in ((36, 2), (48, 1)):
            title = f"CNN CIFAR-100 memorised (accuracy train/held out {share}), {split}, K={examples}"
            keep(table(title, nets, (x[part], y[part]), examples, batches, methods))


def cifar100_double(keep: Keep) -> None:
    """The first of these networks and its gradients in float64: is it the search that fails, or float32?"""
    x, y = shuffled_cifar100()
    net = memorised(0, x[:7000], y[:7000]).double()
    for split, part in (("held out", slice(7000, 9000)), ("train", slice(0, 7000))):
        for examples in (8, 24, 33):
            title = f"CNN CIFAR-100 memorised, the first network, float64 gradients, {split}, K={examples}"
            keep(table(title, [net], (x[part].double(), y[part]), examples, 5, {"exact": ExactLabels()}))


def activations(keep: Keep) -> None:
    """LeNet-5 with Leaky ReLU and Swish at the batch sizes of the ReLU rows."""
    x, y = cifar100()
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding()}
    for name, activation in (("SiLU", nn.SiLU), ("LeakyReLU", nn.LeakyReLU)):
        nets = [seeded(seed, lambda a=activation: lenet5(a)) for seed in range(5)]
        for examples, batches in ((24, 20), (128, 20), (4096, 4)):
            keep(table(f"LeNet5-{name} CIFAR-100 untrained, K={examples}", nets, (x, y), examples, batches, methods))


def fedavg(keep: Keep) -> None:
    """64 examples in local batches of 16; iLRG on the first state alone, as published, and along the way."""
    told = {name: one for name, one in BASELINES.items() if not name.startswith("iLRG")}
    told |= {"iLRG, along the way": ILRG(), "pooled, along the way": PooledEmbedding()}
    methods: dict[str, Attack] = {**told, "the entry": RestoreLabels()}
    blind: dict[str, Attack] = {"iLRG, first state": ILRG(), "pooled, first state": PooledEmbedding()}
    for name, build, data in (
        ("FCN-3 MNIST", lambda: mlp(784, [300], 10, nn.ReLU), mnist()),
        ("LeNet5-ReLU CIFAR-100", lambda: lenet5(nn.ReLU), cifar100()),
    ):
        nets = [seeded(index, build) for index in range(5)]
        for rate, epochs in ((0.01, 1), (0.01, 5), (0.1, 1), (0.1, 5), (0.1, 10)):
            rule = FedAvg(epochs=epochs, local_batch=16, lr=rate)
            title = f"{name}, FedAvg K=64, local batch 16, lr {rate}, {epochs} epochs"
            keep(under_rule(title, rule, nets, data, 64, 5, methods, blind=blind))


def noise(keep: Keep) -> None:
    """DP-SGD without clipping to speak of, the noise's deviation known."""
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding()}
    methods |= {"exact": ExactLabels(), "the entry": RestoreLabels()}
    nets = [seeded(index, lambda: lenet5(nn.ReLU)) for index in range(3)]
    for amount in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
        rule = DPSGD(clip=100.0, noise=amount)
        title = f"LeNet5-ReLU CIFAR-100 untrained, DP-SGD clip 100, deviation {100 * amount / 24:.2g} an entry, K=24"
        keep(under_rule(title, rule, nets, cifar100(), 24, 5, methods, blind={}))


def fcn(keep: Keep) -> None:
    """FCN-3 on MNIST again, over batch size and depth, with what reads the first layer as well."""
    for examples in (24, 32, 64, 128, 256, 512):
        _fcn(keep, 1, examples)
    for hidden in (0, 2, 3, 4):
        _fcn(keep, hidden, 64)


def digits(keep: Keep) -> None:
    """The bundled digits, 64 of them, with the inputs as they are and normalised."""
    methods = {**BASELINES, "pooled": PooledEmbedding(), "noise prior": NoisePrior(), "class means": ClassMeans()}
    methods["the entry"] = RestoreLabels()
    for scaling in ("none", "channel"):
        data = load_dataset("digits", normalize=scaling)
        every = data.batch(torch.arange(len(data)))
        nets = [seeded(seed, lambda: mlp(64, [100], 10, nn.ReLU)) for seed in range(5)]
        title = f"MLP 64-100-10 digits untrained, normalize {scaling}, K=64"
        keep(table(title, nets, (every.inputs.flatten(1), every.labels), 64, 10, methods))


def _fcn(keep: Keep, hidden: int, examples: int) -> None:
    def build() -> nn.Sequential:
        return mlp(784, [300] * hidden, 10, nn.ReLU) if hidden else nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    methods = {**BASELINES, "present classes": PresentClasses(), "pooled": PooledEmbedding()}
    methods |= {"noise prior": NoisePrior(), "class means": ClassMeans(), "the entry": RestoreLabels()}
    name = "FCN-3" if hidden == 1 else f"FCN with {hidden} hidden layers,"
    nets = [seeded(seed, build) for seed in range(5)]
    keep(table(f"{name} MNIST untrained, K={examples}", nets, mnist(), examples, 20, methods))


SECTIONS: dict[str, Callable[[Keep], None]] = {
    "fcn": fcn,
    "digits": digits,
    "cifar10": cifar10,
    "activations": activations,
    "fedavg": fedavg,
    "noise": noise,
    "cifar100": cifar100_memorised,
    "cifar100-double": cifar100_double,
}


if __name__ == "__main__":
    run(SECTIONS, arguments(__doc__, SECTIONS).parse_args())
