"""More label tables: networks trained and deep, FedAvg, noise, times, soundness; adds to benchmarks/results/labels.*.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --only cifar10,cifar100,...; --out. Each table is written as soon
as it is there. Networks that take minutes to train are kept in a temporary folder.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from labels import (
    BASELINES,
    DATA,
    KNOWN,
    ROOT,
    Row,
    accuracy,
    cifar100,
    clusters,
    cnn,
    draws,
    fit,
    head,
    lenet5,
    mnist,
    observe,
    score,
    seeded,
    store,
    table,
)
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.auxiliary import AuxiliaryData
from seepage.attacks.classmeans import ClassMeans
from seepage.attacks.exactlabels import ExactLabels
from seepage.attacks.ilrg import ILRG
from seepage.attacks.labelbaselines import EvenCounts, PresentClasses, UniformProbabilities
from seepage.attacks.labels_auto import RestoreLabels
from seepage.attacks.matching import ig
from seepage.attacks.noiseprior import NoisePrior
from seepage.attacks.pooled import PooledEmbedding
from seepage.data.sources import draw_batch, load_dataset
from seepage.federated.dpsgd import DPSGD
from seepage.federated.fedavg import FedAvg
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr
from seepage.networks.architectures import mlp, resnet18
from seepage.networks.zoo import build_network
from seepage.types import Attack, PrivateBatch, ThreatModel

Keep = Callable[[list[Row]], None]
KEPT = Path(tempfile.gettempdir()) / "seepage-label-networks"


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    for name in options.only.split(","):
        started = time.perf_counter()
        SECTIONS[name](lambda rows, name=name: store(rows, Path(options.out), section=name))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


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
    """A network that has learnt 7,000 images by heart, beyond C/3; `visible` of labels_deep.py has the rest."""
    x, y = cifar100()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    nets = [fit(seeded(seed, cnn), x[:7000], y[:7000], 1500) for seed in range(2)]
    share = ", ".join(f"{accuracy(n, x[:2000], y[:2000]):.2f}/{accuracy(n, x[7000:], y[7000:]):.2f}" for n in nets)
    methods: dict[str, Attack] = {"uniform": UniformProbabilities(), "iLRG": ILRG(), "exact": ExactLabels()}
    for split, part in (("held out", slice(7000, 9000)), ("train", slice(0, 7000))):
        for examples, batches in ((36, 5), (48, 1)):
            title = f"CNN CIFAR-100 memorised (accuracy train/held out {share}), {split}, K={examples}"
            keep(table(title, nets, (x[part], y[part]), examples, batches, methods))


def cifar100_double(keep: Keep) -> None:
    """The first of these networks and its gradients in float64: is it the search that fails, or float32?"""
    x, y = cifar100()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    net = fit(seeded(0, cnn), x[:7000], y[:7000], 1500).double()
    for split, part in (("held out", slice(7000, 9000)), ("train", slice(0, 7000))):
        for examples in (8, 24, 33):
            title = f"CNN CIFAR-100 memorised, the first network, float64 gradients, {split}, K={examples}"
            keep(table(title, [net], (x[part].double(), y[part]), examples, 5, {"exact": ExactLabels()}))


def soundness(keep: Keep) -> None:
    """2,000 batches of small networks at all stages of training, half of them without bias."""
    x, y = clusters(30)
    for activation in (nn.ReLU, nn.SiLU, nn.LeakyReLU, nn.Tanh):
        for steps in (0, 40, 200, 600):
            total: dict[str, float] = defaultdict(float)
            for index in range(5):
                net = seeded(index, lambda a=activation, b=index % 2 == 0: small(a, bias=b))
                net = fit(net, x[:2000], y[:2000], steps, rate=1e-2)
                for batch in range(25):
                    generator = torch.Generator().manual_seed(1000 * index + batch)
                    examples = 1 + int(torch.randint(14, (), generator=generator))
                    chosen = 2000 + torch.randperm(2000, generator=generator)[:examples]
                    seen = observe(net, x[chosen], y[chosen], (x.amin(), x.amax()), known=batch % 2 == 0)
                    for key, value in score(ExactLabels(), seen, y[chosen]).items():
                        total[key] += value
            counts = {"exact", "certified_labels", "wrong_certified", "failed"}
            means = {key: value if key in counts else value / 125 for key, value in total.items()}
            title = "Soundness: MLP clusters C=30, K=1..14, known in half, networks 1 and 3 without bias"
            row: Row = {"setting": title, "method": f"exact, {activation.__name__}, {steps} steps"}
            keep([{**row, "networks": 5, "batches": 25, **means}])


def times(keep: Keep) -> None:
    """Random last layers; what iLRG's reference takes is in the documentation."""
    methods: dict[str, Attack] = {
        "iLRG": ILRG(),
        "uniform": UniformProbabilities(),
        "pooled": PooledEmbedding(),
        "noise prior": NoisePrior(),
        "exact": ExactLabels(),
    }
    rows: dict[str, Row] = {}
    for classes, examples in ((10, 3), (100, 24), (1000, 64)):
        for width in (84, 512, 4096):
            net = seeded(0, lambda w=width, c=classes: head(w, c))
            generator = torch.Generator().manual_seed(7)
            x = torch.relu(torch.randn(4 * examples, width, generator=generator) + 0.3)
            y = torch.randint(classes, (len(x),), generator=generator)
            for row in table("", [net], (x, y), examples, 3, methods):
                title = "Milliseconds per restoration, mean of 3 batches (K = 3, 24 and 64 of C = 10, 100 and 1,000)"
                mine = rows.setdefault(str(row["method"]), {"setting": title, "method": row["method"]})
                mine |= {"networks": 1, "batches": 3, f"C={classes}, m={width}": float(row["ms"])}
    keep(list(rows.values()))


