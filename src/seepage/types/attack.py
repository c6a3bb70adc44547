"""What an attack is, why it cannot run, and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from seepage.types.server import Observation

__all__ = [
    "GRANT_SIZE",
    "INTERRUPTED",
    "NOT_BEGUN",
    "Attack",
    "Obstacle",
    "Outcome",
    "Progress",
    "Reconstruction",
    "Stats",
    "go_on",
]

GRANT_SIZE = "grant it (`--knows batch-size`)"  # how `seepage audit` does; where another way leads there, that is said
INTERRUPTED = "it was interrupted"  # in ``Reconstruction.stats["stopped"]`` of work that progress told to stop
NOT_BEGUN = "it could not begin"  # there as well, FAILED: what the attack needs could not be read off the update

Stats = dict[str, float | int | str | bool]
"""Numbers and words worth telling, while they are gathered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why an attack cannot run here.

    Args:
        where: the layer, tensor or setting, as the user knows it.
        reason: one sentence; names the remedy where there is one.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Outcome(StrEnum):
    """How an attack that ran ended. An attack that could not run has no outcome but obstacles."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """What an attack got out of an observation.

    Args:
        outcome: ``EXACT`` only if every example carries a certificate that needs no truth.
        inputs: ``[k, *shape]`` in the order the attack found them, ``None`` if the attack reconstructs none.
        labels: ``[k]`` restored labels, -1 where unknown; ``None`` if none were restored.
        certified: ``[k]`` bool, one an example.
        layer: the layer whose inputs these are; ``""`` for the inputs of the network itself.
        reason: one sentence on how it ended, with likely causes and the remedy if it failed.
        stats: numbers and words worth keeping (directions found, samples drawn, residuals).
    """

    outcome: Outcome
    inputs: Tensor | None = None
    labels: Tensor | None = None
    certified: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    layer: str = ""
    reason: str = ""
    stats: Mapping[str, float | int | str | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.inputs is not None and self.certified.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"`certified` should hold one entry for each of {len(self.inputs)} examples; "
                f"found shape {list(self.certified.shape)}."
            )
        if self.outcome is Outcome.EXACT and (len(self.certified) == 0 or not bool(self.certified.all())):
            raise ValueError("`outcome` EXACT needs a certificate for every example; found examples without one.")
        if self.outcome is Outcome.FAILED and not self.reason:
            raise ValueError("`reason` should say why the attack failed; found an empty text.")


class Progress(Protocol):
    """Called by long work now and then. Returns whether to go on; on ``False`` the work returns what it has."""

    def __call__(self, done: int, total: int | None, note: str) -> bool: ...


def go_on(done: int, total: int | None, note: str) -> bool:  # noqa: ARG001 - the Progress of who does not care
    """The silent progress: never stops the work."""
    return True


@runtime_checkable
class Attack(Protocol):
    """Turns an observation into a reconstruction; a frozen record of options, no state survives a call."""

    @property
    def name(self) -> str:
        """How it is written on the command line and in findings."""
        ...

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """Why it cannot run on this observation; empty if it can."""
        ...

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction: ...
