"""The commands: arguments in, exit code out."""

import io
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import SafetensorError

import seepage
from seepage.attacks.budget import Budget
from seepage.audit.catalogue import ATTACKS, build_attack, build_defense, build_rule
from seepage.audit.findingsfile import findings_schema
from seepage.audit.preflight import inspect_network
from seepage.audit.record import Verdict
from seepage.audit.run import Audit
from seepage.cli import captured
from seepage.cli.carry import carry_out
from seepage.cli.frontier import frontier
from seepage.cli.gate import diff, gate
from seepage.cli.options import (
    BatchSizeOption,
    BudgetOption,
    DefenseOption,
    DeviceOption,
    Dtype,
    KnowsOption,
    NetworkOption,
    OutOption,
    RedactOption,
    RuleOption,
    SeedOption,
    ThreadsOption,
    ThresholdOption,
    WeightsOption,
    parse_budget,
    parse_device,
    parse_knowledge,
    parse_shape,
    set_threads,
)
from seepage.cli.reach import print_reach, print_rule
from seepage.cli.show import err, print_layers, print_theory
from seepage.cli.show import out as console
from seepage.cli.sweep import sweep
from seepage.cli.train import train
from seepage.data.sources import load_dataset
from seepage.errors import InputError, SeepageError
from seepage.networks.weights import load_weights
from seepage.networks.zoo import build_network
from seepage.report.html import write_report

__all__ = ["app", "main"]

_BAD_INPUT = 2

app = typer.Typer(
    name="seepage",
    help="Measure how much private training data a federated-learning update gives away. Audit only what you own.",
    epilog="Exit codes: 0 nothing leaked above the threshold, 1 something did, 2 wrong usage or bad input, "
    "3 could not be audited, 4 inconclusive (the attack found nothing, but failed its positive control, had none, "
    "overlooked examples that stand in the update, or met a network that was not understood).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(train, name="train")


@app.command()
def audit(
    data: Annotated[
        str, typer.Option("--data", metavar="SOURCE", help=".npz, IDX (.gz), image folder, .csv, or digits, photos.")
    ],
    network: NetworkOption,
    out: OutOption,
    batch_size: BatchSizeOption = 8,
    attack: Annotated[
        str, typer.Option("--attack", help=f"One of: {', '.join(ATTACKS)}, git:FILE, module:factory.")
    ] = "auto",
    batches: Annotated[int, typer.Option("--batches", min=1, help="How many batches to draw and attack.")] = 1,
    seed: SeedOption = 0,
    rule: RuleOption = "fedsgd",
    defense: DefenseOption = None,
    normalize: Annotated[
        str,
        typer.Option("--normalize", metavar="HOW", help="channel, none, or MEAN,...:STD,... (decides how much leaks)."),
    ] = "channel",
    target: Annotated[
        str | None, typer.Option("--target", help="A table's label column; the last if left out.")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Resize and crop images to SIZE x SIZE.")] = None,
    knows: KnowsOption = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Layer to attack; the first that fits if left out.")
    ] = None,
    weights: WeightsOption = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Precision of network and data.")] = Dtype.FLOAT32,
    device: DeviceOption = "cpu",
    budget: BudgetOption = "10m",
    threads: ThreadsOption = None,
    threshold: ThresholdOption = 0.0,
    redact: RedactOption = False,
) -> None:
    """Attack batches drawn from your data, score them against the truth, and write findings and a report."""
    set_threads(threads)
    place = parse_device(device)
    dataset = load_dataset(data, normalize=normalize, target=target, size=size)
    built = build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    if weights is not None:
        load_weights(built, weights)
    plan = Audit(
        network=built,
        network_name=network,
        dataset=dataset,
        rule=build_rule(rule),
        defenses=tuple(build_defense(text) for text in defense or ()),
        attack=build_attack(attack, budget=parse_budget(budget), layer=layer),
        threat_model=parse_knowledge(knows),
        batch_size=batch_size,
        batches=batches,
        seed=seed,
        dtype=getattr(torch, dtype.value),
        device=place,
    )
    raise typer.Exit(carry_out(plan, out, redact=redact, threshold=threshold, budget=budget, weights=weights))


@app.command()
def demo(
    out: OutOption = Path("runs/demo"),
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Audit a small network on real photographs that ship with seepage; ends with the path of the report.

    Exits with 0 if the demonstration ran, although (because) the photographs leak.
    """
    set_threads(threads)
    dataset = load_dataset("photos")
    name = "mlp:400,400,400"
    plan = Audit(
        network=build_network(name, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed),
        network_name=name,
        dataset=dataset,
        rule=build_rule("fedsgd"),
        attack=build_attack("auto", budget=Budget(seconds=25.0)),
        batch_size=12,
        batches=2,
        seed=seed,
    )
    code = carry_out(plan, out, redact=False, threshold=0.0, budget="25s", weights=None)
    raise typer.Exit(Verdict.NOTHING_LEAKED if code is Verdict.LEAKED else code)


@app.command()
def inspect(
    network: NetworkOption,
    input_shape: Annotated[str, typer.Option("--input-shape", metavar="CxHxW", help="Shape of one input.")],
    classes: Annotated[int, typer.Option("--classes", min=2, help="Number of classes.")],
    batch_size: BatchSizeOption = 8,
    rule: RuleOption = "fedsgd",
    seed: SeedOption = 0,
    weights: WeightsOption = None,
) -> None:
    """List a network's layers, which of them give examples away, up to what batch size, and at what cost. No data."""
    shape, told = parse_shape(input_shape), build_rule(rule)
    built = build_network(network, input_shape=shape, classes=classes, seed=seed)
    if weights is not None:
        load_weights(built, weights)
    found = inspect_network(built, input_shape=shape, classes=classes)
    print_layers(found)
    print_theory(found, batch_size)
    print_reach(found, batch_size=batch_size)
    print_rule(told)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run's folder, as written by audit or demo.")],
    redact: RedactOption = False,
) -> None:
    """Write a run's report again, for example without any private input."""
    typer.echo(write_report(run, redact=redact))


@app.command()
def schema() -> None:
    """Print the JSON schema of one line of findings.jsonl."""
    console.print_json(data=dict(findings_schema()))


app.command()(captured.attack)
app.command()(captured.score)
app.command()(gate)
app.command()(diff)
app.command()(sweep)
app.command()(frontier)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"seepage {seepage.__version__}")
        raise typer.Exit(0)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input ends in one sentence on standard error and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a folder's name need not be text
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        app(args=arguments, prog_name="seepage")
    except InputError as error:
        err.print(f"seepage: {error}", markup=False, soft_wrap=True)
        sys.exit(_BAD_INPUT)
    except SeepageError as error:
        err.print(f"seepage: {error}", markup=False, soft_wrap=True)
        sys.exit(Verdict.NOT_AUDITED)
    except (OSError, SafetensorError) as error:
        err.print(
            f"seepage: a file could not be read or written: {error}. What was written before is kept.",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(Verdict.NOT_AUDITED)
    except Exception:
        try:
            err.print_exception()
            err.print(
                "seepage: this is a fault of seepage, not a finding: it says nothing of the data.", soft_wrap=True
            )
        finally:  # Python would exit with 1, which here means that something leaked
            sys.exit(Verdict.NOT_AUDITED)
