"""Label restoration side by side: writes benchmarks/results/labels.md and .json, section by section.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --inits, --batches, --out; --only untrained,trained,large,wide.
"""

import argparse
import gzip
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.auxiliary import AuxiliaryData
from seepage.attacks.exactlabels import ExactLabels
from seepage.attacks.ilrg import ILRG
from seepage.attacks.labelbaselines import IDLG, AllZeros, EvenCounts, SignRule, UniformProbabilities
from seepage.attacks.labels_auto import RestoreLabels
from seepage.attacks.noiseprior import NoisePrior
from seepage.attacks.pooled import PooledEmbedding
from seepage.attacks.rlg import RLG
from seepage.label_scores import exact_vector, l1_half, leacc, lnacc
from seepage.networks.architectures import mlp
from seepage.types import Attack, GradientUpdate, Observation, Outcome, Round

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SEEPAGE_DATA", ROOT.parent / "shared" / "data"))
BASELINES: dict[str, Attack] = {
    "zeros": AllZeros(),
    "K/C": EvenCounts(),
    "uniform": UniformProbabilities(),
    "iDLG": IDLG(),
    "sign rule": SignRule(),
    "iLRG, published rounding": ILRG(published_rounding=True),
    "iLRG": ILRG(),
}
Row = dict[str, float | int | str]
KNOWN = {
    *("setting", "method", "section", "networks", "batches", "leacc", "lnacc", "exact_vector", "l1_half", "ms"),
    *("exact", "certified_labels", "wrong_certified", "failed"),
}


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    for name in options.only.split(","):
        started = time.perf_counter()
        store(SECTIONS[name](options.inits, options.batches), Path(options.out), section=name)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def untrained(inits: int, batches: int) -> list[Row]:
    """Published settings: FCN-3 on MNIST, LeNet on CIFAR-100, networks as drawn."""
    rows = []
    x, y = mnist()
    methods = {**BASELINES, "pooled": PooledEmbedding(), "noise prior": NoisePrior(), "the entry": RestoreLabels()}
    published = {**methods, "RLG": RLG()}  # a linear program a class: where its paper's setting is, and no more
    for examples in (24, 32, 64, 128, 256):
        nets = [seeded(seed, lambda: mlp(784, [300], 10, nn.ReLU)) for seed in range(inits)]
        rows += table(f"FCN-3 MNIST untrained, K={examples}", nets, (x, y), examples, batches, published)
    x, y = cifar100()
    for name, activation in (("ReLU", nn.ReLU), ("SiLU", nn.SiLU), ("LeakyReLU", nn.LeakyReLU)):
        for examples in (24, 128, 1024, 4096) if name == "ReLU" else (1024,):
            nets = [seeded(seed, lambda a=activation: lenet5(a)) for seed in range(inits)]
            some = max(1, batches // 5) if examples > 1000 else batches
            title, asked = f"LeNet5-{name} CIFAR-100 untrained, K={examples}", published if examples == 24 else methods
            rows += table(title, nets, (x, y), examples, some, asked)
    return rows


def trained(inits: int, batches: int) -> list[Row]:
    """A CNN trained on 7,000 CIFAR-100 test images: lightly, and until it has memorised them."""
    rows = []
    x, y = cifar100()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    aux = AuxiliaryData(inputs=x[9000:], labels=y[9000:])
    methods = {**BASELINES, "pooled": PooledEmbedding(), "exact": ExactLabels()}
    batches = max(1, batches // 4)
    for steps in (100, 600):
        nets = [fit(seeded(seed, cnn), x[:7000], y[:7000], steps) for seed in range(min(inits, 2))]
        share = ", ".join(f"{accuracy(n, x[:2000], y[:2000]):.2f}/{accuracy(n, x[7000:], y[7000:]):.2f}" for n in nets)
        for split, part in (("train", slice(0, 7000)), ("held out", slice(7000, 9000))):
            for examples in (8, 24, 36, 48):
                title = f"CNN CIFAR-100 {steps} steps (accuracy train/held out {share}), {split}, K={examples}"
                some = max(1, batches // 2) if examples == 48 else batches  # the search is long where it fails
                rows += table(title, nets, (x[part], y[part]), examples, some, methods)
            more = {
                **BASELINES,
                "pooled": PooledEmbedding(),
                "the entry, 1,000 auxiliary": RestoreLabels(auxiliary=aux),
            }
            title = f"CNN CIFAR-100 {steps} steps (accuracy train/held out {share}), {split}, K=256, skewed"
            rows += table(title, nets, (x[part], y[part]), 256, batches, more, skew=0.3)
    unknown = {"exact, K unknown": ExactLabels()}
    title = "CNN CIFAR-100 600 steps, held out, K=24"
    return rows + table(title, nets, (x[7000:9000], y[7000:9000]), 24, batches, unknown, known=False)


def large(inits: int, batches: int) -> list[Row]:  # noqa: ARG001 - two batches
    """1,000 classes: random last layers with post-ReLU embeddings, for the times."""
    rows = []
    for width, examples in ((512, 32), (512, 64), (2048, 64), (2048, 4096)):
        nets = [seeded(seed, lambda w=width: head(w, 1000)) for seed in range(min(inits, 2))]
        generator = torch.Generator().manual_seed(7)
        x = torch.relu(torch.randn(4 * examples, width, generator=generator) + 0.3)
        y = torch.randint(1000, (len(x),), generator=generator)
        methods: dict[str, Attack] = {"iLRG": ILRG(), "pooled": PooledEmbedding(), "uniform": UniformProbabilities()}
        if examples < 100:
            methods["exact"] = ExactLabels()
        rows += table(f"synthetic C=1000, m={width}, K={examples}", nets, (x, y), examples, 2, methods)
    return rows


def wide(inits: int, batches: int) -> list[Row]:
    """Many small networks at all stages of training: is any wrong label ever certified?"""
    rows, batches = [], max(1, 3 * batches // 5)
    for activation in (nn.ReLU, nn.SiLU):
        for steps in (0, 40, 200):
            nets, x, y = [], *clusters(30)
            for seed in range(inits):
                net = seeded(seed, lambda a=activation: nn.Sequential(nn.Linear(12, 48), a(), nn.Linear(48, 30)))
                nets.append(fit(net, x[:2000], y[:2000], steps, rate=1e-2))
            for examples in (2, 4, 6, 8, 10, 12, 14):
                title = f"MLP clusters C=30 {activation.__name__} {steps} steps, K={examples}"
                methods: dict[str, Attack] = {"iLRG": ILRG(), "exact": ExactLabels()}
                rows += table(title, nets, (x[2000:], y[2000:]), examples, batches, methods)
    return rows


SECTIONS: dict[str, Callable[[int, int], list[Row]]] = {
    "untrained": untrained,
    "trained": trained,
    "large": large,
    "wide": wide,
}


def table(  # noqa: PLR0917 - a table's axes
    title: str,
    nets: list[nn.Sequential],
    data: tuple[Tensor, Tensor],
    examples: int,
    batches: int,
    methods: dict[str, Attack],
    *,
    known: bool = True,
    skew: float = 0.0,
) -> list[Row]:
    """One row a method: means over all networks and batches; a failed run scores as no labels at all."""
    sums: dict[str, dict[str, float]] = {name: defaultdict(float) for name in methods}
    bounds = (data[0].amin(), data[0].amax())  # what is public of the data: the range of all of them
    for index, net in enumerate(nets):
        for inputs, labels in draws(data, examples, batches, index, skew):
            observation = observe(net, inputs, labels, bounds, known=known)
            for name, attack in methods.items():
                for key, value in score(attack, observation, labels).items():
                    sums[name][key] += value
    runs = len(nets) * batches
    counts = {"certified_labels", "wrong_certified", "failed", "exact"}
    return [
        {"setting": title, "method": name, "networks": len(nets), "batches": batches}
        | {key: value if key in counts else value / runs for key, value in total.items()}
        for name, total in sums.items()
    ]


def score(attack: Attack, observation: Observation, labels: Tensor) -> dict[str, float]:
    """The numbers of one run."""
    started = time.perf_counter()
    result = attack(observation, generator=torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - started
    got = result.labels if result.labels is not None else labels[:0]
    sure = torch.bincount(got[result.certified], minlength=observation.classes) if len(got) else torch.zeros(1)
    true = torch.bincount(labels, minlength=observation.classes)
    wrong = sure - true if result.outcome is Outcome.EXACT else (sure - true).clamp_min(0)  # EXACT: none is lacking
    return {
        "leacc": leacc(got, labels, observation.classes),
        "lnacc": lnacc(got, labels, observation.classes),
        "exact_vector": exact_vector(got, labels, observation.classes),
        "l1_half": l1_half(got, labels, observation.classes),
        "ms": 1000 * seconds,
        "exact": float(result.outcome is Outcome.EXACT),
        "certified_labels": float(sure.sum()),
        "wrong_certified": float(wrong.abs().sum()) if len(got) else 0.0,
        "failed": float(result.outcome is Outcome.FAILED),
    }


def observe(
    net: nn.Sequential, inputs: Tensor, labels: Tensor, bounds: tuple[Tensor, Tensor], *, known: bool
) -> Observation:
    """What the server has; of convolutional networks the last layer's gradient, which is all that is read there."""
    if any(isinstance(module, nn.Linear) for module in list(net)[:-1]) and not isinstance(net[0], nn.Conv2d):
        parameters = dict(net.named_parameters())
        gradients = torch.autograd.grad(cross_entropy(net(inputs), labels), list(parameters.values()))
        return _view(net, dict(zip(parameters, gradients, strict=True)), inputs, labels, bounds, known=known)
    with torch.no_grad():
        embeddings = net[:-1](inputs)
    last = net[-1]
    gradients = torch.autograd.grad(cross_entropy(last(embeddings), labels), list(last.parameters()))
    names = [f"{len(net) - 1}.{name}" for name, _ in last.named_parameters()]
    return _view(net, dict(zip(names, gradients, strict=True)), inputs, labels, bounds, known=known)


def _view(
    net: nn.Sequential,
    gradients: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    bounds: tuple[Tensor, Tensor],
    *,
    known: bool,
) -> Observation:
    one = Round(network=net, update=GradientUpdate(gradients), batch_size=len(labels) if known else None)
    return Observation(rounds=(one,), input_shape=tuple(inputs.shape[1:]), classes=net[-1].out_features, bounds=bounds)


def draws(
    data: tuple[Tensor, Tensor], examples: int, batches: int, index: int, skew: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without replacement; with labels from Dirichlet(skew) if that is positive, then with replacement."""
    x, y = data
    for batch in range(batches):
        generator = torch.Generator().manual_seed(1000 * index + batch)
        if skew:
            rng = np.random.default_rng(1000 * index + batch)
            shares = rng.dirichlet(np.full(int(y.max()) + 1, skew))[y.numpy()] + 1e-12
            chosen = torch.from_numpy(rng.choice(len(y), examples, p=shares / shares.sum()))
        else:
            chosen = torch.randperm(len(x), generator=generator)[:examples]
        yield x[chosen], y[chosen]


def mnist() -> tuple[Tensor, Tensor]:
    """The test images, [10000, 784] in [0, 1]."""
    images = gzip.decompress((DATA / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((DATA / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255
    return torch.from_numpy(x), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def cifar100() -> tuple[Tensor, Tensor]:
    """The test images, [10000, 3, 32, 32], normalised."""
    stored = np.load(DATA / "cifar100/cifar100_test.npz")
    x = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 255
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    return x, torch.from_numpy(stored["labels"].astype(np.int64))


def clusters(classes: int) -> tuple[Tensor, Tensor]:
    """4,000 points around one centre a class."""
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(classes, (4000,), generator=generator)
    centres = torch.rand(classes, 12, generator=generator)
    return centres[y] + 0.2 * torch.randn(4000, 12, generator=generator), y


def lenet5(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """LeNet-5 for 3 x 32 x 32 and 100 classes; 84 features into the last layer."""
    first = [nn.Conv2d(3, 6, 5), activation(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), activation(), nn.AvgPool2d(2)]
    last = [nn.Flatten(), nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 100)]
    return nn.Sequential(*first, *last)


def cnn() -> nn.Sequential:
    """Two convolutions and a layer of 512, for 3 x 32 x 32."""
    convolutions = [nn.Conv2d(3, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, 100))


def head(width: int, classes: int) -> nn.Sequential:
    """A last layer alone, with logits of deviation about one."""
    net = nn.Sequential(nn.Identity(), nn.Linear(width, classes))
    nn.init.normal_(net[1].weight, std=width**-0.5)
    return net


def seeded(seed: int, build: Callable[[], nn.Sequential]) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def fit(net: nn.Sequential, x: Tensor, y: Tensor, steps: int, rate: float = 1e-3) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
    return net


def accuracy(net: nn.Sequential, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def store(rows: list[Row], out: Path, *, section: str) -> None:
    """Put the rows in the place of those of the same setting and method, or at the end; write both files anew."""
    stored = out.with_suffix(".json")
    every: list[Row] = json.loads(stored.read_text()) if stored.exists() else []
    places = {(row["setting"], row["method"]): place for place, row in enumerate(every)}
    for row in rows:
        place = places.get((row["setting"], row["method"]))
        marked: Row = {**row, "section": section}
        every = [*every, marked] if place is None else [*every[:place], marked, *every[place + 1 :]]
    out.parent.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(every, indent=1) + "\n")
    out.with_suffix(".md").write_text(_markdown(every))


def _markdown(rows: list[Row]) -> str:
    sure, bad = (sum(float(row.get(key, 0)) for row in rows) for key in ("certified_labels", "wrong_certified"))
    exact = [row for row in rows if str(row["method"]).startswith("exact")]
    runs = sum(int(row["networks"]) * int(row["batches"]) for row in exact)
    lines = [
        "# Labels from one update",
        "",
        "Commands: `python benchmarks/labels.py --inits 5 --batches 20` (untrained, wide, large, trained) and",
        "`python benchmarks/labels_more.py` and `labels_deep.py` (the sections after these).",
        f"Machine: {platform.machine()} CPU, 1 thread, torch {torch.__version__}, float32 gradients.",
        "Seeds: initialisations 0, 1, ...; batch j of network i has seed 1000 i + j. A failed run scores as no labels.",
        f"Certificates: {runs} runs of `exact`, {sure:.0f} labels certified in all rows, **{bad:.0f} of them wrong**.",
        "Other programs shared the machine: times are upper bounds, and compare within one table only. The rows",
        "`noise prior` and `RLG` of the sections of `labels.py` were measured apart from the rest of their tables.",
        "",
    ]
    for title in dict.fromkeys(str(row["setting"]) for row in rows):
        lines += [f"## {title}", "", *_table([row for row in rows if row["setting"] == title]), ""]
    return "\n".join(lines)


def _table(part: list[Row]) -> list[str]:
    lines = [f"{part[0]['networks']} networks x {part[0]['batches']} batches.", ""]
    own = [key for key in part[0] if key not in KNOWN]
    if own:  # a table that is not about labels restored: its own columns
        lines += ["| method | " + " | ".join(own) + " |", "|---" * (len(own) + 1) + "|"]
        return lines + [
            f"| {row['method']} | " + " | ".join(_shown(row.get(key)) for key in own) + " |" for row in part
        ]
    lines += ["| method | LeAcc | LnAcc | exact vector | L1/2K | EXACT | wrong certified | failed | ms |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in part:
        means = " | ".join(f"{float(row[key]):.3f}" for key in ("leacc", "lnacc", "exact_vector", "l1_half"))
        counts = " | ".join(f"{float(row[key]):.0f}" for key in ("exact", "wrong_certified", "failed"))
        lines.append(f"| {row['method']} | {means} | {counts} | {float(row['ms']):.1f} |")
    return lines


def _shown(value: float | str | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inits", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--only", default="untrained,wide,large,trained")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "labels"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
