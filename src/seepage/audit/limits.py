"""Thresholds a run must keep: what a pipeline lets through."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from seepage.audit.findings import Finding
from seepage.audit.tomlfile import Table, read_toml

__all__ = ["Check", "Ending", "Limits", "Thresholds", "check", "read_thresholds"]

_MATCHED = ("attack", "network", "rule", "data", "threat_model")  # texts by which `[[limits_for]]` picks findings
_CEILINGS = ("exact_share", "leaked_share", "certified_share", "psnr")


class Ending(StrEnum):
    """How one check ended. The three that are no pass stay apart, to the exit code."""

    PASSED = "passed"
    EXCEEDED = "exceeded"
    INCONCLUSIVE = "inconclusive"
    NOT_AUDITED = "not audited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one finding may give away.

    Args:
        exact_share: highest share of the batch that may be exact.
        leaked_share: highest share that may be exact or recognisable, or, where labels alone are attacked, whose labels
            may be given away; as ``exact_share`` if ``None``.
        certified_share: highest share that may carry a certificate; ``None`` is no limit.
        psnr: highest PSNR in dB of any example; ``None`` is no limit.
        allow_inconclusive: whether silence without a passed control is let through.
        allow_not_audited: whether obstacles, errors and interruptions are let through.
    """

    exact_share: float = 0.0
    leaked_share: float | None = None
    certified_share: float | None = None
    psnr: float | None = None
    allow_inconclusive: bool = False
    allow_not_audited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The limits of every finding, and of some in particular: of several that match, the last counts."""

    everywhere: Limits
    particular: tuple[tuple[dict[str, str | int], Limits], ...] = ()

    def of(self, finding: Finding) -> Limits:
        """The limits of one finding."""
        chosen = self.everywhere
        for wanted, limits in self.particular:
            if all(getattr(finding, key) == value for key, value in wanted.items()):
                chosen = limits
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding against its limits.

    Args:
        finding: what was checked.
        line: of ``findings.jsonl``, from 1.
        ending: how it ended.
        rule: which limit decided; ``""`` if all were kept.
        message: one sentence.
    """

    finding: Finding
    line: int
    ending: Ending
    rule: str = ""
    message: str = ""


def read_thresholds(path: Path) -> Thresholds:
    """``[limits]`` for all findings and ``[[limits_for]]`` for some.

    Raises:
        InputError: a key or value that is not understood; the message names the file and the line.
    """
    file = read_toml(path)
    table = file.table("limits")
    everywhere = _limits(table, Limits())
    table.nothing_else()
    particular = []
    for one in file.tables("limits_for"):
        wanted: dict[str, str | int] = {key: one.text(key) for key in _MATCHED if key in one}
        if "batch_size" in one:
            wanted["batch_size"] = one.integer("batch_size", low=1)
        limits = _limits(one, everywhere)
        one.nothing_else()
        particular.append((wanted, limits))
    file.nothing_else()
    return Thresholds(everywhere=everywhere, particular=tuple(particular))


def check(findings: Sequence[Finding], thresholds: Thresholds) -> list[Check]:
    """One check a finding, in order. What leaked counts first, then what was not audited, then what proves nothing."""
    return [_check(finding, line, thresholds.of(finding)) for line, finding in enumerate(findings, start=1)]


def _limits(table: Table, default: Limits) -> Limits:
    return Limits(
        exact_share=table.number("exact_share", low=0, high=1, default=default.exact_share) or 0.0,
        leaked_share=table.number("leaked_share", low=0, high=1, default=default.leaked_share),
        certified_share=table.number("certified_share", low=0, high=1, default=default.certified_share),
        psnr=table.number("psnr", low=-100, high=300, default=default.psnr),
        allow_inconclusive=table.flag("allow_inconclusive", default.allow_inconclusive),
        allow_not_audited=table.flag("allow_not_audited", default.allow_not_audited),
    )


def _check(finding: Finding, line: int, limits: Limits) -> Check:
    found = {
        "exact_share": finding.exact_examples / finding.batch_size,
        "leaked_share": finding.given_away / finding.batch_size,
        "certified_share": sum(finding.certified) / finding.batch_size,
        "psnr": _best_psnr(finding),
    }
    for rule in _CEILINGS:
        ceiling, value = getattr(limits, rule), found[rule]
        if rule == "leaked_share" and ceiling is None:
            ceiling = limits.exact_share
        if ceiling is not None and value is not None and value > ceiling:
            message = f"{rule} should be at most {ceiling:g}; found {value:.4g}."
            return Check(finding=finding, line=line, ending=Ending.EXCEEDED, rule=rule, message=message)
    if not finding.ended and not limits.allow_not_audited:
        kind = "the attack broke with " + (finding.error or "").split(":", 1)[0]  # the rest may quote a private input
        why = " ".join(finding.obstacles) or (kind if finding.error else "it was interrupted.")
        message = f"The batch could not be audited: {why}"
        return Check(finding=finding, line=line, ending=Ending.NOT_AUDITED, rule="not_audited", message=message)
    leaked = limits.exact_share if limits.leaked_share is None else limits.leaked_share
    if finding.ended and not finding.settles(leaked) and not limits.allow_inconclusive:
        why = "overlooked what the update holds as rows" if finding.overlooked else "has no passed positive control"
        why = "did not understand all of the network" if finding.unread else why
        message = f"The attack {'found nothing and ' if finding.silent else ''}{why}: its silence says nothing."
        return Check(finding=finding, line=line, ending=Ending.INCONCLUSIVE, rule="inconclusive", message=message)
    return Check(finding=finding, line=line, ending=Ending.PASSED)


def _best_psnr(finding: Finding) -> float | None:
    values = finding.scores.get("psnr")
    known = [float(value) for value in values if value is not None] if isinstance(values, list) else []
    return max(known, default=None)
