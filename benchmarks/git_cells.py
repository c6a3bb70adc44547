"""What benchmarks/git.py attacks, and one attack on it: data, trained networks, noise, scores, what is left to do."""

import copy
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from git_page import Row, stored
from torch import nn

from seepage.attacks.inverters.blueprint import InverterKind, draw_blueprint
from seepage.attacks.training import Trained, Training, train_inverter
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr, ssim
from seepage.types import (
    Attack,
    GradientUpdate,
    Observation,
    Obstacle,
    Outcome,
    PrivateBatch,
    Progress,
    Reconstruction,
    ThreatModel,
    go_on,
)

__all__ = [
    "DATA",
    "Plan",
    "Remembered",
    "Score",
    "attacked",
    "cifar",
    "cifar100",
    "noised",
    "planned",
    "split",
    "trained",
    "trained_on",
]

DATA = Path(os.environ.get("SEEPAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
_MANY = 10_000  # epochs: the time ends a training
Score = tuple[float, float, float, float]


def cifar(file: str) -> Dataset:
    """One file of CIFAR-10, inputs in [0, 1]."""
    return load_dataset(str(DATA / "cifar10" / f"cifar10_{file}.npz"), normalize="none")


def cifar100() -> Dataset:
    """CIFAR-100's test file, likewise."""
    return load_dataset(str(DATA / "cifar100" / "cifar100_test.npz"), normalize="none")


def split(source: str, pairs: int, seed: int) -> tuple[PrivateBatch, PrivateBatch]:
    """Public examples, mirrored too where there are few, and private ones, drawn by the seed."""
    chance = torch.Generator().manual_seed(seed)
    if source == "cifar10":
        public, private = cifar("train_batch1"), cifar("test")
        given = public.batch(torch.randperm(len(public), generator=chance)[:pairs])
        return given, private.batch(torch.randperm(len(private), generator=chance)[:64])
    if source == "lfw64":
        whole = load_dataset(str(DATA / "lfw" / "images"), size=64, normalize="none")
    else:
        whole = load_dataset(str(DATA / "imagenet64" / "imagenet64_500.npz"), normalize="none")
    order = torch.randperm(len(whole), generator=chance)
    kept, given = whole.batch(order[:40]), whole.batch(order[40:])
    inputs = torch.cat([given.inputs, given.inputs.flip(-1)])
    # A class an image would leave nothing to learn: the labels of photos are folded to ten.
    fold = whole.classes if source == "lfw64" else 10
    both = PrivateBatch(inputs=inputs, labels=torch.cat([given.labels, given.labels]) % fold)
    return both, PrivateBatch(inputs=kept.inputs, labels=kept.labels % fold)


def trained(
    network: nn.Module, kind: InverterKind, given: PrivateBatch, *, examples: int, seed: int, seconds: float
) -> tuple[Trained, float]:
    """A training of so many CPU seconds, and how many they were with the last look."""
    blueprint = draw_blueprint(network, kind=kind, input_shape=tuple(given.inputs.shape[1:]), examples=examples)
    training = Training(epochs=_MANY, patience=_MANY, seed=seed, seconds=seconds)
    started = time.process_time()
    found = train_inverter(network, blueprint, given.inputs, given.labels, training=training)
    return found, time.process_time() - started


def trained_on(network: nn.Module, data: Dataset, rows: torch.Tensor, steps: int) -> nn.Module:
    """The network after so many steps of SGD, rate 0.1, on batches of 32 that no attacker saw."""
    later = copy.deepcopy(network)
    optimizer = torch.optim.SGD(later.parameters(), lr=0.1)
    for step in range(steps):
        batch = data.batch(rows[(torch.arange(32) + 32 * step) % len(rows)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(later(batch.inputs), batch.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return later


def noised(update: GradientUpdate, share: float) -> GradientUpdate:
    """Gaussian noise of a standard deviation of ``share`` of the root mean square of the whole gradient."""
    numbers = sum(value.numel() for value in update.values())
    size = math.sqrt(sum(float(value.square().sum()) for value in update.values()) / numbers)
    chance = torch.Generator().manual_seed(1)
    return GradientUpdate(
        {name: value + share * size * torch.randn(value.shape, generator=chance) for name, value in update.items()}
    )


def attacked(
    attack: Attack, network: nn.Module, batch: PrivateBatch, *, noise: float = 0.0, classes: int = 10
) -> Score | None:
    """MSE, PSNR, SSIM and CPU seconds, ``None`` if it failed."""
    chance = torch.Generator().manual_seed(0)
    update = FedSGD()(network, batch, chance)
    assert isinstance(update, GradientUpdate)
    observation = ThreatModel(batch_size=True).view(
        network=network,
        update=noised(update, noise) if noise else update,
        batch=batch,
        rule=FedSGD(),
        classes=classes,
        bounds=(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)),
    )
    if attack.obstacles(observation):
        return None  # counted as failed: it gives nothing here
    started = time.process_time()  # one thread: CPU seconds, whatever else the machine does
    found = attack(observation, generator=chance)
    seconds = time.process_time() - started
    if found.inputs is None or found.outcome is Outcome.FAILED:
        return None
    ordered = found.inputs[match(found.inputs, batch.inputs)]
    likeness = ssim(ordered, batch.inputs)
    return (
        float((ordered - batch.inputs).square().mean()),
        float(psnr(ordered, batch.inputs).clamp(max=150).mean()),
        0.0 if likeness is None else float(likeness.mean()),
        seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: what has no row yet, or the attacks named; ``known``: rows by attack."""

    known: dict[str, Row]
    again: frozenset[str] = frozenset()

    def asks(self, word: str) -> bool:
        """Whether this attack is to be measured."""
        return word in self.again if self.again else word not in self.known

    def taken(self, word: str) -> float:
        """CPU seconds of an attack network's training and of one of its calls."""
        row = self.known[word]
        return float(row["training"] + mean(score[3] for score in row["scores"] if score is not None))


def planned(place: Row, *, again: str) -> Plan:
    """What is still to be measured at a place, and ``again`` (A;B); trainings without a limit of time count as none."""
    here = [row for row in stored() if all(row.get(key) == value for key, value in place.items())]
    here = [row for row in here if "limit" in row or not row["attack"].startswith(("Coarse-GIT", "LTI"))]
    named = frozenset(again.split(";")) if again else frozenset[str]()
    return Plan(known={row["attack"]: row for row in here}, again=named)


class Remembered:
    """An attack that is asked for the same update once: GIT+IG starts where GIT, measured before, has ended."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._kept: list[tuple[GradientUpdate, Reconstruction]] = []

    @property
    def name(self) -> str:
        """The attack's."""
        return self._attack.name

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """The attack's."""
        return self._attack.obstacles(observation)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """The attack's."""
        update = observation.latest.update
        for known, found in self._kept:
            if all(value.equal(known[name]) for name, value in update.items()):
                return found
        self._kept.append((update, self._attack(observation, generator=generator, progress=progress)))
        return self._kept[-1][1]
