"""Two runs side by side: where more leaks, less leaks, and what only one of them says."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from seepage.audit.findings import Finding

__all__ = ["Change", "Pair", "compare"]


class Change(StrEnum):
    """What became of one audited batch."""

    MORE = "leaks more"
    LESS = "leaks less"
    SAME = "same"
    LOST = "no longer conclusive"
    GAINED = "now conclusive"
    ONLY_FIRST = "only in the first"
    ONLY_SECOND = "only in the second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same batch in both runs; ``None`` where one has it not."""

    first: Finding | None
    second: Finding | None

    @property
    def change(self) -> Change:
        """How they differ. Silence is compared only where both runs are conclusive; a new batch that leaks is more."""
        if self.first is None:
            return Change.MORE if self.second and self.second.given_away else Change.ONLY_SECOND
        if self.second is None:
            return Change.ONLY_FIRST
        before, after = self.first.given_away, self.second.given_away
        if self.first.conclusive and not self.second.conclusive:
            return Change.LOST
        if self.second.conclusive and not self.first.conclusive:
            return Change.MORE if after else Change.GAINED
        if before == after:
            return Change.SAME
        return Change.MORE if after > before else Change.LESS

    @property
    def finding(self) -> Finding:
        """Either of the two, to name the batch by."""
        found = self.second or self.first
        if found is None:
            raise ValueError("`first` or `second` should be a finding; found neither.")
        return found


def compare(first: Sequence[Finding], second: Sequence[Finding], *, ignore: frozenset[str] = frozenset()) -> list[Pair]:
    """Pair findings of the same batch, attack and setting; in the order of the first, then what only the second has.

    Args:
        first: the findings before.
        second: the findings after.
        ignore: fields that may differ between the two of a pair, for example ``rule`` and ``defenses``.
    """
    before, after = _by_setting(first, ignore), _by_setting(second, ignore)
    keys = [*before, *(key for key in after if key not in before)]
    return [Pair(first=before.get(key), second=after.get(key)) for key in keys]


_SETTING = ("attack", "network", "rule", "defenses", "threat_model", "data", "normalize", "batch_size", "batch", "seed")


def _by_setting(findings: Sequence[Finding], ignore: frozenset[str]) -> dict[tuple[str, ...], Finding]:
    return {tuple(str(getattr(one, key)) for key in _SETTING if key not in ignore): one for one in findings}
