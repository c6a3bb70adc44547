"""Findings -> a verdict in two plain sentences, and the counts behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from seepage.audit.findings import Finding

__all__ = ["Counts", "Summary", "Verdict", "summarize"]


class Verdict(StrEnum):
    """What a run says. There is no "safe": an attack that finds nothing proves nothing."""

    LEAKED = "Private examples were reconstructed"
    SUSPECTED = "Approximations only"
    NOTHING_FOUND = "This attack found nothing"
    NOT_AUDITED = "Could not be audited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Batches and examples of a run, by how they ended.

    ``wrong`` counts certified examples that are not exact by the truth: anything but 0 is a fault of seepage.
    """

    batches: int
    refused: int
    broken: int
    failed: int
    examples: int
    exact: int
    certified: int
    wrong: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The head of the report: a verdict, two sentences, and the counts."""

    verdict: Verdict
    sentences: tuple[str, str]
    counts: Counts


def summarize(findings: Sequence[Finding]) -> Summary:
    """Count, and say in plain words what the counts mean."""
    counts = _count(findings)
    attacked = counts.batches - counts.refused - counts.broken
    if counts.exact:
        verdict = Verdict.LEAKED
        first = f"{counts.exact} of {counts.examples} private examples were reconstructed exactly."
    elif not attacked:
        verdict = Verdict.NOT_AUDITED
        first = "No batch could be attacked, so this run says nothing about whether private examples leak."
    elif counts.failed < attacked:
        verdict = Verdict.SUSPECTED
        first = f"None of {counts.examples} private examples was reconstructed exactly; approximations were."
    else:
        verdict = Verdict.NOTHING_FOUND
        first = f"The attack ran and reconstructed none of {counts.examples} private examples."
    return Summary(verdict=verdict, sentences=(first, _second(counts, attacked)), counts=counts)


def _count(findings: Sequence[Finding]) -> Counts:
    certified = wrong = 0
    for finding in findings:
        exact = finding.scores.get("exact")
        truths = exact if isinstance(exact, list) else [False] * len(finding.certified)
        certified += sum(finding.certified)
        wrong += sum(sure and truth is not True for sure, truth in zip(finding.certified, truths, strict=True))
    return Counts(
        batches=len(findings),
        refused=sum(bool(finding.obstacles) for finding in findings),
        broken=sum(finding.error is not None for finding in findings),
        failed=sum(finding.outcome == "failed" for finding in findings),
        examples=sum(finding.batch_size for finding in findings),
        exact=sum(finding.exact_examples for finding in findings),
        certified=certified,
        wrong=wrong,
    )


def _second(counts: Counts, attacked: int) -> str:
    if counts.certified:
        said = f"The server could prove {counts.certified} of them right without ever seeing the originals."
    elif counts.exact:
        said = "The server could not have proved which of them are right."
    elif attacked:
        said = "That is not proof that nothing leaks: a stronger attack or a larger budget may succeed."
    else:
        said = "Read the obstacles below before drawing any conclusion."
    kinds = ((counts.refused, "could not be attacked"), (counts.broken, "broke the attack"))
    missing = " and ".join(f"{count} {what}" for count, what in kinds if count)
    return said + (f" Of {counts.batches} batches, {missing}." if missing else "")
