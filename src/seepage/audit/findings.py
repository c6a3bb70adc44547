"""One row of an audit: plain values, one JSON line; could-not-run, failed and found-nothing stay apart."""

import math
from collections import Counter
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seepage.types import INTERRUPTED

__all__ = ["ControlCase", "Finding", "Score"]

Score = float | bool | None
_OF_LABELS = ("exact_vector", "wrong_certified")


class ControlCase(BaseModel):
    """What the same attack did where it must succeed: one small batch of the same network, nothing in its way.

    ``recovered`` counts examples that came out exactly or close enough; ``passed`` says that all of them did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int
    rule: str
    outcome: Literal["exact", "approximate", "failed"] | None
    exact: int
    recovered: int
    passed: bool
    interrupted: bool = False
    reason: str = ""
    seconds: float


class Finding(BaseModel):
    """What one attack did to one batch.

    ``outcome`` is ``None`` if the attack did not end by itself: with ``obstacles`` it could not run, with ``error`` it
    broke. ``certified`` and every list in ``scores`` have one entry for each example of the batch, in the batch's
    order; an example that nothing was matched with has ``None`` for its numbers and false for ``exact``. ``control`` is
    there if the attack gave nothing away: without one that passed, its silence says nothing. ``scores["units_alone"]``
    counts the units of the attacked layer that only this example switches on, and ``scores["rows"]`` says whether a row
    of the update is this example, whatever the attack made of it; ``scores["rows_shown"]``, of pictures where that
    tells more, whether a row shows it recognisably. ``scores["certified_beyond"]``, where there are any, is a number:
    certified examples left over when all of the batch had found theirs, and like none of them. ``unread`` names
    matrices of the update whose part in the network was not understood: silence says nothing then.

    Of an attack that restores labels and no inputs, ``scores`` holds numbers for the whole batch (``leacc``, ``lnacc``,
    ``exact_vector``, ``l1_half``, ``wrong_certified``), ``true_labels`` the truth in the batch's order, and
    ``certified`` which of these a certified label accounts for. ``true_labels`` are there after any score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    schema_version: Literal[1] = 1
    attack: str
    network: str
    rule: str
    defenses: list[str] = Field(default_factory=list)
    threat_model: str
    data: str
    normalize: str
    batch_size: int = Field(ge=0)
    batch: int = Field(ge=0)
    seed: int
    outcome: Literal["exact", "approximate", "failed"] | None
    obstacles: list[str] = Field(default_factory=list)
    error: str | None = None
    reason: str = ""
    certified: list[bool] = Field(default_factory=list)
    scores: dict[str, list[Score] | float | None] = Field(default_factory=dict)
    columns: dict[str, list[str | None]] = Field(default_factory=dict)
    unread: list[str] = Field(default_factory=list)
    labels: list[int] | None = None
    true_labels: list[int] | None = None
    layer: str = ""
    stats: dict[str, float | int | str | bool] = Field(default_factory=dict)
    seconds: float
    peak_memory_mib: float | None
    device: str
    versions: dict[str, str]
    artifact: str | None = None
    control: ControlCase | None = None

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        """A file that was cut or edited is refused when it is read, instead of being counted wrongly."""
        if len(self.certified) > self.batch_size:
            raise ValueError(f"`certified` should hold {self.batch_size} entries; found {len(self.certified)}")
        for word, values in self.scores.items():
            if isinstance(values, list) and len(values) != self.batch_size:
                raise ValueError(f"`scores.{word}` should hold {self.batch_size} entries; found {len(values)}")
        if self.restores_labels and not all(isinstance(self.scores.get(word), int | float) for word in _OF_LABELS):
            raise ValueError(f"`scores` should hold the numbers {', '.join(_OF_LABELS)}")
        return self

    @property
    def could_run(self) -> bool:
        """Whether the attack ran to an outcome of its own."""
        return self.outcome is not None

    @property
    def ended(self) -> bool:
        """Whether the attack was carried out to its end, neither refused, broken nor interrupted."""
        return self.could_run and self.stats.get("stopped") != INTERRUPTED

    @property
    def exact_examples(self) -> int:
        """How many examples of the batch were reconstructed exactly, by the truth."""
        exact = self.scores.get("exact")
        return sum(value is True for value in exact) if isinstance(exact, list) else 0

    @property
    def recognisable_examples(self) -> int:
        """How many examples came out exactly or near enough to be recognised."""
        shown = self.scores.get("recognisable")
        seen = sum(value is True for value in shown) if isinstance(shown, list) else 0
        return max(seen, self.exact_examples)

    @property
    def wrong_certified(self) -> int:
        """Certificates that the truth contradicts; anything but 0 is a fault of seepage."""
        exact = self.scores.get("exact")
        pairs = zip(self.certified, exact, strict=False) if isinstance(exact, list) else ()
        numbers = (self.scores.get(word) for word in ("wrong_certified", "certified_beyond"))
        return sum(sure and right is False for sure, right in pairs) + sum(
            round(number) for number in numbers if isinstance(number, float)
        )

    @property
    def restores_labels(self) -> bool:
        """Whether this is a finding on labels alone, scored as the unordered collection they are."""
        return "exact_vector" in self.scores

    @property
    def right_labels(self) -> int:
        """How many of the batch's labels were restored, each as often as it was there; the order is not known."""
        return (Counter(self.true_labels or []) & Counter(self.labels or [])).total()

    @property
    def leaked_labels(self) -> int:
        """Labels given away: all of the batch if every class's number is right, else those certified and right."""
        if not self.restores_labels:
            return 0
        return self.batch_size if self.scores["exact_vector"] == 1.0 else sum(self.certified)

    @property
    def given_away(self) -> int:
        """What a threshold is held against: examples reconstructed exactly or recognisably, or labels given away."""
        return max(self.recognisable_examples, self.leaked_labels)

    @property
    def silent(self) -> bool:
        """Whether the attack was carried out to its end and gave nothing away."""
        return self.ended and self.given_away == 0

    @property
    def overlooked(self) -> int:
        """Examples not given away that the update holds as rows of their own, at units that they alone switch on.

        No search is needed for them, so that an attack's silence says nothing. Findings of older versions only know of
        such units, which make such rows in a plain gradient.
        """
        return self.held(exactly=False)

    def held(self, *, exactly: bool) -> int:
        """The same; ``exactly`` leaves out pictures that their row, behind noise, only shows."""
        rows, plain = self.scores.get("rows"), self.rule == "fedsgd" and not self.defenses
        rows = rows if exactly else self.scores.get("rows_shown", rows)
        rows = self.scores.get("units_alone") if rows is None and plain else rows
        if not isinstance(rows, list):
            return 0
        return sum(bool(row) and not given for row, given in zip(rows, self.given(), strict=True))

    @property
    def conclusive(self) -> bool:
        """Whether the attack found an example, or its silence stands beside a control passed and overlooks nothing."""
        return self.settles(0.0)

    def settles(self, share: float) -> bool:
        """Whether it can be told if more than this share of the batch was given away.

        It can where more was; where no more was, only beside a passed control (if nothing was), if what the attack
        overlooked is within the share as well, and if all of the network was understood. A wrong certificate leaves
        nothing certain but what leaked.
        """
        most = share * self.batch_size
        if (self.wrong_certified or self.unread) and self.given_away <= most:
            return False
        sure = not self.silent or (self.control is not None and self.control.passed)
        return self.ended and (self.given_away > most or (sure and self.given_away + self.overlooked <= most))

    @property
    def complete(self) -> bool:
        """Whether nothing of it was left undone: it need not be tried again."""
        return bool(self.obstacles) or (self.ended and not (self.control is not None and self.control.interrupted))

    def given(self) -> list[bool]:
        """For each example of the batch: whether it was given away, exactly or recognisably (or its label, alone)."""
        shown = self.scores.get("recognisable")
        seen = shown if isinstance(shown, list) else [False] * self.batch_size
        return [sure or near is True for sure, near in zip(self.recovered(math.inf), seen, strict=True)]

    def recovered(self, least_psnr: float) -> list[bool]:
        """For each example of the batch: exact, or (an approximation) at least ``least_psnr`` dB from the original.

        Of labels alone: accounted for by a certified label, or all of them if every class's number is right.
        """
        if self.restores_labels:
            return [True] * self.batch_size if self.scores["exact_vector"] == 1.0 else list(self.certified)
        exact, psnr = (self.scores.get(word) for word in ("exact", "psnr"))
        sure = exact if isinstance(exact, list) else [False] * self.batch_size
        near = psnr if isinstance(psnr, list) else [None] * self.batch_size
        return [a is True or (b is not None and b >= least_psnr) for a, b in zip(sure, near, strict=True)]
