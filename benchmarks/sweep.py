"""A sweep of 224 cells, killed three times at random and resumed. Run: python benchmarks/sweep.py kill|ray|slurm.

``kill`` runs the plan once undisturbed and once killed: SIGKILL to the whole process group, workers included, at three
moments drawn from ``--seed``; then compares the two findings files. ``ray`` (on a cluster that ``ray start --head``
started) and ``slurm`` (submitit's local executor: the same jobs without a Slurm; 12 of the cells) run it on another
engine and compare with the local pool. Each writes its own part of results/sweep.md.
"""

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from seepage.audit.findings import Finding
from seepage.audit.findingsfile import read_findings
from seepage.audit.sweeps.sweep import TIMES, canonical_digest

RESULTS = Path(__file__).parent / "results" / "sweep.md"
KILLS = 3
PLAN = """[plan]
data = "digits"
budget_samples = 20000
[grid]
network = "mlp:100"
batch_size = [2, 3, 4, 5, 6, 7, 8]
defense = ["none", "topk:0.9", "noise:0.001,relative=true", "quantise:8"]
seed = [0, 1, 2, 3, 4, 5, 6, 7]
"""
CELLS = 7 * 4 * 8
FEW = PLAN.replace("[2, 3, 4, 5, 6, 7, 8]", "[2, 5, 8]").replace(", 1, 2, 3, 4, 5, 6, 7]", "]")  # 12 of the cells
HEAD = "# Sweeps: killed and resumed, and on other engines\n\nThe plan, of {cells} cells:\n\n```toml\n{plan}```\n"


def command(plan: Path, out: Path, workers: int, engine: str) -> list[str]:
    """The command line that a user would type; ``slurm`` without a Slurm goes through this file."""
    start = [sys.executable, __file__, "_local_slurm"] if engine == "slurm" else [sys.executable, "-m", "seepage"]
    return [*start, "sweep", str(plan), "--out", str(out), "--workers", str(workers), "--engine", engine]


def run(plan: Path, out: Path, workers: int, engine: str = "local") -> tuple[list[Finding], float]:
    """One undisturbed run, or one that takes up what is there; its findings and how long it took."""
    started = time.monotonic()
    ended = subprocess.run(command(plan, out, workers, engine), capture_output=True, text=True, check=False)
    if ended.returncode != 1:  # 1: something leaked, as it does in this plan
        raise RuntimeError(f"the sweep ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return read_findings(out / "findings.jsonl"), time.monotonic() - started


def kill(plan: Path, folder: Path, workers: int, seed: int) -> str:
    """The part on ``kill -9``."""
    whole, seconds = run(plan, folder / "whole", workers)
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0.05, 0.95) for _ in range(KILLS))
    lines, written = [], {}
    for moment in moments:
        wanted, delay = int(moment * CELLS), chance.uniform(0.0, 0.5)
        rest = kill_once(plan, folder / "killed", workers, wanted, delay)
        there = files(folder / "killed")
        again = sum(there.get(name) != before for name, before in written.items())
        lines.append(f"| {wanted} | {delay:.2f} | {len(there)} of {CELLS} | {rest} | {again} |")
        written = there
    resumed, _ = run(plan, folder / "killed", workers)
    there = files(folder / "killed")
    again = sum(there[name] != before for name, before in written.items())
    return (
        f"{KILLS} kills, moments from seed {seed}, {workers} workers; undisturbed, the sweep took {seconds:.0f} s.\n\n"
        "| killed after so many results | and so many seconds | results there after the kill | half-written files | "
        "earlier results lost or computed again |\n|--:|--:|--:|--:|--:|\n" + "\n".join(lines) + "\n\n"
        f"The last resume computed the other {len(there) - len(written)} and {again} of those that were there. "
        + compared(whole, resumed)
    )


