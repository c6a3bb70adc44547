"""A sweep loses nothing and repeats nothing, however often it is killed; what crashed is a row that says so."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import read_findings
from seepage.audit.sweeps.cell import Cell, Shard, shards_of
from seepage.audit.sweeps.engines import LocalPool
from seepage.audit.sweeps.sweep import SweepFolder, canonical, canonical_digest, sweep
from seepage.audit.sweeps.work import run_shard
from seepage.cli import main
from seepage.errors import InputError

PLAN = """[plan]
data = "digits"
budget_samples = 20000
[grid]
network = ["mlp:50", "mlp:60"]
batch_size = [2, 4, 60]
seed = [0, 1]
"""
SETTINGS = 2 * 3 * 2  # findings of the plan


def cell(batch_size: int = 3, *, network: str = "mlp:50", batches: int = 1) -> Cell:
    return Cell(network=network, data="digits", batch_size=batch_size, samples=20_000, batches=batches)


def computed(shards: list[Shard], folder: Path, *, workers: int = 2) -> list[Finding]:
    kept = SweepFolder.open(folder, {})
    with LocalPool(workers) as pool:
        for _ in sweep(shards, kept, pool):
            pass
    return kept.gather(shards)


def command(tmp_path: Path, out: str) -> list[str]:
    (tmp_path / "plan.toml").write_text(PLAN)
    plan, folder = str(tmp_path / "plan.toml"), str(tmp_path / out)
    return [sys.executable, "-m", "seepage", "sweep", plan, "--out", folder, "--workers", "2"]


def pids_below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [one for child in children for one in pids_below(int(child))]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="follows processes through /proc")
def test_killed_and_taken_up_it_ends_with_the_same_findings(tmp_path: Path) -> None:
    whole = subprocess.run(command(tmp_path, "whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 1, whole.stderr
    shards = tmp_path / "killed" / "shards"
    written: dict[str, tuple[int, str]] = {}
    for wanted in (1, 5):
        running = subprocess.Popen(command(tmp_path, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while len(list(shards.glob("*.jsonl"))) < wanted and running.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        workers = pids_below(running.pid) if running.poll() is None else []
        running.send_signal(signal.SIGKILL)
        running.wait()
        for name, before in written.items():  # nothing that was there is computed or written again
            assert ((shards / name).stat().st_mtime_ns, (shards / name).read_text()) == before
        written = {one.name: (one.stat().st_mtime_ns, one.read_text()) for one in shards.glob("*.jsonl")}
        assert wanted <= len(written) < SETTINGS, "it was to be killed half-way"
        until = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers outlived their parent"
    (shards / "half.jsonl.partial").write_text("{")
    again = subprocess.run(command(tmp_path, "killed"), capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stderr
    assert not list(tmp_path.rglob("*.partial"))
    for name, before in written.items():
        assert ((shards / name).stat().st_mtime_ns, (shards / name).read_text()) == before
    found = [read_findings(tmp_path / one / "findings.jsonl") for one in ("whole", "killed")]
    assert len(found[0]) == SETTINGS
    assert [canonical(finding) for finding in found[0]] == [canonical(finding) for finding in found[1]]
    digests = [text.stdout.split("digest")[1] for text in (whole, again)]
    assert digests[0] == digests[1]
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["complete"] is True


def test_the_number_of_workers_and_the_shards_size_change_nothing(tmp_path: Path) -> None:
    cells = [cell(size, batches=3) for size in (2, 4)]
    one = computed([shard for c in cells for shard in shards_of(c, size=3)], tmp_path / "a", workers=1)
    many = computed([shard for c in cells for shard in shards_of(c, size=1)], tmp_path / "b", workers=3)
    assert canonical_digest(one) == canonical_digest(many)
    assert [finding.batch for finding in one] == [0, 1, 2, 0, 1, 2]


def test_the_digest_sees_a_difference(tmp_path: Path) -> None:
    (finding,) = run_shard(*shards_of(cell(), size=1))
    other = finding.model_copy(update={"outcome": "failed"})
    assert canonical_digest([finding]) != canonical_digest([other])
    assert canonical_digest([finding]) == canonical_digest([finding.model_copy(update={"seconds": 99.0})])


def test_a_cell_that_cannot_be_built_is_rows_that_say_so(tmp_path: Path) -> None:
    good, bad = cell(), cell(network="mlp:50:nonsense", batches=2)
    found = computed([*shards_of(good, size=1), *shards_of(bad, size=2)], tmp_path)
    assert [finding.exact_examples for finding in found] == [3, 0, 0]
    assert [finding.batch for finding in found[1:]] == [0, 1]
    for finding in found[1:]:
        assert "nonsense" in (finding.error or "")
        assert finding.outcome is None
        assert not finding.conclusive


def test_a_worker_that_dies_costs_its_own_shard_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text("import os\ndef make():\n    os.kill(os.getpid(), 9)\n")
    monkeypatch.chdir(tmp_path)
    cells = [cell(2), cell(network="deadly:make"), cell(3)]
    found = computed([shard for c in cells for shard in shards_of(c, size=1)], tmp_path / "out", workers=1)
    assert [finding.exact_examples for finding in found] == [2, 0, 3]
    assert (found[1].error or "").startswith("WorkerDied")


def test_what_broke_is_kept_unless_it_is_to_be_tried_again(tmp_path: Path) -> None:
    (shard,) = shards_of(cell(network="mlp:50:nonsense"), size=1)
    computed([shard], tmp_path)
    folder = SweepFolder.open(tmp_path, {})
    assert folder.has(shard)
    assert not folder.has(shard, retry_broken=True)


def test_other_data_are_not_mixed_into_a_folder(tmp_path: Path) -> None:
    SweepFolder.open(tmp_path, {"data_sha256": "a", "findings": 1})
    SweepFolder.open(tmp_path, {"data_sha256": "a", "findings": 2})
    (tmp_path / "shards" / "one.jsonl").write_text("")
    with pytest.raises(InputError, match="data_sha256"):
        SweepFolder.open(tmp_path, {"data_sha256": "b", "findings": 1})


def test_a_silent_cell_carries_its_control(tmp_path: Path) -> None:
    (finding,) = run_shard(*shards_of(cell(60), size=1))
    assert finding.silent
    assert finding.control is not None
    assert finding.control.passed


def test_the_command_ends_with_the_verdict_and_refuses_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(text: str, out: str) -> int:
        (tmp_path / "plan.toml").write_text(text)
        with pytest.raises(SystemExit) as stopped:
            main(["sweep", str(tmp_path / "plan.toml"), "--out", str(tmp_path / out), "--workers", "1"])
        return int(stopped.value.code or 0)

    plain = '[plan]\ndata = "digits"\nbudget_samples = 2000\n[grid]\nnetwork = "{}"\nbatch_size = 60\n'
    assert ends(plain.format("mlp:50") + "seed = 1\n", "silent") == 0
    assert ends(plain.format("mlp:50"), "overlooks a row") == 4
    assert ends(plain.format("mlp:50:gelu"), "refused") == 3
    assert ends(plain.format("mlp:{width}"), "places") == 2
    assert "frontier" in capsys.readouterr().err
    assert ends(plain.format("mlp:50") + '[frontier]\naxis = "batch_size"\nlow = 1\nhigh = 9\n', "frontier") == 2
    assert (
        "plan.toml: a sweep needs a plan without the table [frontier]; found one, which is for `seepage frontier`"
        in (" ".join(capsys.readouterr().err.split()))
    )
    assert not (tmp_path / "frontier").exists()


def test_a_sweep_that_was_killed_before_its_first_shard_is_in_nobodys_way(tmp_path: Path) -> None:
    SweepFolder.open(tmp_path, {"data": "digits"})
    kept = SweepFolder.open(tmp_path, {"data": "photos"})
    (shard,) = shards_of(cell(), size=1)
    kept.write(shard, run_shard(shard))
    with pytest.raises(InputError, match="differs in data"):
        SweepFolder.open(tmp_path, {"data": "digits"})


def test_another_attack_network_of_the_same_name_is_another_sweep_and_one_more_attack_is_not(tmp_path: Path) -> None:
    before = SweepFolder.open(tmp_path, {"attacks_sha256": {"git:a": "1", "spear": None}})
    (shard,) = shards_of(cell(), size=1)
    before.write(shard, run_shard(shard))
    SweepFolder.open(tmp_path, {"attacks_sha256": {"git:a": "1", "git:b": "2", "spear": None}})
    with pytest.raises(InputError, match="differs in git:a"):
        SweepFolder.open(tmp_path, {"attacks_sha256": {"git:a": "3"}})


@pytest.mark.parametrize("key", ["network", "attack"])
def test_a_module_that_was_changed_since_is_another_sweep(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {
        "network": "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n",
        "attack": "from seepage.attacks.spear import SPEAR\n\n\ndef make(budget):\n    return SPEAR(budget=budget)\n",
    }[key]
    monkeypatch.chdir(tmp_path)
    module = f"changing_{key}"
    (tmp_path / f"{module}.py").write_text(source)
    grid = {"network": "mlp:50", "attack": "spear", key: f"{module}:make"}
    text = "".join(f'{word} = "{name}"\n' for word, name in grid.items())
    (tmp_path / "plan.toml").write_text(
        f'[plan]\ndata = "digits"\nbudget_samples = 2000\n[grid]\n{text}batch_size = 2\n'
    )
    arguments = ["sweep", "plan.toml", "--out", "out", "--workers", "1"]
    codes = []
    for change in ("", "", "# changed\n"):
        (tmp_path / f"{module}.py").write_text(source + change)
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        codes.append(stopped.value.code)
    assert codes[0] == codes[1] != 2
    assert codes[2] == 2
    assert f"differs in {module}:make" in capsys.readouterr().err
