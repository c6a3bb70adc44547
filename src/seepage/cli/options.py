"""Options that several commands share, and the texts among them turned into values."""

import enum
import math
import re
from pathlib import Path
from typing import Annotated

import torch
import typer

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import ATTACKS, DEFENSES, RULES
from seepage.errors import InputError
from seepage.types import ThreatModel

__all__ = [
    "AttackOption",
    "BatchSizeOption",
    "BatchesOption",
    "BudgetOption",
    "DataOption",
    "DefenseOption",
    "DeviceOption",
    "Dtype",
    "DtypeOption",
    "KnowsOption",
    "LayerOption",
    "NetworkOption",
    "NormalizeOption",
    "OutOption",
    "RedactOption",
    "RuleOption",
    "SeedOption",
    "SizeOption",
    "StatedRuleOption",
    "SweepOutOption",
    "TargetOption",
    "ThreadsOption",
    "ThresholdOption",
    "WeightsOption",
    "parse_budget",
    "parse_device",
    "parse_knowledge",
    "parse_shape",
    "set_threads",
]


class Dtype(enum.StrEnum):
    """Precisions an audit can be run in."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


NetworkOption = Annotated[
    str,
    typer.Option(
        "--network",
        metavar="SPEC",
        help="mlp:400,400,400 (widths; mlp:400,400:gelu), lenet, lenet:sigmoid, resnet18, resnet20, vit, or "
        "module:factory.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Root of all chance: network, batches, attack.")]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Examples a batch.")]
RuleOption = Annotated[
    str,
    typer.Option(
        "--rule",
        metavar="SPEC",
        help=f"What the client does: {', '.join(RULES)}; options after a colon, as in fedavg:epochs=2,lr=0.01.",
    ),
]
StatedRuleOption = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="SPEC",
        help="What the client did, by your word; held against the bundle's: fedsgd, fedavg:epochs=2,lr=0.01, ...",
    ),
]
DefenseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--defense",
        metavar="SPEC",
        help=f"What the client does to its update, repeatable, in order: {', '.join(DEFENSES)}; as in noise:0.01.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where findings.jsonl and report.html go.")]
SweepOutOption = Annotated[
    Path,
    typer.Option(
        "--out", metavar="FOLDER", help="Where findings.jsonl goes; `seepage report FOLDER` makes a page of it."
    ),
]
BudgetOption = Annotated[
    str, typer.Option("--budget", metavar="LIMIT", help="Of each batch: 60s, 10m, or a number of samples such as 5e6.")
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Weights (.safetensors); else PyTorch's default start.")
]
RedactOption = Annotated[
    bool, typer.Option("--redact", help="Figures only: no private input, cell or label on the page.")
]
ThresholdOption = Annotated[
    float,
    typer.Option(
        "--threshold", min=0.0, max=1.0, help="Share of a batch's examples (or labels) given away that still passes."
    ),
]
KnowsOption = Annotated[
    str | None,
    typer.Option("--knows", metavar="WORDS", help="What the server knows besides: batch-size, labels, or both."),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads; all cores if left out.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]


DataOption = Annotated[
    str, typer.Option("--data", metavar="SOURCE", help=".npz, IDX (.gz), image folder, .csv, or digits, photos.")
]
AttackOption = Annotated[str, typer.Option("--attack", help=f"One of: {', '.join(ATTACKS)}, git:FILE, module:factory.")]
LayerOption = Annotated[str | None, typer.Option("--layer", help="Layer to attack; the first that fits if left out.")]
BatchesOption = Annotated[int, typer.Option("--batches", min=1, help="How many batches to draw and attack.")]
NormalizeOption = Annotated[
    str,
    typer.Option("--normalize", metavar="HOW", help="channel, none, or MEAN,...:STD,... (decides how much leaks)."),
]
TargetOption = Annotated[str | None, typer.Option("--target", help="A table's label column; the last if left out.")]
SizeOption = Annotated[int | None, typer.Option("--size", min=1, help="Resize and crop images to SIZE x SIZE.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Precision of network and data.")]


def parse_budget(text: str) -> Budget:
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)(s|m|h)?", text)
    number = float(match[1]) if match else 0.0
    if match is None or not 0 < number < math.inf:
        raise InputError(f"`--budget` should be a time such as 60s or 10m, or a number of samples; found {text!r}.")
    if match[2] is None:
        return Budget(samples=int(number))
    return Budget(seconds=number * {"s": 1, "m": 60, "h": 3600}[match[2]])


def parse_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,3}", text):
        raise InputError(f"`--input-shape` should be like 3x32x32 or 105; found {text!r}.")
    return tuple(int(part) for part in text.split("x"))


def parse_device(text: str) -> torch.device:
    try:
        place = torch.device(text)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"`--device` should be one that torch can use here, such as cpu; found {text!r}.") from error
    return place


def parse_knowledge(text: str | None) -> ThreatModel:
    words = [] if text is None else text.split(",")
    if not set(words) <= {"batch-size", "labels"}:
        raise InputError(f"`--knows` should be batch-size, labels, or both with a comma between; found {text!r}.")
    return ThreatModel(batch_size="batch-size" in words, labels="labels" in words)


def set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
