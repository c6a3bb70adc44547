"""An NVFlare server and two clients on loopback; what the clients' filters captured against true gradients and batches.

Needs the extra ``nvflare``. Run: python benchmarks/nvflare_loopback.py --folder runs/nvflare [--environment simulator]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import TransferType
from nvflare.recipe.sim_env import SimEnv
from nvflare.recipe.spec import ExecEnv

from seepage.data.sources import Dataset, load_dataset
from seepage.federated.nvflare import CaptureFilter
from seepage.federated.storage import read_capture

APP = Path(__file__).parents[1] / "examples" / "nvflare"
MODEL = "seepage.networks.zoo.build_network"


def recipe(options: argparse.Namespace, folder: Path, dataset: Dataset) -> FedAvgRecipe:
    """One round of FedAvg with the filter on both sides of the clients' training task."""
    shape, classes = list(dataset.input_shape), dataset.classes
    told = {
        "folder": folder,
        "data": options.data,
        "network": options.network,
        "batch-size": options.batch_size,
        "learning-rate": options.learning_rate,
    }
    job = FedAvgRecipe(
        name="loopback",
        min_clients=2,
        num_rounds=1,
        model={
            "class_path": MODEL,
            "args": {"spec": options.network, "input_shape": shape, "classes": classes, "seed": 0},
        },
        train_script=str(APP / "client.py"),
        train_args=" ".join(f"--{key} {value}" for key, value in told.items()),
        params_transfer_type=TransferType(options.transfer.upper()),
    )
    where = {"gate": "gates:hold_back_leaks"} if options.gate else {"folder": str(folder / "captures")}
    facts = {"learning_rate": options.learning_rate, "local_steps": 1, "rule": "sgd"}
    about = {"input_shape": shape, "classes": classes}
    job._job.set_app_packages(["seepage"])  # installed everywhere: else parts of it are copied into the job
    job.add_client_file(str(APP / "gates.py"))
    job.add_client_input_filter(CaptureFilter(**where, **facts, **about), tasks=["train"])
    job.add_client_output_filter(CaptureFilter(**where, **facts, **about), tasks=["train"])
    return job


def environment(kind: str, folder: Path) -> ExecEnv:
    """``poc``: a server and two clients as processes of their own that talk over TLS; it ends them itself."""
    if kind == "simulator":
        return SimEnv(num_clients=2, workspace_root=str(folder / "nvflare"))
    os.environ["NVFLARE_POC_WORKSPACE"] = str(folder / "nvflare")
    from nvflare.recipe.poc_env import PocEnv

    return PocEnv(num_clients=2)


def logged(folder: Path) -> list[str]:
    """Why clients held updates back, by their own logs."""
    lines = [line for path in (folder / "nvflare").rglob("log.txt") for line in path.read_text().splitlines()]
    return sorted({line.partition("WARNING - ")[2] for line in lines if "held back" in line})


def seepage(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "seepage", *arguments], check=False).returncode


def compare(options: argparse.Namespace, folder: Path, site: str) -> list[dict[str, object]]:
    """One client: the capture that is its own, the distance from its true gradient, then attack and score."""
    truth = read_capture(next((folder / site / "gradients").iterdir())).update
    size = max(float(tensor.abs().max()) for tensor in truth.values())
    gaps = {}
    for path in (folder / "captures").iterdir():
        found = read_capture(path).gradient()
        gaps[path] = max(float((found[name] - truth[name]).abs().max()) for name in truth) / size
    nearest = min(gaps, key=gaps.__getitem__)
    rows: list[dict[str, object]] = []
    for attack in options.attacks.split(","):
        out, own = folder / f"{attack}-{site}", str(folder / site / "truth.safetensors")
        given = ["--update", str(nearest), "--network", options.network, "--attack", attack, "--budget", options.budget]
        leaked = seepage("attack", *given, "--out", str(out))
        seepage("score", str(out / "reconstruction.safetensors"), "--truth", own, "--json", str(out / "score.json"))
        score = json.loads((out / "score.json").read_text())
        rows.append(
            {
                "client": site,
                "kind": read_capture(nearest).header.kind.value,
                "relative_gap_to_the_true_gradient": gaps[nearest],
                "attack": attack,
                "attack_exit_code": leaked,
                "exact": sum(score["scores"]["exact"]),
                "certified": sum(score["certified"]),
                "of": len(score["certified"]),
                "least_psnr": min(score["scores"]["psnr"]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--environment", choices=["poc", "simulator"], default="poc")
    parser.add_argument("--transfer", choices=["full", "diff"], default="full")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--network", default="mlp:200")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--attacks", default="auto,spearpp,prism")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--gate", action="store_true", help="Hold back what leaks instead of capturing it.")
    parser.add_argument("--timeout", type=float, default=180.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=False)
    folder = options.folder.resolve()
    run = recipe(options, folder, load_dataset(options.data, normalize="none")).execute(
        environment(options.environment, folder)
    )
    run.get_result(timeout=options.timeout, clean_up=False)
    if options.gate:
        print(json.dumps({"status": run.get_status(), "held_back": logged(folder)}))
        return
    for site in ("site-1", "site-2"):
        for row in compare(options, folder, site):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
