"""A training of an attack network under way: how, step by step, and what it comes to."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from seepage.attacks.checkpoint import Books
from seepage.attacks.git import CoarseGIT
from seepage.attacks.inverter import Inverter
from seepage.attacks.inverters.matchederror import matched_error
from seepage.attacks.inverters.pairs import Pair, Pairs, PublicExamples
from seepage.errors import InputError
from seepage.types import Progress

__all__ = ["Run", "Trained", "Training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long and how an attack network is trained.

    Args:
        epochs: passes over the public inputs, at most. Gradients are computed afresh, grouped anew each time.
        group: batches (gradients) a step.
        rate: of Adam; falls along a cosine to a hundredth.
        held_out: share of the public inputs that is only looked at.
        patience: epochs without a better held-out error after which it stops.
        seed: of the split, the order and the attack network's start.
        seconds: of CPU time of this process, in all, after which it ends within an epoch too; the rate then falls over
            them. Such a training does not repeat exactly. ``None``: no limit.
    """

    epochs: int = 40
    group: int = 64
    rate: float = 1e-3
    held_out: float = 0.1
    patience: int = 8
    seed: int = 0
    seconds: float | None = None

    def __post_init__(self) -> None:
        for word in ("epochs", "group", "patience"):
            if getattr(self, word) < 1:
                raise InputError(f"`{word}` should be at least 1; found {getattr(self, word)}.")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"`seconds` should be positive; found {self.seconds}.")
        if not 0 < self.held_out < 1 or not self.rate > 0:
            raise InputError(
                f"`held_out` should lie in (0, 1) and `rate` be positive; found {self.held_out} and {self.rate}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """An attack network as good as it was on held-out pairs, and how it got there.

    Args:
        inverter: the attack.
        train_errors: mean squared error of each epoch's training pairs, matched.
        held_out_errors: the same of held-out pairs, before training and after each epoch.
        best_epoch: after how many epochs these weights were reached.
    """

    inverter: Inverter
    train_errors: tuple[float, ...]
    held_out_errors: tuple[float, ...]
    best_epoch: int


@dataclass(slots=True, kw_only=True)
class Run:
    """A training under way; ``parts``: which public inputs are held out, and the others."""

    module: nn.Module
    inverter: Inverter
    optimizer: torch.optim.Adam
    pairs: Pairs
    training: Training
    parts: tuple[Tensor, Tensor]
    books: Books = field(default_factory=Books)
    started: float = field(default_factory=time.process_time)
    walked: float = 0.0  # when the first step began

    def begin(self, progress: Progress) -> None:
        """What needs no training is fitted, from fewer pairs if told to stop, and the error so far noted."""
        (held, rest), b, group = self.parts, self.inverter.blueprint.examples, self.training.group
        said = self.pairs.predictions(rest[: len(rest) // b * b].reshape(-1, b))
        if not bool(said.isfinite().all()):
            raise InputError("The network should say finite numbers of the public inputs; found others.")
        if isinstance(self.module, CoarseGIT):
            total = math.ceil(len(rest) // b / group)
            pairs = _until(progress, self.pairs.groups(rest, group), total)
            self.module.fit(pairs, self.pairs.groups(held, group), said)
        self.judge()
        if not math.isfinite(self.books.best):
            raise InputError("The gradients of the public inputs should be finite; found others.")

    def goes_on(self) -> bool:
        """Whether epochs and time are left, the last better epoch is near, and the training has not diverged."""
        books, training = self.books, self.training
        patient = books.epoch - books.best_epoch < training.patience
        return books.epoch < training.epochs and self.spent() < 1 and patient and math.isfinite(books.held_out[-1])

    def spent(self) -> float:
        """Share of the time that is over, of what was left of it at the first step."""
        if self.training.seconds is None:
            return 0.0
        before = self.walked - self.started
        return (time.process_time() - self.walked) / max(self.training.seconds - before, 1e-9)

    def epoch(self, progress: Progress) -> bool:
        """Once over the pairs, grouped anew; whether it came to its end."""
        books, training, (_, rest) = self.books, self.training, self.parts
        steps = math.ceil(len(rest) // self.inverter.blueprint.examples / training.group)
        shuffled = rest[torch.randperm(len(rest), generator=_chance(training.seed, books.epoch))]
        losses = []
        for at, (gradients, truth, _) in enumerate(self.pairs.groups(shuffled, training.group)):
            over = min(1.0, max(books.epoch / training.epochs, self.spent()))
            share = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * over))
            self.optimizer.param_groups[0]["lr"] = training.rate * share
            loss = matched_error(self.module(gradients), truth).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            losses.append(float(loss.detach()))
            note = f"epoch {books.epoch + 1}, held-out error {books.best:.4f}"
            if not progress(books.epoch * steps + at, training.epochs * steps, note):
                return False
            if self.spent() >= 1:
                break
        books.train.append(sum(losses) / max(1, len(losses)))
        books.epoch += 1
        self.judge()
        return True

    def judge(self) -> None:
        """Notes the error of held-out pairs, and keeps the weights if it is the least."""
        self.module.eval()
        groups = self.pairs.groups(self.parts[0], self.training.group)
        with torch.no_grad():
            errors = torch.cat([matched_error(self.module(gradients), truth) for gradients, truth, _ in groups])
        self.module.train()
        error, books = float(errors.mean()), self.books
        books.held_out.append(error)
        if error < books.best:
            books.best, books.best_epoch = error, books.epoch
            books.weights = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def finished(self, public: PublicExamples | None) -> Trained:
        """The best so far."""
        self.module.load_state_dict(self.books.weights)
        self.module.eval()
        return Trained(
            inverter=replace(self.inverter, public=public),
            train_errors=tuple(self.books.train),
            held_out_errors=tuple(self.books.held_out),
            best_epoch=self.books.best_epoch,
        )


def _until(progress: Progress, groups: Iterable[Pair], total: int) -> Iterator[Pair]:
    """Groups of pairs as long as ``progress`` says go on."""
    for done, pairs in enumerate(groups, start=1):
        yield pairs
        if not progress(done, total, "groups of pairs for the closed map"):
            return


def _chance(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch + 1)
