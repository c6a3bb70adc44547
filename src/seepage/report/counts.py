"""Findings counted: batches and examples of a run, by how they ended."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from seepage.audit.findings import Finding, Score
from seepage.report.labelrows import LabelCounts, count_labels

__all__ = ["Counts", "certified_at", "count", "score_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Batches and examples of a run, by how they ended.

    Args:
        batches: different batches, those that were planned and are not there included.
        missing: of these, planned and not there.
        attacked: of these, with at least one attack that came to a result.
        settled: batches of which every example is exact and certified.
        examples: in the batches that were attacked.
        exact: examples equal to the original, by the truth.
        recognisable: examples that came out exactly or near enough to be recognised.
        certified: examples with a certificate, which needs no truth; those that the batch never held included.
        wrong: certified examples that are not exact by the truth; anything but 0 is a fault of seepage.
        could_not_run: findings whose attack met an obstacle.
        broke: findings whose attack ended in an error.
        failed: findings whose attack ran and found nothing.
        approximate: findings whose attack ran and found something that is not certified whole.
        interrupted: findings whose attack was stopped by the user.
        labels: what attacks on labels alone came to; examples above are those of other attacks.
        inconclusive: findings whose attack ended with nothing given away and no passed control beside it.
    """

    batches: int
    missing: int
    attacked: int
    settled: int
    examples: int
    exact: int
    recognisable: int
    certified: int
    wrong: int
    could_not_run: int
    broke: int
    failed: int
    approximate: int
    interrupted: int
    labels: LabelCounts
    inconclusive: int


def count(findings: Sequence[Finding], missing: int = 0) -> Counts:
    """Count; an example that two attacks reconstruct counts once.

    Args:
        findings: of one run.
        missing: batches that the run was to have besides.
    """
    batches: dict[Hashable, list[Finding]] = {}
    for finding in findings:
        batches.setdefault(_batch(finding), []).append(finding)
    attacked = [rows for rows in batches.values() if any(finding.could_run for finding in rows)]
    on_inputs = [[one for one in rows if one.could_run and not one.restores_labels] for rows in attacked]
    places = [(rows, index) for rows in on_inputs if rows for index in range(rows[0].batch_size)]
    exact = [_any(rows, index, "exact") for rows, index in places]
    certified = [any(certified_at(finding, index) for finding in rows) for rows, index in places]
    beyond = sum(max((_beyond(finding) for finding in rows), default=0) for rows in on_inputs)
    return Counts(
        batches=len(batches) + missing,
        missing=missing,
        attacked=len(attacked),
        settled=sum(any(_settles(finding) for finding in rows) for rows in attacked),
        examples=len(places),
        exact=sum(exact),
        recognisable=sum(_any(rows, index, "recognisable") or _any(rows, index, "exact") for rows, index in places),
        certified=sum(certified) + beyond,
        wrong=sum(any(_wrong(finding, index) for finding in rows) for rows, index in places) + beyond,
        could_not_run=sum(bool(finding.obstacles) for finding in findings),
        broke=sum(finding.outcome is None and not finding.obstacles for finding in findings),
        failed=sum(finding.outcome == "failed" and finding.ended for finding in findings),
        approximate=sum(finding.outcome == "approximate" and finding.ended for finding in findings),
        interrupted=sum(finding.could_run and not finding.ended for finding in findings),
        labels=count_labels(attacked),
        inconclusive=sum(finding.ended and not finding.conclusive for finding in findings),
    )


def _batch(finding: Finding) -> Hashable:
    """What tells one client's update from another's."""
    made = (finding.network, finding.rule, tuple(finding.defenses))
    return (finding.data, finding.seed, finding.batch, finding.batch_size, *made)


def _any(rows: Iterable[Finding], index: int, score: str) -> bool:
    return any(score_at(finding, score, index) is True for finding in rows)


def _wrong(finding: Finding, index: int) -> bool:
    return certified_at(finding, index) and score_at(finding, "exact", index) is False


def _beyond(finding: Finding) -> int:
    number = finding.scores.get("certified_beyond")
    return round(number) if isinstance(number, float) else 0


def _settles(finding: Finding) -> bool:
    sure = len(finding.certified) == finding.batch_size and all(finding.certified)
    return sure and finding.exact_examples == finding.batch_size


def score_at(finding: Finding, score: str, index: int) -> Score:
    """One example's score, ``None`` where it was not recorded."""
    values = finding.scores.get(score)
    return values[index] if isinstance(values, list) and index < len(values) else None


def certified_at(finding: Finding, index: int) -> bool:
    """Whether one example carries a certificate."""
    return index < len(finding.certified) and finding.certified[index]
