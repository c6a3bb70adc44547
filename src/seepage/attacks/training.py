"""Training of attack networks on pairs of gradients and public inputs."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from seepage.attacks.blueprint import Blueprint
from seepage.attacks.git import CoarseGIT
from seepage.attacks.inverter import Inverter, build_module, load_inverter, save_inverter
from seepage.attacks.pairs import Pairs, PublicExamples
from seepage.errors import InputError
from seepage.types import Progress, go_on

__all__ = ["Trained", "Training", "matched_error", "train_inverter"]

_TAKEN = 2000  # public inputs that the attack takes along
_TAKEN_NUMBERS = 2**24  # in all of them: a file of 64 MiB
_LISTED = 4  # up to so many examples all orders are tried at once; beyond, one assignment a batch


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
    """

    epochs: int = 40
    group: int = 64
    rate: float = 1e-3
    held_out: float = 0.1
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for word in ("epochs", "group", "patience"):
            if getattr(self, word) < 1:
                raise InputError(f"`{word}` should be at least 1; found {getattr(self, word)}.")
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
class _State:
    epoch: int = 0
    best: float = math.inf
    best_epoch: int = -1
    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)


def train_inverter(
    network: nn.Module,
    blueprint: Blueprint,
    inputs: Tensor,
    labels: Tensor,
    *,
    training: Training,
    module: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress = go_on,
) -> Trained:
    """Train on gradients of the audited network as it stands, which is left as it is.

    The attacker is taken to know the network (it sends it out) and to have public inputs of the same kind.

    Args:
        network: the audited one.
        blueprint: of the attack network.
        inputs: ``[N, *shape]`` public inputs as the network sees them.
        labels: ``[N]`` their labels.
        training: how.
        module: an attack network to begin with, for example one that starts from known weights; else a fresh one.
        checkpoint: written after each epoch; where it stands already, the training is taken up.
        progress: asked after each step; on ``False`` the best so far is returned.

    Raises:
        InputError: too few public inputs, or a checkpoint of another training.
    """
    b = blueprint.examples
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(training.seed))
    kept = max(b, round(training.held_out * len(inputs)))
    if len(inputs) - kept < b:
        raise InputError(f"There should be more than {kept + b} public inputs for batches of {b}; found {len(inputs)}.")
    held, rest = order[:kept], order[kept:]
    module = module if module is not None else build_module(blueprint)
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=training.rate)
    state = _State()
    if checkpoint is not None and checkpoint.is_file():
        _take_up(checkpoint, Inverter(blueprint=blueprint, module=module), training, optimizer, state)
    pairs = Pairs(network, inputs, labels, b)
    public = _kept(module, (inputs, labels), held, rest)
    if isinstance(module, CoarseGIT) and state.epoch == 0:
        said = pairs.predictions(rest[: len(rest) // b * b].reshape(-1, b))
        module.fit(pairs.groups(rest, training.group), pairs.groups(held, training.group), said)
    if state.epoch == 0:
        _judge(module, pairs, held, training, state)
    steps = math.ceil(len(rest) // b / training.group)
    while state.epoch < training.epochs and state.epoch - state.best_epoch < training.patience:
        share = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * state.epoch / training.epochs))
        optimizer.param_groups[0]["lr"] = training.rate * share
        shuffled = rest[torch.randperm(len(rest), generator=_chance(training.seed, state.epoch))]
        losses = []
        for at, (gradients, truth, _) in enumerate(pairs.groups(shuffled, training.group)):
            loss = matched_error(module(gradients), truth).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            note = f"epoch {state.epoch + 1}, held-out error {state.best:.4f}"
            if not progress(state.epoch * steps + at, training.epochs * steps, note):
                return _finish(blueprint, module, state, public)
        state.train.append(sum(losses) / max(1, len(losses)))
        state.epoch += 1
        _judge(module, pairs, held, training, state)
        if checkpoint is not None:
            _write(checkpoint, Inverter(blueprint=blueprint, module=module), training, optimizer, state)
    return _finish(blueprint, module, state, public)


def matched_error(found: Tensor, truth: Tensor) -> Tensor:
    """``[k]``: mean squared error in the order of the examples that makes it least.

    Args:
        found: ``[k, b, *shape]``.
        truth: the same shape.
    """
    a, t = found.flatten(2), truth.flatten(2)
    costs = (a[:, :, None] - t[:, None]).square().mean(-1)  # [k, b, b]
    b = costs.shape[1]
    rows = torch.arange(b, device=costs.device)
    if b <= _LISTED:
        orders = torch.tensor(list(itertools.permutations(range(b))), device=costs.device)  # [b!, b]
        return costs[:, rows, orders].mean(-1).amin(1)
    chosen = [linear_sum_assignment(cost.detach().cpu().numpy())[1] for cost in costs]
    orders = torch.stack([torch.as_tensor(order, device=costs.device) for order in chosen])  # [k, b]
    return costs.gather(2, orders[:, :, None])[..., 0].mean(-1)


def _judge(module: nn.Module, pairs: Pairs, held: Tensor, training: Training, state: _State) -> None:
    module.eval()
    with torch.no_grad():
        errors = torch.cat([matched_error(module(g), truth) for g, truth, _ in pairs.groups(held, training.group)])
    module.train()
    error = float(errors.mean())
    state.held_out.append(error)
    if error < state.best:
        state.best, state.best_epoch = error, state.epoch
        state.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}


