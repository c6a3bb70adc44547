"""A training under way as a file: the attack network, the best so far, the optimizer, and what it is a training of."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from seepage.attacks.inverter import Inverter
from seepage.attacks.inverterfile import load_inverter, save_inverter
from seepage.errors import InputError

__all__ = ["Books", "Checkpoint", "fingerprint"]

_NUMBERS = ("epoch", "best", "best_epoch", "train", "held_out")


@dataclass(slots=True, kw_only=True)
class Books:
    """What a training has seen so far.

    Args:
        epoch: that are over.
        best: least held-out error.
        best_epoch: when that was; -1 before the first look.
        train: errors of the epochs.
        held_out: errors before the first epoch and after each.
        weights: of the best.
    """

    epoch: int = 0
    best: float = math.inf
    best_epoch: int = -1
    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a training is kept, and what it is a training of.

    Args:
        path: a safetensors file.
        training: settings, and :func:`fingerprint` of network and public data, by what they are called; another
            training's file is refused.
    """

    path: Path
    training: Mapping[str, object]

    def write(self, inverter: Inverter, optimizer: torch.optim.Adam, books: Books) -> None:
        """Whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        extra: dict[str, Tensor] = {f"best.{name}": value for name, value in books.weights.items()}
        for place, kept in optimizer.state_dict()["state"].items():
            extra |= {f"adam.{place}.{word}": value for word, value in kept.items()}
        numbers = {name: getattr(books, name) for name in _NUMBERS}
        note = json.dumps({"training": dict(self.training), "state": numbers})
        save_inverter(inverter, self.path, extra=extra, note=note)

    def take_up(self, inverter: Inverter, optimizer: torch.optim.Adam) -> Books:
        """Puts module and optimizer where they were; nothing is changed on an error.

        Raises:
            InputError: the file is no checkpoint, or one of another training.
        """
        try:
            found = load_inverter(self.path, unfinished=True)
        except InputError as error:
            raise InputError(
                f"{self.path} should be a whole checkpoint; found none: {error} Remove it, or name another file."
            ) from error
        with safe_open(self.path, framework="pt", device="cpu") as file:
            note = _note(file.metadata() or {})
            others = _differing(note.get("training"), self.training)
            others += ["attack network"] if found.blueprint != inverter.blueprint else []
            if others:
                raise InputError(
                    f"The checkpoint {self.path} should be of the same training (network, public data, settings); "
                    f"found another (other {', '.join(others)}): name another file."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        expected = inverter.module.state_dict()
        best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
        try:
            books = Books(**{name: note["state"][name] for name in _NUMBERS}, weights=best)
            moments = _moments(tensors, list(inverter.module.parameters()))
            sound = 0 < books.epoch == len(books.train) == len(books.held_out) - 1
            sound = sound and books.best == books.held_out[books.best_epoch]
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"{self.path} should be a whole checkpoint; found a broken one ({error!r}).") from error
        if not sound or not _alike(best, expected):
            raise InputError(f"{self.path} should be a whole checkpoint; found a broken one.")
        inverter.module.load_state_dict(found.module.state_dict())
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        return books


def fingerprint(network: nn.Module, inputs: Tensor, labels: Tensor) -> str:
    """Of all numbers that a training's pairs are made of."""
    found = hashlib.sha256()
    for value in (*network.state_dict().values(), inputs, labels):
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _differing(found: object, expected: Mapping[str, object]) -> list[str]:
    """What is not the same in two descriptions of a training."""
    kept = found if isinstance(found, Mapping) else {}
    return [word for word in {**expected, **kept} if kept.get(word) != expected.get(word)]


def _note(header: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(header.get("note") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _alike(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """The same names and shapes, all finite."""
    shapes = {name: value.shape for name, value in found.items()}
    right = shapes == {name: value.shape for name, value in expected.items()}
    return right and all(bool(value.isfinite().all()) for value in found.values())


def _moments(tensors: Mapping[str, Tensor], parameters: list[nn.Parameter]) -> dict[int, dict[str, Tensor]]:
    """Adam's, by the place of the parameter; of all parameters that have had a gradient.

    Raises:
        ValueError: one does not fit its parameter.
    """
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "adam":
            place, _, word = rest.partition(".")
            if int(place) >= len(parameters) or (value.ndim and value.shape != parameters[int(place)].shape):
                raise ValueError(f"`{name}` has the shape {list(value.shape)}")
            found.setdefault(int(place), {})[word] = value
    if not found:
        raise ValueError("the optimizer's moments are missing")
    return found