def activations(keep: Keep) -> None:
    """LeNet-5 with Leaky ReLU and Swish at the batch sizes of the ReLU rows."""
    x, y = cifar100()
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding()}
    for name, activation in (("SiLU", nn.SiLU), ("LeakyReLU", nn.LeakyReLU)):
        nets = [seeded(seed, lambda a=activation: lenet5(a)) for seed in range(5)]
        for examples, batches in ((24, 20), (128, 20), (4096, 4)):
            keep(table(f"LeNet5-{name} CIFAR-100 untrained, K={examples}", nets, (x, y), examples, batches, methods))


def deep(keep: Keep) -> None:
    """VGG-11 and the zoo's ResNet-18, as drawn, in evaluation mode; the embeddings are computed once a network."""
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding()}
    x, y = cifar100()
    heads = [on_top(seeded(seed, vgg11), x[:2500]) for seed in range(5)]
    for examples, batches in ((24, 20), (128, 20), (1024, 4)):
        title = f"VGG11 CIFAR-100 untrained, K={examples}"
        several(keep, title, heads, y[:2500], examples, batches, methods)
    photos = imagenet_photos(48)
    labels = torch.randint(1000, (20 * len(photos),), generator=torch.Generator().manual_seed(5))
    heads = [on_top(seeded(seed, lambda: resnet18(3, 1000)), photos) for seed in range(2)]
    heads = [(net, e.repeat(20, 1)) for net, e in heads]
    for examples, batches in ((24, 20), (48, 20), (512, 4)):
        title = f"ResNet18 ImageNet 224 px untrained, 48 photos, 20 times each, random labels of 1,000, K={examples}"
        more: dict[str, Attack] = {"exact": ExactLabels()} if examples < 100 else {}
        several(keep, title, heads, labels, examples, batches, {**methods, **more})


def several(  # noqa: PLR0917
    keep: Keep,
    title: str,
    heads: list[tuple[nn.Sequential, Tensor]],
    labels: Tensor,
    examples: int,
    batches: int,
    methods: dict[str, Attack],
) -> None:
    """One table over networks that each have embeddings of their own."""
    parts = [table(title, [net], (inputs, labels), examples, batches, methods) for net, inputs in heads]
    counts = {"exact", "certified_labels", "wrong_certified", "failed"}
    rows = []
    for together in zip(*parts, strict=True):
        row = {**together[0], "networks": len(heads)}
        for key in KNOWN - {"setting", "method", "section", "networks", "batches"}:
            total = sum(float(one[key]) for one in together)
            row[key] = total if key in counts else total / len(heads)
        rows.append(row)
    keep(rows)


