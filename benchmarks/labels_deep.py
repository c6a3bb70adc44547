"""Labels of deep networks, as drawn and trained, and of clipped gradients; adds to benchmarks/results/labels.*.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --only vgg,resnet,trained,clipped; --out. Each table is written
as soon as it is there. Networks that take minutes to train are kept in a temporary folder.
"""

from collections.abc import Callable

import torch
from label_architectures import half_vgg16, resnet50, small_resnet18, vgg
from label_networks import (
    KEPT,
    accuracy,
    cifar10_images,
    cifar100,
    clusters,
    fit,
    imagenet_photos,
    lenet5,
    on_top,
    seeded,
    shuffled_cifar100,
)
from label_options import Keep, arguments, run, wanted
from label_tables import BASELINES, several, under_rule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.labelbaselines import PresentClasses
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.federated.dpsgd import DPSGD
from seepage.networks.architectures import mlp, resnet18
from seepage.types import Attack

_STAGES = {"ResNet18": (3, 10), "VGG16 at half width": (3,)}  # epochs


def vggs(keep: Keep) -> None:
    """VGG-11 to 19 as drawn; the embeddings are computed once a network."""
    x, y = cifar100()
    for layers in (11, 13, 16, 19):
        titles = {examples: f"VGG{layers} CIFAR-100 untrained, K={examples}" for examples in (24, 128, 1024)}
        if not any(wanted(title) for title in titles.values()):
            continue
        heads = [on_top(seeded(seed, lambda n=layers: vgg(n)), x[:2500]) for seed in range(5)]
        for examples, title in titles.items():
            keep(several(title, heads, y[:2500], examples, 20, {**BASELINES, "pooled": PooledEmbedding()}))


def resnets(keep: Keep) -> None:
    """The zoo's ResNet-18, and ResNet-50, as drawn, in evaluation mode, on photographs of 224 x 224."""
    more: dict[str, Attack] = {"pooled": PooledEmbedding()}
    for name, count, sizes, build in (
        ("ResNet18", 48, (24, 48, 512), lambda: resnet18(3, 1000)),
        ("ResNet50", 200, (24, 128, 512, 2048), lambda: resnet50(1000)),
    ):
        title = f"{name} ImageNet 224 px untrained, {count} photos, 20 times each, random labels of 1,000"
        if not any(wanted(f"{title}, K={examples}") for examples in sizes):
            continue
        photos = imagenet_photos(count)
        labels = torch.randint(1000, (20 * count,), generator=torch.Generator().manual_seed(5))
        heads = [on_top(seeded(seed, build), photos) for seed in range(5)]
        heads = [(net, e.repeat(20, 1)) for net, e in heads]
        for examples in sizes:
            methods = {**{k: v for k, v in BASELINES.items() if k != "RLG"}, **more}  # 1,000 linear programs a batch
            methods |= {"exact": ExactLabels()} if examples < 100 else {}
            keep(several(f"{title}, K={examples}", heads, labels, examples, 20, methods))


def trained(keep: Keep) -> None:
    """ResNet-18 and VGG-16 at half its width, both with batch norm, after some epochs on 7,000 CIFAR-100 images."""
    x, y = shuffled_cifar100()
    methods: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding(), "present classes": PresentClasses()}
    methods["exact"] = ExactLabels()
    for name, build in (("ResNet18", small_resnet18), ("VGG16 at half width", half_vgg16)):
        for epochs, net in zip(_STAGES[name], stages(name, build, x[:7000], y[:7000]), strict=True):
            shares = f"{accuracy(net, x[:1000], y[:1000]):.2f}/{accuracy(net, x[7000:9000], y[7000:9000]):.2f}"
            for split, part in (("held out", slice(7000, 9000)), ("train", slice(0, 2000))):
                head = on_top(net, x[part])
                for examples in (8, 24, 33):
                    title = f"{name} CIFAR-100, {epochs} epochs (accuracy train/held out {shares}), {split}"
                    keep(several(f"{title}, K={examples}", [head], y[part], examples, 20, methods))


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
    nets = [seeded(index, flat) for index in range(5)]
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
    guesses: dict[str, Attack] = {**BASELINES, "pooled": PooledEmbedding()}
    methods = {**guesses, "exact": ExactLabels()}
    if nets[0][-1].out_features == 10:
        methods |= {"the entry": RestoreLabels()}
    blind = {f"{name}, clipping not undone": guesses[name] for name in ("uniform", "pooled")}
    rule, bounds = DPSGD(clip=clip, noise=0.0), (data[0].min(), data[0].max())
    keep(under_rule(title, rule, nets, data, examples, batches, methods, blind=blind, bounds=bounds))


SECTIONS: dict[str, Callable[[Keep], None]] = {
    "vgg": vggs,
    "resnet": resnets,
    "trained": trained,
    "clipped": clipped,
}


if __name__ == "__main__":
    run(SECTIONS, arguments(__doc__, SECTIONS).parse_args())
