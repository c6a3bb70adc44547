"""Where the findings of one page differ: what a sweep has to say beside each batch."""

from collections.abc import Sequence

from seepage.audit.findings import Finding
from seepage.report.tallies import Tally, tallies

__all__ = ["setting", "settings_rows", "several_settings", "varying"]

_FIELDS = ("network", "rule", "defenses", "threat_model", "attack", "batch_size", "data", "normalize", "seed")
_OF_ONE_RUN = {"attack", "seed"}  # that differ where one setting was attacked in several ways, or more than once


def varying(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The fields in which the findings are not all the same."""
    return tuple(word for word in _FIELDS if len({str(getattr(one, word)) for one in findings}) > 1)


def several_settings(findings: Sequence[Finding]) -> bool:
    """Whether more was varied than the attack and the seed: then figures over all of them mean little."""
    return bool(set(varying(findings)) - _OF_ONE_RUN)


def setting(one: Finding | Tally, fields: Sequence[str]) -> str:
    """A finding's or a tally's values of these fields, in words."""
    return ", ".join(_word(word, getattr(one, word)) for word in fields)


def settings_rows(findings: Sequence[Finding]) -> list[tuple[str, Tally]]:
    """A row for each setting, over its seeds and batches; empty where there is one alone."""
    if not several_settings(findings):
        return []
    rows = tallies(findings)
    fields = [word for word in varying(findings) if word in Tally.__dataclass_fields__]
    return [(setting(row, fields), row) for row in rows]


def _word(field: str, value: object) -> str:
    if field == "defenses":
        return " + ".join(map(str, value)) if isinstance(value, list | tuple) and value else "no defense"
    if field == "threat_model":
        return f"server knows {str(value).removeprefix('honest-but-curious: ')}"
    return {"batch_size": f"b = {value}", "seed": f"seed {value}"}.get(field, str(value))
