"""Labels of trained deep networks, clipped gradients and what float32 hides; adds to benchmarks/results/labels.*.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --only trained,clipped,visible,matching; --out. Each table is
written as soon as it is there. Networks that take minutes to train are kept in a temporary folder.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import torch
from labels import (
    BASELINES,
    DATA,
    ROOT,
    Row,
    accuracy,
    cifar100,
    clusters,
    cnn,
    draws,
    fit,
    lenet5,
    observe,
    score,
    seeded,
    store,
)
from labels_more import KEPT, Keep, cifar10_images, mean_rows, on_top, several
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.balanced import read_balanced
from seepage.attacks.exactlabels import ExactLabels
from seepage.attacks.ilrg import ILRG
from seepage.attacks.labelattack import LabelAttack, Question
from seepage.attacks.labelbaselines import PresentClasses, UniformProbabilities
from seepage.attacks.labels import usable
from seepage.attacks.labels_auto import RestoreLabels
from seepage.attacks.matching import ig
from seepage.attacks.pooled import PooledEmbedding
from seepage.data.sources import draw_batch, load_dataset
from seepage.federated.dpsgd import DPSGD
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr
from seepage.networks.architectures import mlp, resnet18
from seepage.networks.zoo import build_network
from seepage.types import Attack, Observation, PrivateBatch, Reconstruction, ThreatModel

_STAGES = {"ResNet18": (3, 10), "VGG16 at half width": (3,)}  # epochs


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    for name in options.only.split(","):
        started = time.perf_counter()
        SECTIONS[name](lambda rows, name=name: store(rows, Path(options.out), section=name))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def trained(keep: Keep) -> None:
    """ResNet-18 and VGG-16 at half its width, both with batch norm, after some epochs on 7,000 CIFAR-100 images."""
    x, y = cifar100()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding(), "present classes": PresentClasses()}
    methods["exact"] = ExactLabels()
    for name, build in (("ResNet18", small_resnet18), ("VGG16 at half width", half_vgg16)):
        for epochs, net in zip(_STAGES[name], stages(name, build, x[:7000], y[:7000]), strict=True):
            shares = f"{accuracy(net, x[:1000], y[:1000]):.2f}/{accuracy(net, x[7000:9000], y[7000:9000]):.2f}"
            for split, part in (("held out", slice(7000, 9000)), ("train", slice(0, 2000))):
                head = on_top(net, x[part])
                for examples, batches in ((8, 20), (24, 20), (33, 20)):
                    title = f"{name} CIFAR-100, {epochs} epochs (accuracy train/held out {shares}), {split}"
                    several(keep, f"{title}, K={examples}", [head], y[part], examples, batches, methods)


def stages(name: str, build: Callable[[], nn.Sequential], x: Tensor, y: Tensor) -> list[nn.Sequential]:
    """The network after each number of epochs, in evaluation mode; from the folder if it is there."""
    paths = [KEPT / f"{name.replace(' ', '-')}-{epochs}.pt" for epochs in _STAGES[name]]
    if not all(path.exists() for path in paths):
        KEPT.mkdir(parents=True, exist_ok=True)
        net, generator = seeded(0, build), torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for epoch in range(1, max(_STAGES[name]) + 1):
            for chosen in torch.randperm(len(x), generator=generator)[: len(x) // 64 * 64].split(64):
                flip = torch.rand((), generator=generator) < 0.5
                optimizer.zero_grad()
                cross_entropy(net(x[chosen].flip(3) if flip else x[chosen]), y[chosen]).backward()
                optimizer.step()
            if epoch in _STAGES[name]:
                torch.save(net.state_dict(), paths[_STAGES[name].index(epoch)])
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


def clipped(keep: Keep) -> None:
    """DP-SGD that clips every example and adds no noise: within the rank, and beyond it."""
    x, y = clusters(30)
    for steps in (0, 60, 300):
        nets = [fit(seeded(index, small), x[:2000], y[:2000], steps, rate=1e-2) for index in range(5)]
        for examples in (4, 8, 12):
            title = f"MLP clusters C=30, {steps} steps, DP-SGD clip 0.5 without noise, K={examples}"
            _clipped(keep, title, nets, (x[2000:], y[2000:]), examples, 10, 0.5)
    x, y = cifar100()
    nets = [seeded(index, lambda: lenet5(nn.ReLU)) for index in range(3)]
    for examples in (8, 24):
        title = f"LeNet5-ReLU CIFAR-100 untrained, DP-SGD clip 1 without noise, K={examples}"
        _clipped(keep, title, nets, (x, y), examples, 10, 1.0)
    nets = [fit(seeded(index, lambda: lenet5(nn.ReLU)), x[:7000], y[:7000], 1500) for index in range(3)]
    for examples in (8, 24, 33):
        title = f"LeNet5-ReLU CIFAR-100, 1,500 steps, held out, DP-SGD clip 1 without noise, K={examples}"
        _clipped(keep, title, nets, (x[7000:], y[7000:]), examples, 10, 1.0)
    x, y = (part[10000:] for part in cifar10_images())
    nets = [
        seeded(index, lambda: nn.Sequential(nn.Flatten(), *mlp(3072, [400] * 3, 10, nn.ReLU))) for index in range(5)
    ]
    for examples in (8, 16, 32, 64):
        title = f"MLP 3 x 400 CIFAR-10 untrained, DP-SGD clip 1 without noise, K={examples}"
        _clipped(keep, title, nets, (x, y), examples, 4, 1.0)


def flat() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *mlp(3072, [400] * 3, 10, nn.ReLU))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 30))


def _clipped(  # noqa: PLR0917
    keep: Keep,
    title: str,
    nets: list[nn.Sequential],
    data: tuple[Tensor, Tensor],
    examples: int,
    batches: int,
    clip: float,
) -> None:
    rule = DPSGD(clip=clip, noise=0.0)
    methods: dict[str, Attack] = {
        "uniform": UniformProbabilities(),
        "iLRG": ILRG(),
        "pooled": PooledEmbedding(),
        "exact": ExactLabels(),
    }
    if nets[0][-1].out_features == 10:
        methods |= {"the entry": RestoreLabels()}
    blind = {"uniform, clipping not undone": methods["uniform"], "pooled, clipping not undone": methods["pooled"]}
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for index, net in enumerate(nets):
        classes = net[-1].out_features
        for inputs, labels in draws(data, examples, batches, index, 0.0):
            batch = PrivateBatch(inputs=inputs, labels=labels)
            update = rule(net, batch, torch.Generator().manual_seed(index))
            seen = ThreatModel(batch_size=True).view(
                network=net,
                update=update,
                batch=batch,
                rule=rule,
                classes=classes,
                bounds=(data[0].min(), data[0].max()),
            )
            for method, attack in methods.items():
                for key, value in score(attack, seen, labels).items():
                    sums[method][key] += value
            for method, attack in blind.items():
                for key, value in score(attack, replace(seen, rule=None), labels).items():
                    sums[method][key] += value
    keep(mean_rows(title, sums, len(nets), batches))


def visible(keep: Keep) -> None:
    """A network that has learnt 7,000 images by heart: what comes back of batches, and what float32 leaves."""
    x, y = cifar100()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    nets = [memorised(seed, x[:7000], y[:7000]) for seed in range(5)]
    share = ", ".join(f"{accuracy(n, x[:2000], y[:2000]):.2f}/{accuracy(n, x[7000:], y[7000:]):.2f}" for n in nets)
    for split, part in (("train", slice(0, 7000)), ("held out", slice(7000, 9000))):
        for examples, batches in ((8, 20), (24, 10), (33, 4)):
            total: dict[str, float] = defaultdict(float)
            sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
            for index, net in enumerate(nets):
                for inputs, labels in draws((x[part], y[part]), examples, batches, index, 0.0):
                    seen = observe(net, inputs, labels, (x[part].amin(), x[part].amax()), known=True)
                    exact = Once(ExactLabels())
                    for name, attack in (("uniform", UniformProbabilities()), ("iLRG", ILRG()), ("exact", exact)):
                        for key, value in score(attack, seen, labels).items():
                            sums[name][key] += value
                    for key, value in _visible(net, inputs, labels, seen, exact.results[0]).items():
                        total[key] += value
            title = f"CNN CIFAR-100 memorised (accuracy train/held out {share}), {split}, K={examples}"
            keep(mean_rows(title, sums, len(nets), batches))
            runs = batches * len(nets)
            title = f"What float32 leaves of a batch: CNN CIFAR-100 memorised, {split}"
            row: Row = {"setting": title, "method": f"K={examples}", "networks": len(nets), "batches": batches}
            row |= {key: total[key] / runs / examples for key in ("unreadable", "below the rank", "labels right")}
            row |= {"certified": total["certified"] / runs / examples, "wrong of certified": total["wrong"]}
            row |= {"batches all readable": total["readable"], "of these exact": total["readable and exact"]}
            row |= {"others": runs - total["readable"], "of the others exact": total["hidden and exact"]}
            keep([row])


def memorised(seed: int, x: Tensor, y: Tensor) -> nn.Sequential:
    """The network after 1,500 steps; from the folder if it is there."""
    net, path = seeded(seed, cnn), KEPT / f"cifar100-memorised-{seed}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net
    KEPT.mkdir(parents=True, exist_ok=True)
    torch.save(fit(net, x, y, 1500).state_dict(), path)
    return net


class Once:
    """An attack that keeps what it returned."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.results: list[Reconstruction] = []

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Reconstruction:
        self.results.append(self.attack(observation, generator=generator))
        return self.results[-1]


