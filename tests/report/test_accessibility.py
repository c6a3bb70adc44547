"""The page passes axe-core in a real browser: every kind of section, of a run or a sweep, light and dark, redacted."""

import html
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seepage.audit.findings import ControlCase, Finding
from seepage.report.html import write_report

ROOT = Path(__file__).parents[2]
AXE = Path(os.environ.get("SEEPAGE_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
RUN = """addEventListener("load", async () => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const result = await axe.run(document, {resultTypes: ["violations"]});
  const found = result.violations.map(one => [one.id, one.nodes.map(node => node.html.slice(0, 200))]);
  const place = document.createElement("pre");
  place.id = "axe";
  place.textContent = JSON.stringify({found, passes: result.passes.length});
  document.body.append(place);
})"""
_QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def every_kind(finding: Callable[..., Finding], picture: str) -> list[Finding]:
    """A finding of each kind that the page knows."""
    scores = {"exact": [True, False], "error:age": [0.0, 2.0], "right:work": [True, False], "psnr": [90.0, 20.0]}
    columns = {"age": ["39", "50"], "age (original)": ["39", "52"], "work": ["a", "b"], "work (original)": ["a", "a"]}
    labels = {"leacc": 1.0, "lnacc": 1.0, "exact_vector": 0.0, "l1_half": 0.5, "wrong_certified": 0.0}
    control = ControlCase(batch_size=1, rule="fedsgd", outcome="exact", exact=1, recovered=1, passed=True, seconds=0.1)
    bare: dict[str, Any] = {"certified": [], "scores": {}}
    wrong = {"psnr": [90.0, 10.0], "exact": [True, False], "units_alone": [2, 0]}
    return [
        finding(artifact=picture, scores=wrong, true_labels=[0, 1], stats={"samples": 12}, labels=[0, 1]),
        finding(batch=1, outcome="approximate", scores=scores, columns=columns, certified=[False] * 2),
        finding(batch=2, outcome="failed", reason="Nothing survived.", control=control, **bare),
        finding(batch=3, outcome=None, obstacles=["layer 0: is followed by GELU."], **bare),
        finding(batch=4, outcome=None, error="RuntimeError: burst", **bare),
        finding(batch=5, attack="labels", scores=labels, labels=[0, 1], true_labels=[0, 0], certified=[True, False]),
        finding(batch=6, layer="fc"),
    ]


def of_a_sweep(finding: Callable[..., Finding]) -> list[Finding]:
    """What a sweep holds: settings of long names, some of them silent, broken or not to be attacked."""
    long = "my_package.networks:make_the_large_one"
    control = ControlCase(batch_size=4, rule="fedsgd", outcome="exact", exact=4, recovered=4, passed=True, seconds=0.1)
    bare: dict[str, Any] = {"certified": [], "scores": {}}
    silent: dict[str, Any] = {"outcome": "failed", "reason": "Nothing survived.", "control": control, **bare}
    wrong = {"psnr": [90.0, 10.0], "exact": [True, False]}
    return [
        *(finding(network=network, seed=seed) for network in ("mlp:8", long) for seed in (0, 1)),
        finding(rule="fedavg:epochs=2,local_batch=8,lr=0.01", **silent),
        finding(defenses=["clip:norm=1.0", "noise:sigma=0.01"], outcome=None, error="RuntimeError: burst", **bare),
        finding(network="lenet", batch_size=60, outcome=None, obstacles=["layer 0: is a convolution."], **bare),
        finding(threat_model="honest-but-curious: nothing", scores=wrong),
    ]


@pytest.mark.parametrize(
    "view",
    [*itertools.product(["run", "sweep"], [360, 1200], ["light", "dark"], ["open", "redacted"])],
    ids=str,
)
def test_axe_finds_no_violation(
    finding: Callable[..., Finding],
    make_run: Callable[..., Path],
    pictures: Callable[..., str],
    tmp_path: Path,
    view: tuple[str, int, str, str],
) -> None:
    kind, width, light, redacted = view
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm install --no-save axe-core, or SEEPAGE_AXE=path/to/axe.min.js")
    knowledge = [["the client's update", True, "the client sent it"]]
    if kind == "sweep":
        rows = of_a_sweep(finding)
        run = make_run(*rows, knowledge=knowledge, plan="[plan]\n" + 'data = "digits"\n' * 20, findings=9, cells=9)
    else:
        run = make_run(*every_kind(finding, pictures()), class_names=["cat", "dog"], knowledge=knowledge, batches=7)
    page = write_report(run, redact=redacted == "redacted").read_text(encoding="utf8")
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)  # the page's own policy would keep axe out
    page = page.replace("(prefers-color-scheme: dark)", "all" if light == "dark" else "not all")
    scripts = f"<script>{AXE.read_text(encoding='utf8')}</script><script>{RUN}</script>"
    (tmp_path / "page.html").write_text(page.replace("</body>", scripts + "</body>"), encoding="utf8")
    command = [browser, *_QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    command += ["--virtual-time-budget=20000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = re.search(r'<pre id="axe">(.*?)</pre>', drawn.stdout, re.DOTALL)
    assert said, drawn.stderr[-500:]
    result = json.loads(html.unescape(said[1]))
    assert result["passes"] > 20
    assert result["found"] == []
