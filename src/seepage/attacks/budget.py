"""When an attack stops without a result."""

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

    def spent(self, samples: int, seconds: float) -> bool:
        """Whether either limit is reached."""
        return (self.samples is not None and samples >= self.samples) or (
            self.seconds is not None and seconds >= self.seconds
        )
