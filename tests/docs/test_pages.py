"""README, docs and examples say what is so."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from seepage.audit.catalogue import ATTACKS
from seepage.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf8")


def test_the_help_in_the_readme_is_that_of_the_program() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "seepage", "--help"],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert said.strip() in README


@pytest.mark.parametrize(
    "command", ["attack", "audit", "demo", "diff", "frontier", "gate", "inspect", "report", "schema", "score", "sweep"]
)
def test_every_option_in_the_readme_exists(command: str) -> None:
    known = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    for line in re.findall(rf"^seepage {command} .*$", README, flags=re.MULTILINE):
        for option in re.findall(r"--[a-z-]+", line):
            assert option in known, line


def test_every_attack_is_in_the_catalogue_of_the_readme() -> None:
    for name in ATTACKS:
        assert f"| `{name}` |" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("example_*.py")), ids=lambda path: path.name)
def test_examples_run(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_the_example_that_draws_the_rounds_of_prism_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "prism_rounds.py"))
    threads = torch.get_num_threads()
    try:
        example["main"]([str(tmp_path / "rounds.png"), "--batch-size", "12", "--width", "120", "--columns", "4"])
    finally:
        torch.set_num_threads(threads)
    assert "12 of 12 examples certified" in capsys.readouterr().out
    assert (tmp_path / "rounds.png").stat().st_size > 0
