"""The page in a real browser: it is drawn, and it does not run over the edge of a narrow screen."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seepage.audit.findings import Finding
from seepage.report.html import write_report

_QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.mark.parametrize("view", [("run", 360), ("run", 1200), ("sweep", 360), ("sweep", 1200)], ids=str)
def test_the_page_does_not_run_over_the_edge(
    finding: Callable[..., Finding],
    make_run: Callable[..., Path],
    pictures: Callable[..., str],
    tmp_path: Path,
    view: tuple[str, int],
) -> None:
    kind, width = view
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    columns = {"a-column-of-a-long-name": ["Married-civ-spouse", "x"]}
    columns["a-column-of-a-long-name (original)"] = ["Married-civ-spouse", "y"]
    run = make_run(
        finding(artifact=pictures()),
        finding(batch=1, columns=columns),
        finding(batch=2, outcome=None, error="RuntimeError: " + "unbroken" * 40),
        *([finding(network="my_package.networks:" + "unbroken" * 10, rule="fedavg")] if kind == "sweep" else []),
        **({"plan": "[plan]\ndata = " + "x" * 200} if kind == "sweep" else {}),
        command="seepage audit --out " + "x" * 200,
        knowledge=[["the client's update", True, "the client sent it"]],
    )
    page = write_report(run).read_text(encoding="utf8")
    (tmp_path / "copy.html").write_text(re.sub(r"<meta http-equiv[^>]*>", "", page), encoding="utf8")
    (tmp_path / "frame.html").write_text(
        f'<iframe id="page" src="copy.html" style="width:{width}px;height:900px;border:0"></iframe><script>'
        "onload = () => { const root = document.getElementById('page').contentDocument.documentElement;"
        "document.title = `${root.scrollWidth}/${root.clientWidth}/${root.scrollHeight}`; }</script>"
    )
    command = [browser, *_QUIET, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    measured = re.search(r"<title>(\d+)/(\d+)/(\d+)</title>", drawn.stdout)
    assert measured, drawn.stderr[-500:]
    needed, there, height = map(int, measured.groups())
    assert needed <= there
    assert height > 900
