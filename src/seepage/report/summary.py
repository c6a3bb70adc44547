"""Findings -> a verdict, two plain sentences, and the counts behind them."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from seepage.audit.findings import Finding, Score
from seepage.report.labelrows import LabelCounts, count_labels, label_sentences, nothing_certain

__all__ = ["AttackRow", "Counts", "Summary", "Verdict", "certified_at", "score_at", "summarize"]


class Verdict(StrEnum):
    """What a run says. There is no word for "safe": an attack that finds nothing proves nothing."""

    LEAKED = "leaked"
    NOTHING_FOUND = "nothing found"
    INCONCLUSIVE = "inconclusive"
    NOT_AUDITED = "could not be audited"


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
        certified: examples with a certificate, which needs no truth.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRow:
    """One attack over all its batches."""

    attack: str
    counts: Counts
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The head of the report."""

    verdict: Verdict
    sentences: tuple[str, str]
    counts: Counts
    attacks: tuple[AttackRow, ...]


def summarize(findings: Sequence[Finding], *, batches: int | None = None) -> Summary:
    """Count, and say in plain words what the counts mean.

    A leak outweighs everything; "nothing found" needs every batch attacked to the end, beside a passed control.

    Args:
        findings: of one run.
        batches: how many batches the run was to have; those that are not there count as not audited.
    """
    counts = _count(findings, batches)
    names = dict.fromkeys(finding.attack for finding in findings)
    attacks = []
    for name in names:
        own = [finding for finding in findings if finding.attack == name]
        attacks.append(AttackRow(attack=name, counts=_count(own), seconds=sum(finding.seconds for finding in own)))
    if counts.exact or counts.certified > counts.wrong:
        verdict, sentences = Verdict.LEAKED, _leaked(counts, findings)
    elif counts.recognisable:
        verdict, sentences = Verdict.LEAKED, _recognised(counts)
    elif counts.labels.leaked:
        verdict, sentences = Verdict.LEAKED, label_sentences(counts.labels)
    elif not findings or counts.missing or not all(finding.ended for finding in findings):
        verdict, sentences = Verdict.NOT_AUDITED, _not_audited(counts)
    elif counts.inconclusive:
        verdict, sentences = Verdict.INCONCLUSIVE, _inconclusive(counts, findings)
    else:
        verdict, sentences = Verdict.NOTHING_FOUND, _nothing_found(counts)
    return Summary(verdict=verdict, sentences=sentences, counts=counts, attacks=tuple(attacks))


def score_at(finding: Finding, score: str, index: int) -> Score:
    """One example's score, ``None`` where it was not recorded."""
    values = finding.scores.get(score)
    return values[index] if isinstance(values, list) and index < len(values) else None


def certified_at(finding: Finding, index: int) -> bool:
    """Whether one example carries a certificate."""
    return index < len(finding.certified) and finding.certified[index]


