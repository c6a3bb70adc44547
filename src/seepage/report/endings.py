"""How a finding ended, in words: its status, what stands beside its silence, what broke."""

from seepage.audit.findings import Finding
from seepage.audit.unread import unread_words
from seepage.report.labelrows import label_status

__all__ = ["beside_silence", "broken_with", "status"]


def status(finding: Finding) -> str:
    """The batch in a few words."""
    size, exact, certified = finding.batch_size, finding.exact_examples, sum(finding.certified)
    wrong = finding.wrong_certified
    counted = f"{exact} of {size} exact, {certified} certified" + (f", {wrong} of them wrongly" if wrong else "")
    if finding.obstacles:
        return "could not be attacked"
    if finding.outcome is None:
        return "the attack broke"
    if not finding.ended:
        return f"interrupted, {counted} until then"
    if finding.restores_labels:
        return label_status(finding)
    if finding.outcome == "failed":
        return "this attack found nothing"
    if finding.outcome == "approximate" and not exact and not certified:
        return f"approximated, {finding.recognisable_examples} of {size} recognisable, {counted}"
    return counted


def beside_silence(finding: Finding, *, redact: bool) -> str:
    """What stands beside an attack's silence; empty where it was not silent."""
    case = finding.control
    if not finding.silent:
        return ""
    if case is None:
        return "No positive control was run beside it: this silence is inconclusive."
    where = f"on a batch of {case.batch_size} of the same network, sent as a plain gradient without defenses"
    did = f"the same attack {where}, recovered {case.recovered} of {case.batch_size} examples ({case.exact} exactly)."
    if case.passed and finding.unread:
        return f"Positive control passed: {did} But {unread_words(finding.unread)}: this silence is inconclusive."
    if case.passed and finding.overlooked:
        many = finding.overlooked
        held = "1 example as a row of its own" if many == 1 else f"{many} examples as rows of their own"
        why = f"But the update holds {held}, overlooked by the attack, and so this silence is inconclusive."
        return f"Positive control passed: {did} {why}"
    if case.passed:
        return f"Positive control passed: {did}"
    if case.interrupted:
        return f"Positive control interrupted: {did} Until it is run, this silence is inconclusive."
    why = "" if redact and "broke" in case.reason else f" {case.reason}"
    return f"Positive control failed, and so this silence is inconclusive: {did}{why}"


def broken_with(finding: Finding, *, redact: bool) -> str | None:
    """What broke; a redacted page keeps the kind of error only, since its text may quote an input."""
    if finding.outcome is not None or finding.obstacles:
        return None
    if finding.error is None:
        return "The attack ended without an outcome, and no error was recorded."
    kind = finding.error.split(":", 1)[0]
    return (kind if kind.isidentifier() else "Error") if redact else finding.error
