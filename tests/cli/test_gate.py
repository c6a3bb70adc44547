"""The gate lets through what the limits allow and nothing else; its files are what pipelines read."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import write_findings
from seepage.cli import main

ROOT = Path(__file__).parents[2]
PLAIN: dict[str, Any] = {
    "attack": "spear",
    "network": "mlp:8",
    "rule": "fedsgd",
    "threat_model": "honest-but-curious: rule",
    "data": "digits",
    "normalize": "none",
    "batch_size": 2,
    "batch": 0,
    "seed": 0,
    "outcome": "exact",
    "certified": [True, True],
    "scores": {"psnr": [120.0, 300.0], "exact": [True, True]},
    "seconds": 1.5,
    "peak_memory_mib": 100.0,
    "device": "cpu",
    "versions": {"torch": "2"},
}
LIMITS = ("exact_share", "leaked_share", "certified_share", "psnr")
CONTROL = {"batch_size": 1, "rule": "fedsgd", "outcome": "exact", "exact": 1, "recovered": 1, "seconds": 1.0}
SILENT: dict[str, Any] = {"outcome": "failed", "certified": [], "scores": {}}
CLEAN: dict[str, Any] = {**SILENT, "control": {**CONTROL, "passed": True}}
BLIND: dict[str, Any] = {**SILENT, "control": {**CONTROL, "passed": False}}
SEEN: dict[str, Any] = {  # one of two pictures recognisable, none exact
    "outcome": "approximate",
    "certified": [False, False],
    "scores": {"psnr": [32.0, 9.0], "exact": [False, False], "recognisable": [True, False]},
}
LABELS: dict[str, Any] = {  # every class's number is right, none is certified
    "outcome": "approximate",
    "certified": [False, False],
    "labels": [3, 4],
    "true_labels": [4, 3],
    "scores": {"leacc": 1.0, "lnacc": 1.0, "exact_vector": 1.0, "l1_half": 0.0, "wrong_certified": 0.0},
}
BROKEN: dict[str, Any] = {**SILENT, "outcome": None, "error": "RuntimeError: the secret 42"}


def seepage(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def run(folder: Path, *changes: dict[str, Any], planned: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    findings = [Finding(**{**PLAIN, "batch": number, **change}) for number, change in enumerate(changes)]
    write_findings(folder / "findings.jsonl", findings)
    (folder / "run.json").write_text(json.dumps({"batches": planned or len(findings)}))
    return folder


def gate(tmp_path: Path, limits: str, folder: Path) -> int:
    (tmp_path / "limits.toml").write_text(limits)
    return seepage("gate", str(tmp_path / "limits.toml"), str(folder))


@pytest.mark.parametrize(
    ("change", "limits", "code"),
    [
        ({}, "", 1),
        ({}, "[limits]\nexact_share = 0.9\n", 1),
        ({}, "[limits]\nexact_share = 1\n", 0),
        ({}, "[limits]\nexact_share = 1\ncertified_share = 0.5\n", 1),
        ({}, "[limits]\nexact_share = 1\npsnr = 299\n", 1),
        ({}, "[[limits_for]]\nattack = 'spear'\nbatch_size = 2\nexact_share = 1\n", 0),
        ({}, "[[limits_for]]\nattack = 'other'\nexact_share = 1\n", 1),
        (SEEN, "", 1),
        (SEEN, "[limits]\nexact_share = 0.5\n", 0),
        (SEEN, "[limits]\nleaked_share = 0.5\n", 0),
        (SEEN, "[limits]\nexact_share = 1\nleaked_share = 0.4\n", 1),
        (LABELS, "", 1),
        (LABELS, "[limits]\nleaked_share = 0.9\n", 1),
        (LABELS, "[limits]\nleaked_share = 1\n", 0),
        (CLEAN, "", 0),
        (BLIND, "", 4),
        (SILENT, "", 4),
        (BLIND, "[limits]\nallow_inconclusive = true\n", 0),
        (BROKEN, "", 3),
        (BROKEN, "[limits]\nallow_not_audited = true\n", 0),
    ],
)
def test_the_exit_code_says_how_it_ended(tmp_path: Path, change: dict[str, Any], limits: str, code: int) -> None:
    assert gate(tmp_path, limits, run(tmp_path / "run", change)) == code


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ((), "found none of this name"),
        (("x",), "found a folder without it"),
        (("x", "x/run.json"), "found a run without a finding"),
        (("x", "x/shards", "x/shards/1.jsonl"), "found a sweep that did not end"),
    ],
)
def test_what_is_no_folder_of_a_run_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: tuple[str, ...], found: str
) -> None:
    for name in made:
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    there, folder = str(run(tmp_path / "run", {})), str(tmp_path / "x")
    (tmp_path / "limits.toml").touch()
    for command in (["report", folder], ["gate", str(tmp_path / "limits.toml"), folder], ["diff", there, folder]):
        assert seepage(*command) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{folder} should be a folder of a run or a sweep, which holds findings.jsonl; {found}" in said
    assert seepage("report", str(Path(there) / "run.json")) == 2
    assert "found a file." in capsys.readouterr().err
    assert seepage("gate", str(tmp_path / "none.toml"), there) == 2
    assert "none.toml should be a TOML file that can be read; found: No such file" in capsys.readouterr().err


def test_the_limit_that_was_passed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(tmp_path, "", run(tmp_path / "run", SEEN)) == 1
    assert "leaked_share should be at most 0; found 0.5" in " ".join(capsys.readouterr().out.split())
    assert '"leaked_share"' in (tmp_path / "run" / "gate.sarif").read_text()


def test_a_run_cut_short_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(tmp_path, "", run(tmp_path / "run", CLEAN, planned=3)) == 3
    assert "2 of 3 batches were not reached" in capsys.readouterr().out


def test_junit_and_sarif_tell_the_endings_apart_and_quote_no_error(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", {}, CLEAN, BLIND, BROKEN)
    assert gate(tmp_path, "", folder) == 1
    text = (folder / "gate.xml").read_text()
    root = Xml.fromstring(text)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "2", "1")
    assert [[child.tag for child in case] for case in root.iter("testcase")] == [
        ["failure"],
        [],
        ["failure"],
        ["error"],
    ]
    log = json.loads((folder / "gate.sarif").read_text())
    results = log["runs"][0]["results"]
    rules = [rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]]
    assert [one["ruleId"] for one in results] == ["exact_share", "inconclusive", "not_audited"]
    assert all(rules[one["ruleIndex"]] == one["ruleId"] for one in results)
    lines = [one["locations"][0]["physicalLocation"]["region"]["startLine"] for one in results]
    assert lines == [1, 3, 4]
    assert log["version"] == "2.1.0"
    assert "RuntimeError" in text
    assert "secret" not in text + (folder / "gate.sarif").read_text()


def test_a_misspelt_limit_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", CLEAN)
    assert gate(tmp_path, "[limits]\n# a comment\nexact_shar = 0.5\n", folder) == 2
    said = capsys.readouterr().err
    assert "limits.toml, line 3: `limits.exact_shar` is not known" in said
    assert not (folder / "gate.xml").exists()


def test_every_limit_has_a_rule_in_the_sarif(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", {})
    for name in LIMITS:
        low = "".join(f"{other} = {1 if other != 'psnr' else 300}\n" for other in LIMITS if other != name)
        assert gate(tmp_path, f"[limits]\n{low}{name} = 0\n", folder) == 1, name
        assert f'"ruleId": "{name}"' in (folder / "gate.sarif").read_text()


def test_the_example_thresholds_are_understood(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", CLEAN)
    assert seepage("gate", str(ROOT / "examples" / "thresholds.toml"), str(folder)) == 0


@pytest.mark.parametrize(
    ("runs", "code", "words"),
    [
        (([{}], [{}]), 0, "1 same"),
        (([CLEAN], [{}]), 1, "1 leaks more"),
        (([BLIND], [{}]), 1, "1 leaks more"),
        (([{}], [CLEAN]), 0, "1 leaks less"),
        (([CLEAN], [BLIND]), 4, "1 no longer conclusive"),
        (([CLEAN, CLEAN], [CLEAN]), 4, "1 only in the first"),
        (([CLEAN], [CLEAN, CLEAN]), 0, "1 only in the second"),
        (([CLEAN], [CLEAN, {}]), 1, "1 leaks more"),
        (([CLEAN], [SEEN]), 1, "1 leaks more"),
        (([SEEN], [CLEAN]), 0, "1 leaks less"),
        (([SEEN], [{}]), 1, "1 leaks more"),
        (([BLIND], [LABELS]), 1, "1 leaks more"),
        (([CLEAN], [CLEAN, LABELS]), 1, "1 leaks more"),
        (([CLEAN], [{"network": "mlp:9"}]), 2, "--ignore"),
    ],
)
def test_diff_says_what_became_of_each_batch(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    runs: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    code: int,
    words: str,
) -> None:
    before, after = run(tmp_path / "a", *runs[0]), run(tmp_path / "b", *runs[1])
    assert seepage("diff", str(before), str(after)) == code
    said = capsys.readouterr()
    assert words in " ".join((said.out + said.err).split())


def test_diff_across_another_rule(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", CLEAN), run(tmp_path / "b", {"rule": "fedavg"})
    assert seepage("diff", str(a), str(b), "--ignore", "rule") == 1
