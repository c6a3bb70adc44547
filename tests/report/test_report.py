"""The report: what it says, what it never says, what it never shows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seepage.audit.findings import Finding, write_findings
from seepage.errors import InputError
from seepage.report.html import write_report
from seepage.report.summary import Verdict, summarize


def finding(**changes: Any) -> Finding:
    given: dict[str, Any] = {
        "attack": "spear", "network": "mlp:9", "rule": "fedsgd", "threat_model": "t", "data": "d", "normalize": "none",
        "batch_size": 2, "batch": 0, "seed": 0, "outcome": "exact", "certified": [True, True],
        "scores": {"psnr": [99.0, 99.0], "exact": [True, True]}, "seconds": 1.0, "peak_memory_mib": 1.0,
        "device": "cpu", "versions": {},
    }  # fmt: skip
    return Finding(**(given | changes))


NOTHING: dict[str, Any] = {"certified": [], "scores": {}}
ENDINGS = {
    "leaked": (finding(), Verdict.LEAKED, "2 of 2"),
    "failed": (finding(outcome="failed", reason="no rank", **NOTHING), Verdict.NOTHING_FOUND, "not proof"),
    "refused": (finding(outcome=None, obstacles=["layer 1: GELU"], **NOTHING), Verdict.NOT_AUDITED, "says nothing"),
    "broken": (finding(outcome=None, error="ValueError: x", **NOTHING), Verdict.NOT_AUDITED, "broke the attack"),
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_each_ending_has_its_own_verdict(ending: str) -> None:
    one, verdict, words = ENDINGS[ending]
    summary = summarize([one])
    assert summary.verdict is verdict
    assert words in " ".join(summary.sentences)
    assert "no leak" not in " ".join(summary.sentences).lower()


def test_a_wrong_certificate_is_shouted(tmp_path: Path) -> None:
    write_findings(tmp_path / "findings.jsonl", [finding(scores={"psnr": [99.0, 20.0], "exact": [True, False]})])
    assert "This must never happen" in write_report(tmp_path).read_text()


def test_what_comes_from_outside_is_escaped_and_nothing_is_fetched(tmp_path: Path) -> None:
    write_findings(tmp_path / "findings.jsonl", [finding(network="<script>alert(1)</script>", reason="<img src=x>")])
    page = write_report(tmp_path).read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "http" not in page.replace("http-equiv", "")


def pictured(run: Path) -> Finding:
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    (run / "artifacts").mkdir()
    save_file(
        {"originals": pictures, "reconstructions": pictures.clone(), "matched": torch.ones(2, dtype=torch.uint8)},
        run / "artifacts" / "a.safetensors",
    )
    return finding(artifact="artifacts/a.safetensors", labels=[31, 77])


def test_pictures_stand_side_by_side_and_a_redacted_page_has_none(tmp_path: Path) -> None:
    write_findings(tmp_path / "findings.jsonl", [pictured(tmp_path)])
    page = write_report(tmp_path).read_text()
    assert page.count("data:image/png") == 4
    assert "31, 77" in page
    redacted = write_report(tmp_path, redact=True).read_text()
    assert "data:image" not in redacted
    assert "31, 77" not in redacted


def test_cells_of_a_table_are_shown_and_redacted(tmp_path: Path) -> None:
    columns = {"age": ["39", "50"], "age (original)": ["39", "51"]}
    write_findings(tmp_path / "findings.jsonl", [finding(columns=columns)])
    page = write_report(tmp_path).read_text()
    assert "<del>51</del> 50" in page
    assert "<del>" not in write_report(tmp_path, redact=True).read_text()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "artifacts/none.safetensors"])
def test_an_artifact_elsewhere_is_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    save_file({"originals": torch.rand(1)}, tmp_path / "outside.safetensors")
    write_findings(tmp_path / "run" / "findings.jsonl", [finding(artifact=name)])
    page = write_report(tmp_path / "run").read_text()
    assert "data:image" not in page
    assert "The pictures are" in page


def test_a_folder_without_findings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"findings\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "findings.jsonl").write_text("")
    with pytest.raises(InputError, match="at least one finding"):
        write_report(tmp_path)
