"""A SuperLink and two SuperNodes on loopback; what the server captured against the clients' true gradients and batches.

Needs the extra ``flower``. Run: python benchmarks/flower_loopback.py --folder runs/flower --learning-rate 1.0
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seepage.federated.storage import read_capture

APP = Path(__file__).parents[1] / "examples" / "flower"
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, port: int) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path, "OMP_NUM_THREADS": "1"}


def start(name: str, arguments: list[str], env: dict[str, str], home: Path) -> subprocess.Popen[bytes]:
    with (home / f"{name}.log").open("wb") as log:
        return subprocess.Popen(arguments, env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT)


def federate(folder: Path, rate: float, timeout: float) -> None:
    """One round of two clients; ends the processes that it started, by their own handles."""
    home, port = Path(tempfile.mkdtemp(prefix="flwr-")), free_port()
    env = environment(home, port)
    link = [str(BIN / "flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"]
    running = [start("superlink", [*link, "--host", "127.0.0.1", "--port", str(port)], env, home)]
    try:
        time.sleep(5)
        for place in (0, 1):
            node = [str(BIN / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}"]
            node += ["--port", str(free_port()), "--node-config", f"partition-id={place} num-partitions=2"]
            running.append(start(f"supernode-{place}", node, env, home))
        settings = f'folder="{folder}" learning-rate={rate}'
        command = [str(BIN / "flwr"), "run", str(APP), "loopback", "--run-config", settings]
        subprocess.run(command, env=env, check=True, timeout=120)
        until = time.monotonic() + timeout
        while len(list((folder / "captures").glob("*.safetensors"))) < 2:
            if time.monotonic() > until or any(process.poll() is not None for process in running):
                logs = "\n".join(f"{log.name}\n{log.read_text()[-3000:]}" for log in home.glob("*.log"))
                raise RuntimeError(f"no two captures after {timeout:.0f} s\n{logs}")
            time.sleep(1)
        time.sleep(3)  # lets the round end by itself
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=30)


def compare(folder: Path, place: int) -> dict[str, object]:
    """The server's capture that belongs to one client: distance from its true gradient, then the two commands."""
    truth = read_capture(next((folder / f"client-{place}" / "gradients").iterdir())).update
    size = max(float(tensor.abs().max()) for tensor in truth.values())
    best, nearest = float("inf"), Path()
    for path in (folder / "captures").iterdir():
        found = read_capture(path).gradient()
        gap = max(float((found[name] - truth[name]).abs().max()) for name in truth) / size
        best, nearest = min((best, nearest), (gap, path))
    out = folder / f"attack-{place}"
    seepage = [sys.executable, "-m", "seepage"]
    attack = [*seepage, "attack", "--update", str(nearest), "--network", "mlp:200", "--out", str(out)]
    leaked = subprocess.run([*attack, "--attack", "spear", "--budget", "60s"], check=False).returncode
    reconstruction, own = str(out / "reconstruction.safetensors"), str(folder / f"client-{place}" / "truth.safetensors")
    subprocess.run([*seepage, "score", reconstruction, "--truth", own, "--json", str(out / "score.json")], check=False)
    score = json.loads((out / "score.json").read_text())
    return {
        "client": place,
        "relative_gap_to_the_true_gradient": best,
        "attack_exit_code": leaked,
        "exact": sum(score["scores"]["exact"]),
        "certified": sum(score["certified"]),
        "of": len(score["certified"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--learning-rate", type=float, default=1.0)
    parser.add_argument("--timeout", type=float, default=180.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=False)
    federate(options.folder.resolve(), options.learning_rate, options.timeout)
    for client in (0, 1):
        print(json.dumps(compare(options.folder.resolve(), client)))
