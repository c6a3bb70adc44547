"""Whoever computes the shards, the findings are the same; an engine that is not installed says what to install."""

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import read_findings
from seepage.audit.sweeps.cell import Cell, Shard, shards_of
from seepage.audit.sweeps.engines import Engine, LocalPool
from seepage.audit.sweeps.slurmengine import SlurmJobs
from seepage.audit.sweeps.sweep import SweepFolder, canonical_digest, sweep
from seepage.cli import main

PLAN = """[plan]
data = "digits"
budget_samples = 20000
[grid]
network = ["mlp:50", {more}]
batch_size = [2, 60]
"""


def planned(tmp_path: Path, more: str = '"mlp:60"') -> Path:
    (tmp_path / "plan.toml").write_text(PLAN.format(more=more))
    return tmp_path / "plan.toml"


def by_command(plan: Path, engine: str) -> list[Finding]:
    """In a process of its own: Ray leaves threads and warnings behind."""
    out = plan.parent / engine
    command = [sys.executable, "-m", "seepage", "sweep", str(plan), "--out", str(out), "--workers", "2"]
    ended = subprocess.run(
        [*command, "--engine", engine], capture_output=True, text=True, check=False, cwd=plan.parent, timeout=240
    )
    assert ended.returncode == 1, ended.stderr
    return read_findings(out / "findings.jsonl")


def by(engine: Engine, shards: list[Shard], folder: Path) -> list[Finding]:
    kept = SweepFolder.open(folder, {})
    with engine as opened:
        for _ in sweep(shards, kept, opened):
            pass
    return kept.gather(shards)


def test_a_pool_that_is_told_to_end_leaves_by_its_own_door() -> None:
    """Killed outright it left semaphores, of which Python complains on standard error."""
    with pytest.raises(SystemExit) as stopped, LocalPool(1):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_what_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, engine: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(planned(tmp_path)), "--out", str(tmp_path / "out"), "--engine", engine])
    assert stopped.value.code == 2
    assert f"pip install 'seepage[{engine}]'" in capsys.readouterr().err


def test_without_slurm_there_is_no_slurm_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'seepage[slurm]'")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(planned(tmp_path)), "--out", str(tmp_path / "out"), "--engine", "slurm"])
    assert stopped.value.code == 2
    assert "sbatch" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'seepage[ray]'")
def test_ray_finds_what_the_local_pool_finds_and_a_dead_worker_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\ndef make():\n    os.kill(os.getpid(), 9)\n")
    plan = planned(tmp_path, '"mlp:60", "deadly:make"')
    local, there = by_command(plan, "local"), by_command(plan, "ray")
    assert canonical_digest(local) == canonical_digest(there)
    assert [(one.error or "").split(":")[0] for one in there] == [""] * 4 + ["WorkerDied"] * 2


def test_submitted_jobs_find_what_the_local_pool_finds_and_leave_no_private_file(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install 'seepage[slurm]'")
    cells = [Cell(network=name, data="digits", batch_size=3, samples=20_000) for name in ("mlp:50", "mlp:50:no")]
    shards = [shard for cell in cells for shard in shards_of(cell, size=1)]
    jobs = SlurmJobs(tmp_path / "jobs", 2, executor=submitit.LocalExecutor(folder=tmp_path / "jobs"))
    there, local = by(jobs, shards, tmp_path / "a"), by(LocalPool(1), shards, tmp_path / "b")
    assert canonical_digest(local) == canonical_digest(there)
    assert not list((tmp_path / "jobs").glob("*.pkl"))


def test_a_job_that_dies_is_a_row_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install 'seepage[slurm]'")
    (tmp_path / "deadly.py").write_text("import os\ndef make():\n    os.kill(os.getpid(), 9)\n")
    monkeypatch.chdir(tmp_path)
    shards = shards_of(Cell(network="deadly:make", data="digits", batch_size=3, samples=20_000), size=1)
    jobs = SlurmJobs(tmp_path / "jobs", executor=submitit.LocalExecutor(folder=tmp_path / "jobs"))
    (finding,) = by(jobs, shards, tmp_path / "out")
    assert finding.outcome is None
    assert finding.error


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there is no mask to inherit")
def test_ctrl_c_reaches_no_worker_not_even_while_it_imports() -> None:
    (shard,) = shards_of(Cell(network="mlp:50", data="digits", batch_size=2, samples=20_000), size=1)
    with LocalPool(1) as pool:
        pool.submit(shard)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        ((_, (finding,)),) = pool.completed()
        assert worker.is_alive()
    assert finding.outcome == "exact"