def fedavg(keep: Keep) -> None:
    """64 examples in local batches of 16; iLRG on the first state alone, as published, and along the way."""
    for name, build, (x, y) in (
        ("FCN-3 MNIST", lambda: mlp(784, [300], 10, nn.ReLU), mnist()),
        ("LeNet5-ReLU CIFAR-100", lambda: lenet5(nn.ReLU), cifar100()),
    ):
        classes = int(y.max()) + 1
        for rate, epochs in ((0.01, 1), (0.01, 5), (0.1, 1), (0.1, 5), (0.1, 10)):
            rule = FedAvg(epochs=epochs, local_batch=16, lr=rate)
            sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
            for index in range(5):
                net = seeded(index, build)
                for inputs, labels in draws((x, y), 64, 5, index, 0.0):
                    batch = PrivateBatch(inputs=inputs, labels=labels)
                    seen = ThreatModel(batch_size=True).view(
                        network=net,
                        update=rule(net, batch, torch.Generator().manual_seed(index)),
                        batch=batch,
                        rule=rule,
                        classes=classes,
                    )
                    first = replace(seen, rule=None)  # taken for one gradient at the state sent out
                    for method, attack, view in (
                        ("uniform", UniformProbabilities(), seen),
                        ("iLRG, first state", ILRG(), first),
                        ("iLRG, along the way", ILRG(), seen),
                        ("pooled, first state", PooledEmbedding(), first),
                        ("pooled, along the way", PooledEmbedding(), seen),
                        ("the entry", RestoreLabels(), seen),
                    ):
                        for key, value in score(attack, view, labels).items():
                            sums[method][key] += value
            keep(mean_rows(f"{name}, FedAvg K=64, local batch 16, lr {rate}, {epochs} epochs", sums, 5, 5))


def noise(keep: Keep) -> None:
    """DP-SGD without clipping to speak of, the noise's deviation known."""
    x, y = cifar100()
    methods: dict[str, Attack] = {
        "uniform": UniformProbabilities(),
        "iLRG": ILRG(),
        "pooled": PooledEmbedding(),
        "exact": ExactLabels(),
        "the entry": RestoreLabels(),
    }
    for amount in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
        rule = DPSGD(clip=100.0, noise=amount)
        sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for index in range(3):
            net = seeded(index, lambda: lenet5(nn.ReLU))
            for inputs, labels in draws((x, y), 24, 5, index, 0.0):
                batch = PrivateBatch(inputs=inputs, labels=labels)
                update = rule(net, batch, torch.Generator().manual_seed(index))
                seen = ThreatModel(batch_size=True).view(
                    network=net, update=update, batch=batch, rule=rule, classes=100
                )
                for method, attack in methods.items():
                    for key, value in score(attack, seen, labels).items():
                        sums[method][key] += value
        title = f"LeNet5-ReLU CIFAR-100 untrained, DP-SGD clip 100, deviation {100 * amount / 24:.2g} an entry, K=24"
        keep(mean_rows(title, sums, 3, 5))