def _kept(module: nn.Module, public: tuple[Tensor, Tensor], held: Tensor, rest: Tensor) -> PublicExamples | None:
    """The public examples that the attack takes along; an attack network without the closed map takes none."""
    if not isinstance(module, CoarseGIT) or module.map is None:
        return None
    inputs, labels = public
    most = min(_TAKEN, _TAKEN_NUMBERS // max(1, inputs[0].numel()))
    judges = held[: max(module.blueprint.examples, most // 5)]
    rows = torch.cat([judges, rest[: max(module.blueprint.examples, most - len(judges))]])
    return PublicExamples(inputs=inputs[rows].float(), labels=labels[rows], held_out=len(judges))


def _finish(blueprint: Blueprint, module: nn.Module, state: _State, public: PublicExamples | None) -> Trained:
    if state.weights:
        module.load_state_dict(state.weights)
    inverter = Inverter(blueprint=blueprint, module=module.eval(), public=public)
    return Trained(
        inverter=inverter,
        train_errors=tuple(state.train),
        held_out_errors=tuple(state.held_out),
        best_epoch=state.best_epoch,
    )


def _chance(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch + 1)


def _progress_of(training: Training, state: _State) -> dict[str, object]:
    own = {name: getattr(training, name) for name in ("epochs", "group", "rate", "held_out", "patience", "seed")}
    books = {name: getattr(state, name) for name in ("epoch", "best", "best_epoch", "train", "held_out")}
    return {"training": own, "state": books}


def _write(path: Path, inverter: Inverter, training: Training, optimizer: torch.optim.Adam, state: _State) -> None:
    extra: dict[str, Tensor] = {f"best.{name}": value for name, value in state.weights.items()}
    for place, kept in optimizer.state_dict()["state"].items():
        extra |= {f"adam.{place}.{word}": value for word, value in kept.items()}
    note = json.dumps(_progress_of(training, state))
    save_inverter(inverter, path, extra=extra, note=note)


def _take_up(path: Path, inverter: Inverter, training: Training, optimizer: torch.optim.Adam, state: _State) -> None:
    found = load_inverter(path)
    with safe_open(path, framework="pt", device="cpu") as file:
        note: Mapping[str, dict[str, object]] = json.loads((file.metadata() or {}).get("note") or "{}")
        if found.blueprint != inverter.blueprint or note.get("training") != _progress_of(training, state)["training"]:
            raise InputError(f"The checkpoint {path} should be of the same training; found another: name another file.")
        kept: dict[int, dict[str, Tensor]] = {}
        for name in file.keys():  # noqa: SIM118 - no mapping
            kind, _, rest = name.partition(".")
            if kind == "best":
                state.weights[rest] = file.get_tensor(name)
            elif kind == "adam":
                place, _, word = rest.partition(".")
                kept.setdefault(int(place), {})[word] = file.get_tensor(name)
    for word, value in note["state"].items():
        setattr(state, word, value)
    inverter.module.load_state_dict(found.module.state_dict())
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})
