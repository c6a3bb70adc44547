"""When an attack stops without a result."""

import math
from dataclasses import dataclass

__all__ = ["SPENT", "Budget"]

SPENT = "the budget ended"  # as the word on why an attack stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to stop: after so many samples or starts, or seconds, whichever comes first; ``None`` is no limit."""

    samples: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for word in ("samples", "seconds"):
            value = getattr(self, word)
            if value is not None and not value > 0:  # NaN neither
                raise ValueError(f"`{word}` should be positive; found {value}.")

    def share_left(self, samples: int, seconds: float) -> float:
        """What is left after so many, as a share: of the limit that is nearer, in tenths, rounded up.

        At least one tenth, so that what comes next can say something; in tenths, for seconds do not repeat exactly.
        """
        used = [
            spent / limit for spent, limit in ((samples, self.samples), (seconds, self.seconds)) if limit is not None
        ]
        return max(1, math.ceil(10 * (1 - max(used, default=0.0)))) / 10

    def part(self, share: float) -> "Budget":
        """A ``share`` of either limit, at least one sample."""
        return Budget(
            samples=None if self.samples is None else max(1, math.ceil(share * self.samples)),
            seconds=None if self.seconds is None else share * self.seconds,
        )

    def spent(self, samples: int, seconds: float) -> bool:
        """Whether either limit is reached."""
        return (self.samples is not None and samples >= self.samples) or (
            self.seconds is not None and seconds >= self.seconds
        )