def _count(findings: Sequence[Finding], planned: int | None = None) -> Counts:
    """An example that two attacks reconstruct counts once."""
    batches: dict[Hashable, list[Finding]] = {}
    for finding in findings:
        batches.setdefault(_batch(finding), []).append(finding)
    attacked = [rows for rows in batches.values() if any(finding.could_run for finding in rows)]
    on_inputs = [[one for one in rows if one.could_run and not one.restores_labels] for rows in attacked]
    places = [(rows, index) for rows in on_inputs if rows for index in range(rows[0].batch_size)]
    exact = [_any(rows, index, "exact") for rows, index in places]
    certified = [any(certified_at(finding, index) for finding in rows) for rows, index in places]
    missing = max(0, (planned or 0) - len({finding.batch for finding in findings}))
    return Counts(
        batches=len(batches) + missing,
        missing=missing,
        attacked=len(attacked),
        settled=sum(any(_settles(finding) for finding in rows) for rows in attacked),
        examples=len(places),
        exact=sum(exact),
        recognisable=sum(_any(rows, index, "recognisable") or _any(rows, index, "exact") for rows, index in places),
        certified=sum(certified),
        wrong=sum(any(_wrong(finding, index) for finding in rows) for rows, index in places),
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


def _settles(finding: Finding) -> bool:
    sure = len(finding.certified) == finding.batch_size and all(finding.certified)
    return sure and finding.exact_examples == finding.batch_size


def _leaked(counts: Counts, findings: Sequence[Finding]) -> tuple[str, str]:
    where = "" if counts.attacked == counts.batches else f" in the {_some_batches(counts)}"
    share = f"{counts.exact} of {counts.examples} private examples"
    inner = {finding.layer for finding in findings if finding.exact_examples}
    if inner and "" not in inner:
        layers = ", ".join(sorted(inner))
        first = (
            f"For {share}{where}, the inputs of an inner layer ({layers}) were reconstructed exactly from what the "
            "client sent; the examples themselves were not."
        )
    else:
        first = f"{share}{where} were reconstructed exactly from what the client sent."
    if not counts.certified:
        return first, "None carries a certificate: the server has them, but cannot prove by itself which are right."
    carry = "carries" if counts.certified == 1 else "carry"
    if counts.wrong:
        return first, f"{counts.certified} {carry} a certificate, {counts.wrong} of them wrongly: rely on none of them."
    proof = "the server can tell, without ever seeing an original, that the reconstruction is right."
    return first, f"{counts.certified} {carry} a certificate: {proof}"


def _recognised(counts: Counts) -> tuple[str, str]:
    return (
        f"{counts.recognisable} of {counts.examples} private examples came out recognisably from what the client sent, "
        "none of them exactly: far nearer to their originals than a guess would come.",
        "None carries a certificate: the server has likenesses, but cannot prove by itself that they are true.",
    )


def _nothing_found(counts: Counts) -> tuple[str, str]:
    second = "a stronger attack, a larger budget or another batch may succeed."
    if counts.labels.batches and not counts.examples:
        return nothing_certain(counts.labels)
    if counts.approximate:
        return (
            f"None of {counts.examples} private examples was reconstructed exactly; the attack came to approximations, "
            "none of them near enough to be counted as recognisable: judge them below.",
            f"This attack found nothing exact or recognisable, which is not proof that nothing leaks: {second}",
        )
    return (
        f"The attack ran on {_plural(counts.batches, 'batch', 'batches')} and reconstructed none of "
        f"{_plural(counts.examples, 'private example', 'private examples')}.",
        f"This attack found nothing, which is not proof that nothing leaks: {second}",
    )


def _inconclusive(counts: Counts, findings: Sequence[Finding]) -> tuple[str, str]:
    number = _plural(counts.inconclusive, "attack", "attacks")
    control = any(finding.control is not None for finding in findings if not finding.conclusive)
    why = (
        "failed its positive control as well: it did not recover a small undefended batch of the same network"
        if control
        else "was not tried on a case where it must succeed"
    )
    return (
        f"Inconclusive: {number} found nothing exact or recognisable and {why}.",
        "Such silence says nothing about what the update gives away; the fault may lie with the attack or its budget.",
    )


def _not_audited(counts: Counts) -> tuple[str, str]:
    parts = (
        (counts.could_not_run, "could not be attacked"),
        (counts.broke, "ended in an error"),
        (counts.interrupted, "was interrupted" if counts.interrupted == 1 else "were interrupted"),
        (counts.missing, "was not reached" if counts.missing == 1 else "were not reached"),
    )
    why = ", ".join(f"{number} {what}" for number, what in parts if number)
    of = f"of {_plural(counts.batches, 'batch', 'batches')}, {why}"
    if not counts.attacked:
        return (
            f"This run could not be audited and says nothing about what the update gives away: {of}.",
            "That is a limit of the attack or of the set-up, not a sign of protection; the causes are named below.",
        )
    return (
        f"This run was audited only in part: {of}.",
        "Where the attack came to an end it gave nothing away, which is not proof that nothing leaks.",
    )


def _some_batches(counts: Counts) -> str:
    return f"{counts.attacked} of {counts.batches} batches where the attack came to a result"


def _plural(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
