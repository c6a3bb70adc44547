"""What tests of several rooms share."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from seepage.types import (
    INTERRUPTED,
    NOT_BEGUN,
    Attack,
    Observation,
    Obstacle,
    Outcome,
    Progress,
    Reconstruction,
    go_on,
)

settings.register_profile("shared machine", deadline=None)  # no test asserts a time
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data sets; tests that need it skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEEPAGE_DATA", beside))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data in {folder}; set SEEPAGE_DATA to the folder that holds it")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """An attack that looks at nothing: it finds nothing, or breaks, or guesses labels, wherever it is put.

    Args:
        breaks: whether it has a bug in it.
        labels: that it says it restored, none of them certified.
        obstacle: why it cannot run on an observation; ``None`` if it can.
        returns: what it hands back in place of a reconstruction of its own.
        lacks: what it learns in its call that it cannot do without, where it lacks something.
    """

    breaks: bool = False
    labels: tuple[int, ...] = ()
    obstacle: Callable[[Observation], str | None] = lambda _: None
    lacks: str = ""
    returns: Callable[[], object] | None = None

    @property
    def name(self) -> str:
        return "planted"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        reason = self.obstacle(observation)
        return [] if reason is None else [Obstacle(where="rule", reason=reason)]

    def __call__(
        self,
        observation: Observation,  # noqa: ARG002
        *,
        generator: torch.Generator,  # noqa: ARG002
        progress: Progress = go_on,
    ) -> Reconstruction:
        if self.breaks:
            raise ZeroDivisionError("a bug")
        if self.returns is not None:
            return self.returns()  # type: ignore[return-value]
        if self.labels:
            return Reconstruction(
                outcome=Outcome.APPROXIMATE,
                labels=torch.tensor(self.labels),
                certified=torch.zeros(len(self.labels), dtype=torch.bool),
                reason="A guess.",
            )
        if self.lacks:
            return Reconstruction(outcome=Outcome.FAILED, reason=self.lacks, stats={"stopped": NOT_BEGUN})
        stopped = not progress(0, 1, "looking away")
        return Reconstruction(
            outcome=Outcome.FAILED, reason="It looked away.", stats={"stopped": INTERRUPTED} if stopped else {}
        )


@pytest.fixture(scope="session")
def plant() -> Callable[..., Attack]:
    """Makes planted attacks: ``plant()`` finds nothing, ``plant(breaks=True)`` breaks, ``labels=...`` guesses."""
    return Planted
