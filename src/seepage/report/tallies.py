"""Findings of a sweep by setting, over seeds and batches; what broke is counted apart and never averaged away."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from seepage.audit.findings import Finding

__all__ = ["Tally", "tallies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One setting.

    Args:
        network, rule, defenses, attack, threat_model, batch_size: the setting.
        batches: findings, of all seeds.
        examples: in the batches whose attack came to its end.
        exact: of these, reconstructed exactly.
        recognisable: of these, near enough to be recognised, the exact ones included.
        certified: of these, with a certificate.
        worst: most exact examples in one batch.
        inconclusive: findings without a leak whose control did not pass.
        broke: findings that ended in an error.
        could_not_run: findings that met an obstacle.
        interrupted: findings that were stopped.
    """

    network: str
    rule: str
    defenses: tuple[str, ...]
    attack: str
    threat_model: str
    batch_size: int
    batches: int
    examples: int
    exact: int
    recognisable: int
    certified: int
    worst: int
    inconclusive: int
    broke: int
    could_not_run: int
    interrupted: int

    @property
    def notes(self) -> str:
        """What keeps the figures from being the whole story."""
        seen = [f"{self.recognisable} recognisable"] if self.recognisable > self.exact else []
        words = ("inconclusive", "broke", "could_not_run", "interrupted")
        return ", ".join(
            [*seen, *(f"{getattr(self, word)} {word.replace('_', ' ')}" for word in words if getattr(self, word))]
        )


def tallies(findings: Sequence[Finding]) -> list[Tally]:
    """One line a setting, in the order in which they first come."""
    groups: dict[Hashable, list[Finding]] = {}
    for one in findings:
        key = (one.network, one.rule, tuple(one.defenses), one.attack, one.threat_model, one.batch_size)
        groups.setdefault(key, []).append(one)
    return [_tally(rows) for rows in groups.values()]


def _tally(rows: Sequence[Finding]) -> Tally:
    first, ended = rows[0], [one for one in rows if one.ended]
    return Tally(
        network=first.network,
        rule=first.rule,
        defenses=tuple(first.defenses),
        attack=first.attack,
        threat_model=first.threat_model,
        batch_size=first.batch_size,
        batches=len(rows),
        examples=sum(one.batch_size for one in ended),
        exact=sum(one.exact_examples for one in ended),
        recognisable=sum(one.recognisable_examples for one in ended),
        certified=sum(sum(one.certified) for one in ended),
        worst=max((one.exact_examples for one in ended), default=0),
        inconclusive=sum(not one.conclusive for one in ended),
        broke=sum(one.error is not None for one in rows),
        could_not_run=sum(bool(one.obstacles) for one in rows),
        interrupted=sum(one.could_run and not one.ended for one in rows),
    )
