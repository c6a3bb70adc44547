"""Counts -> a verdict and two plain sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from seepage.audit.findings import Finding
from seepage.audit.unread import unread_words
from seepage.report.counts import Counts, count
from seepage.report.labelrows import label_sentences, nothing_certain

__all__ = ["AttackRow", "Counts", "Summary", "Verdict", "summarize"]


class Verdict(StrEnum):
    """What a run says. There is no word for "safe": an attack that finds nothing proves nothing."""

    LEAKED = "leaked"
    NOTHING_FOUND = "nothing found"
    INCONCLUSIVE = "inconclusive"
    NOT_AUDITED = "could not be audited"


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


def summarize(findings: Sequence[Finding], *, missing: int = 0) -> Summary:
    """Count, and say in plain words what the counts mean.

    A leak outweighs everything; "nothing found" needs every batch attacked to the end, beside a passed control.

    Args:
        findings: of one run.
        missing: batches that the run was to have and that are not there: they count as not audited.
    """
    counts = count(findings, missing)
    names = dict.fromkeys(finding.attack for finding in findings)
    attacks = []
    for name in names:
        own = [finding for finding in findings if finding.attack == name]
        attacks.append(AttackRow(attack=name, counts=count(own), seconds=sum(finding.seconds for finding in own)))
    if counts.exact or counts.certified > counts.wrong:
        verdict, sentences = Verdict.LEAKED, _leaked(counts, findings)
    elif counts.recognisable:
        verdict, sentences = Verdict.LEAKED, _recognised(counts)
    elif counts.labels.leaked:
        verdict, sentences = Verdict.LEAKED, label_sentences(counts.labels)
    elif not findings or counts.missing or not all(finding.ended for finding in findings):
        ended = any(finding.ended for finding in findings)
        verdict, sentences = Verdict.NOT_AUDITED, _not_audited(counts, ended=ended)
    elif counts.inconclusive:
        verdict, sentences = Verdict.INCONCLUSIVE, _inconclusive(counts, findings)
    else:
        verdict, sentences = Verdict.NOTHING_FOUND, _nothing_found(counts)
    return Summary(verdict=verdict, sentences=sentences, counts=counts, attacks=tuple(attacks))


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
    first = (
        f"{counts.recognisable} of {counts.examples} private examples came out recognisably from what the client sent, "
        "none of them exactly: far nearer to their originals than a guess would come."
    )
    if counts.wrong:
        return first, f"{counts.wrong} carry a certificate, all of them wrongly: rely on none of them."
    return (
        first,
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
    overlooked = sum(finding.overlooked for finding in findings if finding.silent)
    unread = sorted({name for finding in findings if not finding.conclusive for name in finding.unread})
    if unread:
        why = f"not all of the network could be searched: {unread_words(unread)}"
    elif any(finding.control is not None and finding.control.passed for finding in findings if not finding.conclusive):
        held = "as a row of its own" if overlooked == 1 else "as rows of their own"
        why = f"overlooked {_plural(overlooked, 'example', 'examples')} that the update holds {held}"
    elif control:
        why = "failed its positive control as well, on a small undefended batch of the same network"
    else:
        why = "was not tried on a case where it must succeed"
    return (
        f"Inconclusive: {number} found nothing exact or recognisable{',' if unread else ' and'} {why}.",
        "Such silence says nothing about what the update gives away; the fault may lie with the attack or its budget.",
    )


def _not_audited(counts: Counts, *, ended: bool) -> tuple[str, str]:
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
    then = "Where the attack came to an end it gave nothing away, which is not proof that nothing leaks."
    if not ended:
        then = "No attack came to its end: that nothing had come out until then says nothing about the data."
    return f"This run was audited only in part: {of}.", then


def _some_batches(counts: Counts) -> str:
    return f"{counts.attacked} of {counts.batches} batches where the attack came to a result"


def _plural(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