def kill_once(plan: Path, out: Path, workers: int, wanted: int, delay: float) -> int:
    """Start or resume, wait for so many results and a moment more, kill the group; returns half-written files."""
    running = subprocess.Popen(
        command(plan, out, workers, "local"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(files(out)) < wanted and running.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    if running.poll() is not None:
        raise RuntimeError("the sweep ended before it could be killed")
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    return len(list(out.rglob("*.partial")))


def files(out: Path) -> dict[str, tuple[int, bytes]]:
    """Each result's file, with the time at which it was written: what must not change any more."""
    found = (out / "shards").glob("*.jsonl")
    return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in found}


def compared(first: Sequence[Finding], second: Sequence[Finding]) -> str:
    """How far two findings files agree: to the last bit, and to the four digits that a sweep promises."""
    without = {**dict.fromkeys(TIMES, True), "control": {"seconds"}}
    pairs = zip(first, second, strict=True)
    bitwise = sum(a.model_dump_json(exclude=without) == b.model_dump_json(exclude=without) for a, b in pairs)
    digests = canonical_digest(first), canonical_digest(second)
    same = "equal" if digests[0] == digests[1] else "DIFFERENT"
    exact = sum(one.exact_examples for one in first), sum(one.exact_examples for one in second)
    return (
        f"Findings compared, times and memory left out: {bitwise} of {len(first)} equal to the last bit; digests over "
        f"all (numbers to four digits) {same}: `{digests[0][:16]}` and `{digests[1][:16]}`. Exact examples: "
        f"{exact[0]} and {exact[1]} of {sum(one.batch_size for one in first)}; rows that broke: "
        f"{sum(one.error is not None for one in first)} and {sum(one.error is not None for one in second)}.\n"
    )


def other_engine(plan: Path, folder: Path, workers: int, engine: str) -> str:
    """The part on another engine, beside the local pool."""
    local, seconds = run(plan, folder / "local", workers)
    there, elsewhere = run(plan, folder / engine, workers, engine)
    times = f"{workers} workers each: local pool {seconds:.0f} s, {engine} {elsewhere:.0f} s, start included. "
    return times + compared(local, there)


def write_part(title: str, text: str) -> None:
    """Put one part into results/sweep.md, in place of the one of that title."""
    RESULTS.parent.mkdir(exist_ok=True)
    old = RESULTS.read_text(encoding="utf8") if RESULTS.exists() else ""
    parts = {part.split("\n", 1)[0]: part for part in old.split("\n## ")[1:]}
    parts[title] = f"{title}\n\n{text.rstrip()}\n"
    head = HEAD.format(cells=CELLS, plan=PLAN)
    RESULTS.write_text(head + "".join(f"\n## {part.rstrip()}\n" for part in parts.values()), encoding="utf8")


def main() -> None:
    """Run one part and write it."""
    if sys.argv[1:2] == ["_local_slurm"]:
        local_slurm(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("kill", "ray", "slurm"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, plan = Path(name), Path(name) / "plan.toml"
        plan.write_text(FEW if options.part == "slurm" else PLAN, encoding="utf8")
        if options.part == "kill":
            text = kill(plan, folder, options.workers, options.seed)
        else:
            text = other_engine(plan, folder, options.workers, options.part)
    made = (
        f"Command: `python benchmarks/sweep.py {options.part} --seed {options.seed} --workers {options.workers}`. "
        f"Machine: {platform.machine()}, {os.cpu_count()} cores shared with other work, one thread a worker, torch "
        f"{torch.__version__}, CPU only.\n\n"
    )
    titles = {
        "kill": "Killed three times",
        "ray": "On a Ray cluster",
        "slurm": "As submitit's jobs, without a Slurm",
    }
    write_part(titles[options.part], made + text)
    print(made + text)


def local_slurm(arguments: list[str]) -> None:
    """``seepage sweep --engine slurm`` with submitit's local executor in the place of Slurm's."""
    import submitit

    from seepage.audit.sweeps import slurmengine
    from seepage.cli import main as seepage

    slurmengine.slurm_executor = lambda folder: submitit.LocalExecutor(folder=folder)
    seepage(arguments)


if __name__ == "__main__":
    main()