def _visible(
    net: nn.Sequential, inputs: Tensor, labels: Tensor, seen: Observation, result: Reconstruction
) -> dict[str, float]:
    pencil = read_balanced(usable(seen), reach=0.75)
    rank = len(labels) if pencil is None else pencil.rank
    unreadable = int((_readable(net, inputs, labels) < 0.5).sum())
    got = torch.zeros(0, dtype=torch.int64) if result.labels is None else result.labels
    true, all_found = torch.bincount(labels, minlength=100), torch.bincount(got, minlength=100)
    sure = torch.bincount(got[result.certified], minlength=100) if len(got) else all_found
    exact = torch.equal(all_found, true)
    return {
        "unreadable": unreadable,
        "below the rank": len(labels) - rank,
        "labels right": float(torch.minimum(all_found, true).sum()),
        "certified": float(sure.sum()),
        "wrong": float((sure - true).clamp_min(0).sum()),
        "readable": float(unreadable == 0),
        "readable and exact": float(unreadable == 0 and exact),
        "hidden and exact": float(unreadable > 0 and exact),
    }


def _readable(net: nn.Sequential, inputs: Tensor, labels: Tensor) -> Tensor:
    """``[K]``: of each example the share of its embedding that an oracle could read to a tenth.

    The oracle knows all other examples' errors and embeddings exactly, and this one's error as well; only the float32
    rounding of the sum (half a unit of all terms' sizes, measured to fit) stands between it and the embedding.
    The label's own entry is left aside: it is 1 - p, rounded to 0 where the example is faint.
    """
    with torch.no_grad():
        embeddings = torch.cat([net[:-1](inputs), torch.ones(len(inputs), 1)], 1).double()
        weights = torch.cat([net[-1].weight, net[-1].bias[:, None]], 1).double()
    errors = torch.softmax(embeddings @ weights.T, 1)
    errors[torch.arange(len(labels)), labels] = -errors.scatter(1, labels[:, None], 0.0).sum(1)  # p - 1, not rounded
    rounding = torch.finfo(torch.float32).eps / 2 * (errors.abs().T @ embeddings.abs())
    shares = []
    for error, embedding, label in zip(errors, embeddings, labels.tolist(), strict=True):
        seen = torch.outer(error, embedding) / rounding.clamp_min(1e-300)
        seen[label] = 0.0
        shares.append((seen.norm(dim=0)[embedding > 0] > 10).double().mean())
    return torch.stack(shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guessed(LabelAttack):
    """K labels drawn evenly."""

    @property
    def name(self) -> str:
        return "guessed"

    def counts(self, question: Question) -> Tensor:
        drawn = torch.randint(question.layer.classes, (question.examples,), generator=question.generator)
        return torch.bincount(drawn, minlength=question.layer.classes).double()


def matching(keep: Keep) -> None:
    """IG on CIFAR-100 and LeNet with restored labels and with guessed ones, 600 iterations."""
    data = load_dataset(str(DATA / "cifar100" / "cifar100_test.npz"))
    sources: dict[str, Attack] = {"restored (the entry)": RestoreLabels(), "guessed": Guessed()}
    for activation in ("sigmoid",):
        for examples in (4, 8):
            found: dict[str, list[float]] = defaultdict(list)
            for seed in range(5):
                batch, _ = draw_batch(data, batch_size=examples, generator=torch.Generator().manual_seed(seed))
                net = build_network(f"lenet:{activation}", input_shape=data.input_shape, classes=100, seed=seed)
                seen = ThreatModel(batch_size=True).view(
                    network=net,
                    update=FedSGD()(net, batch, torch.Generator().manual_seed(seed)),
                    batch=batch,
                    rule=FedSGD(),
                    classes=100,
                    bounds=data.normalization.bounds(),
                )
                truth = data.normalization.invert(batch.inputs)
                for name, source in sources.items():
                    got = ig(labels=source, iterations=600)(seen, generator=torch.Generator().manual_seed(seed))
                    rows = None if got.inputs is None else data.normalization.invert(got.inputs)
                    each = 0.0 if rows is None else float(psnr(rows[match(rows, truth)], truth).clamp(max=150).mean())
                    found[name].append(each)
                keep(_gains(found, activation, examples))


def _gains(found: dict[str, list[float]], activation: str, examples: int) -> list[Row]:
    title = f"Gradient matching (ig, 600 iterations) on CIFAR-100, lenet:{activation}, b={examples}, mean PSNR"
    base = mean(found["guessed"])
    return [
        {"setting": title, "method": f"labels: {name}", "networks": len(values), "batches": 1}
        | {"mean dB": mean(values), "median dB": median(values), "least dB": min(values)}
        | {"gain on guessed, dB": mean(values) - base}
        for name, values in found.items()
    ]


SECTIONS: dict[str, Callable[[Keep], None]] = {
    "trained": trained,
    "clipped": clipped,
    "visible": visible,
    "matching": matching,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "labels"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
