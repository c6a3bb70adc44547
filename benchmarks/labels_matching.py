"""Gradient matching with restored labels against guessed ones; adds to benchmarks/results/labels.*.

Reads only ../shared/data (or $SEEPAGE_DATA). Options: --only mnist,cifar100; --out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean, median

import torch
from label_networks import DATA
from label_options import Keep, arguments, run
from torch import Tensor

from seepage.attacks.labels.labelattack import LabelAttack, Question
from seepage.attacks.labels.labelbaselines import EvenCounts, UniformProbabilities
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.matching import ig
from seepage.data.sources import Dataset, draw_batch, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr
from seepage.networks.zoo import build_network
from seepage.types import Attack, ThreatModel

_SEEDS, _ITERATIONS = 5, 600


def mnist(keep: Keep) -> None:
    """An MLP: with the true labels, the restored ones, and K/C guessed."""
    data = load_dataset(str(DATA / "mnist" / "t10k-images-idx3-ubyte.gz"))
    sources: dict[str, Attack | None] = {"given": None, "restored (the entry)": RestoreLabels(), "K/C": EvenCounts()}
    sources["uniform"] = UniformProbabilities()
    for examples in (4, 6, 8):
        title = f"Gradient matching (ig, 600 iterations) on MNIST, mlp:100, b={examples}, mean PSNR of 5 seeds"
        _table(keep, title, data, "mlp:100", examples, sources, against="K/C")


def cifar100(keep: Keep) -> None:
    """A LeNet with sigmoid: with restored labels and with labels drawn evenly."""
    data = load_dataset(str(DATA / "cifar100" / "cifar100_test.npz"))
    sources: dict[str, Attack | None] = {"restored (the entry)": RestoreLabels(), "guessed": Guessed()}
    for examples in (4, 8):
        title = f"Gradient matching (ig, 600 iterations) on CIFAR-100, lenet:sigmoid, b={examples}, mean PSNR"
        _table(keep, title, data, "lenet:sigmoid", examples, sources, against="guessed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guessed(LabelAttack):
    """K labels drawn evenly."""

    @property
    def name(self) -> str:
        return "guessed"

    def counts(self, question: Question) -> Tensor:
        drawn = torch.randint(question.layer.classes, (question.examples,), generator=question.generator)
        return torch.bincount(drawn, minlength=question.layer.classes).double()


def _table(  # noqa: PLR0917
    keep: Keep,
    title: str,
    data: Dataset,
    network: str,
    examples: int,
    sources: Mapping[str, Attack | None],
    against: str,
) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(_SEEDS):
        for name, source in sources.items():
            found[name].append(_matched(data, network, examples, seed, source))
    base, gain = mean(found[against]), f"gain on {against}, dB"
    keep(
        [
            {"setting": title, "method": f"labels: {name}", "networks": len(values), "batches": 1}
            | {"mean dB": mean(values), "median dB": median(values), "least dB": min(values)}
            | {gain: mean(values) - base}
            for name, values in found.items()
        ]
    )


def _matched(data: Dataset, network: str, examples: int, seed: int, source: Attack | None) -> float:
    """Mean PSNR of a batch, 0 if nothing came back; ``source`` restores the labels, ``None`` knows them."""
    batch, _ = draw_batch(data, batch_size=examples, generator=torch.Generator().manual_seed(seed))
    net = build_network(network, input_shape=data.input_shape, classes=data.classes, seed=seed)
    seen = ThreatModel(batch_size=True, labels=source is None).view(
        network=net,
        update=FedSGD()(net, batch, torch.Generator().manual_seed(seed)),
        batch=batch,
        rule=FedSGD(),
        classes=data.classes,
        bounds=data.normalization.bounds(),
    )
    got = ig(labels=source, iterations=_ITERATIONS)(seen, generator=torch.Generator().manual_seed(seed))
    if got.inputs is None:
        return 0.0
    rows, truth = data.normalization.invert(got.inputs), data.normalization.invert(batch.inputs)
    return float(psnr(rows[match(rows, truth)], truth).clamp(max=150).mean())


SECTIONS: dict[str, Callable[[Keep], None]] = {"mnist": mnist, "cifar100": cifar100}


if __name__ == "__main__":
    run(SECTIONS, arguments(__doc__, SECTIONS).parse_args())
