"""README, docs and examples say what is so."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from seepage.audit.catalogue import ATTACKS
from seepage.cli.app import app

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


def commands_of(page: Path) -> list[str]:
    """What stands in blocks of code, or in a sentence with an option or a file, as a command to type."""
    text = page.read_text(encoding="utf8")
    inline = re.findall(r"`(seepage [a-z]+ [^`]*[-/.][^`]*)`", text)
    return [*re.findall(r"^(seepage [a-z].*)$", text, re.MULTILINE), *inline]


TYPED = [page for page in PAGES if page.name != "CHANGELOG.md" and commands_of(page)]


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_commands_on_the_pages_can_be_typed(page: Path) -> None:
    """Names of commands and options, values out of range, and options that are needed; nothing is run."""
    for line in commands_of(page):
        command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        command.make_context(line, words)


def test_every_attack_is_in_the_catalogue_of_the_readme() -> None:
    for name in ATTACKS:
        assert f"| `{name}` |" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf8")):
        assert (page.parent / target).exists(), target


def test_every_page_of_the_docs_is_on_their_first_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)", index.read_text("utf8"))}
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= linked


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
