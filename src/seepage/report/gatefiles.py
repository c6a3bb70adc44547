"""A gate's checks in the two forms that pipelines read: JUnit XML and SARIF."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import seepage
from seepage.audit.findings import Finding
from seepage.audit.limits import Check, Ending

__all__ = ["junit", "sarif", "title", "write_text"]

_RULES = {
    "exact_share": "More examples than allowed were reconstructed exactly.",
    "leaked_share": "More examples than allowed were given away: exactly, recognisably, or by their labels.",
    "certified_share": "More examples than allowed carry a certificate.",
    "psnr": "An example was reconstructed more closely than allowed.",
    "inconclusive": "An attack found nothing, but failed its positive control, was given none, or overlooked rows.",
    "not_audited": "A batch could not be audited.",
}


def title(finding: Finding) -> str:
    """What was audited, in one line: it tells every finding of a run or sweep from the others."""
    defenses = "+".join(finding.defenses) or "none"
    return (
        f"{finding.attack} on {finding.data}, {finding.network}, {finding.rule}, defenses {defenses}, "
        f"b={finding.batch_size}, seed {finding.seed}, batch {finding.batch} ({finding.threat_model})"
    )


def junit(checks: Sequence[Check], *, run: str) -> str:
    """One test case a finding. Exceeded and inconclusive are failures, what was not audited is an error."""
    failed = sum(one.ending in (Ending.EXCEEDED, Ending.INCONCLUSIVE) for one in checks)
    broken = sum(one.ending is Ending.NOT_AUDITED for one in checks)
    counts = {"tests": str(len(checks)), "failures": str(failed), "errors": str(broken)}
    root = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(root, "testsuite", {"name": f"seepage {run}", **counts})
    for one in checks:
        about = {"classname": "seepage.gate", "name": title(one.finding), "time": f"{one.finding.seconds:.3f}"}
        case = Xml.SubElement(suite, "testcase", about)
        if one.ending is not Ending.PASSED:
            tag = "error" if one.ending is Ending.NOT_AUDITED else "failure"
            Xml.SubElement(case, tag, {"type": one.rule, "message": one.message}).text = one.message
    Xml.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def sarif(checks: Sequence[Check], *, findings_file: Path) -> str:
    """SARIF 2.1.0: one result for each check that did not pass, at its line of ``findings.jsonl``."""
    rules = [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
    results = [_result(one, findings_file) for one in checks if one.ending is not Ending.PASSED]
    tool = {"name": "seepage", "version": seepage.__version__, "rules": rules}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": tool}, "results": results}],
    }
    return json.dumps(log, indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf8")
    os.replace(partial, path)


def _result(one: Check, findings_file: Path) -> dict[str, Any]:
    uri = findings_file.as_uri() if findings_file.is_absolute() else findings_file.as_posix()
    place = {
        "artifactLocation": {"uri": uri},
        "region": {"startLine": one.line},
    }
    return {
        "ruleId": one.rule,
        "ruleIndex": list(_RULES).index(one.rule),
        "level": "error" if one.ending is Ending.EXCEEDED else "warning",
        "message": {"text": f"{title(one.finding)}: {one.message}"},
        "locations": [{"physicalLocation": place}],
    }
