"""Runs' folders as the audit writes them, with private inputs that a test can look for on the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import write_findings

MakeFinding = Callable[..., Finding]
MakeRun = Callable[..., Path]


def make_finding(**changes: Any) -> Finding:
    """A finding of two examples, exact and certified, with whatever a test changes."""
    plain: dict[str, Any] = {
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
        "scores": {"psnr": [120.0, 300.0], "ssim": [1.0, 1.0], "exact": [True, True]},
        "seconds": 1.5,
        "peak_memory_mib": 100.0,
        "device": "cpu",
        "versions": {"torch": "2"},
    }
    return Finding(**{**plain, **changes})


@pytest.fixture
def finding() -> MakeFinding:
    return make_finding


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes findings, and the record's changes, into a folder."""

    def make(*findings: Finding, **record: Any) -> Path:
        write_findings(tmp_path / "findings.jsonl", findings)
        (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1, "kind": "image", **record}))
        return tmp_path

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., str]:
    """Writes an artifact of ``b`` grey pictures and returns its name."""

    def write(b: int = 2, *, side: int = 8, matched: bool = True, name: str = "batch-000", **more: torch.Tensor) -> str:
        (tmp_path / "artifacts").mkdir(exist_ok=True)
        inputs = torch.rand(b, 1, side, side, generator=torch.Generator().manual_seed(0))
        seen = torch.full((b,), int(matched), dtype=torch.uint8)
        tensors = {"originals": inputs, "reconstructions": inputs.clone(), "matched": seen, **more}
        save_file(tensors, tmp_path / "artifacts" / f"{name}.safetensors")
        return f"artifacts/{name}.safetensors"

    return write