def matching(keep: Keep) -> None:
    """IG on MNIST, 600 iterations: with the true labels, the restored ones, and K/C guessed."""
    data = load_dataset(str(DATA / "mnist" / "t10k-images-idx3-ubyte.gz"))
    sources: dict[str, Attack | None] = {"given": None, "restored (the entry)": RestoreLabels(), "K/C": EvenCounts()}
    sources["uniform"] = UniformProbabilities()
    for examples in (4, 6, 8):
        found: dict[str, list[float]] = defaultdict(list)
        for seed in range(5):
            chance = torch.Generator().manual_seed(seed)
            batch, _ = draw_batch(data, batch_size=examples, generator=chance)
            net = build_network("mlp:100", input_shape=data.input_shape, classes=10, seed=seed)
            for name, source in sources.items():
                seen = ThreatModel(batch_size=True, labels=source is None).view(
                    network=net,
                    update=FedSGD()(net, batch, torch.Generator().manual_seed(seed)),
                    batch=batch,
                    rule=FedSGD(),
                    classes=10,
                    bounds=data.normalization.bounds(),
                )
                got = ig(labels=source, iterations=600)(seen, generator=torch.Generator().manual_seed(seed))
                truth = data.normalization.invert(batch.inputs)
                if got.inputs is None:
                    found[name].append(0.0)
                    continue
                rows = data.normalization.invert(got.inputs)
                found[name].append(float(psnr(rows[match(rows, truth)], truth).clamp(max=150).mean()))
        base = mean(found["K/C"])
        title = f"Gradient matching (ig, 600 iterations) on MNIST, mlp:100, b={examples}, mean PSNR of 5 seeds"
        keep(
            [
                {"setting": title, "method": f"labels: {name}", "networks": 5, "batches": 1}
                | {"mean dB": mean(values), "median dB": median(values), "least dB": min(values)}
                | {"gain on K/C, dB": mean(values) - base}
                for name, values in found.items()
            ]
        )


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
    "soundness": soundness,
    "times": times,
    "activations": activations,
    "fedavg": fedavg,
    "noise": noise,
    "deep": deep,
    "cifar100": cifar100_memorised,
    "cifar100-double": cifar100_double,
    "matching": matching,
}


def mean_rows(title: str, sums: dict[str, dict[str, float]], networks: int, batches: int) -> list[Row]:
    """Rows of :func:`table` from sums over all runs."""
    counts, runs = {"exact", "certified_labels", "wrong_certified", "failed"}, networks * batches
    return [
        {"setting": title, "method": method, "networks": networks, "batches": batches}
        | {key: value if key in counts else value / runs for key, value in total.items()}
        for method, total in sums.items()
    ]


def small(activation: type[nn.Module], *, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 48), activation(), nn.Linear(48, 30, bias=bias))


def vgg11() -> nn.Sequential:
    """VGG-11 for 3 x 32 x 32 and 100 classes, with two layers of 4,096."""
    body: list[nn.Module] = []
    before = 3
    for block in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for width in block:
            body += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        body.append(nn.MaxPool2d(2))
    top = [nn.Flatten(), nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 100)]
    return nn.Sequential(*body, *top)


def on_top(net: nn.Sequential, x: Tensor) -> tuple[nn.Sequential, Tensor]:
    """The last layer alone, and what enters it."""
    net.eval()
    with torch.no_grad():
        embeddings = torch.cat([net[:-1](part) for part in x.split(50)])
    return nn.Sequential(nn.Identity(), net[-1]), embeddings


def imagenet_photos(count: int) -> Tensor:
    """[count, 3, 224, 224], normalised."""
    paths = sorted((DATA / "imagenet224" / "images").iterdir())[:count]
    stacked = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)


def kept(  # noqa: PLR0917
    name: str, seed: int, build: Callable[[], nn.Sequential], x: Tensor, y: Tensor, epochs: int
) -> nn.Sequential:
    """A network in evaluation mode, trained by Adam on flipped and shifted images; from the folder if it is there."""
    net, path = seeded(seed, build), KEPT / f"{name}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator)[: len(x) // 64 * 64].split(64):
            images = torch.nn.functional.pad(x[chosen], (2, 2, 2, 2))
            top, left = torch.randint(5, (2,), generator=generator).tolist()
            images = images[:, :, top : top + 32, left : left + 32]
            images = images.flip(3) if torch.rand((), generator=generator) < 0.5 else images
            optimizer.zero_grad()
            cross_entropy(net(images), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return net.eval()


def convolutions(classes: int) -> nn.Sequential:
    """Three convolutions with batch norm and a layer of 256, for 3 x 32 x 32."""
    body: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        body += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, classes))


def cifar10_images() -> tuple[Tensor, Tensor]:
    """[20000, 3, 32, 32], normalised: a train file, then the test file."""
    parts = [np.load(DATA / "cifar10" / name) for name in ("cifar10_train_batch1.npz", "cifar10_test.npz")]
    x = torch.cat([torch.from_numpy(part["images"]) for part in parts]).permute(0, 3, 1, 2).float() / 255
    y = torch.cat([torch.from_numpy(part["labels"].astype(np.int64)) for part in parts])
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), y


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "labels"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
