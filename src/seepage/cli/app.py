"""The commands: arguments in, exit code out."""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

import seepage
from seepage.audit.catalogue import build_rule
from seepage.audit.findingsfile import findings_schema
from seepage.audit.preflight import inspect_network
from seepage.audit.record import Verdict
from seepage.cli.audit import audit, demo
from seepage.cli.captured import attack
from seepage.cli.frontier import frontier
from seepage.cli.gate import diff, gate
from seepage.cli.options import (
    BatchSizeOption,
    NetworkOption,
    RedactOption,
    RuleOption,
    SeedOption,
    WeightsOption,
    parse_shape,
)
from seepage.cli.reach import print_reach, print_rule
from seepage.cli.score import score
from seepage.cli.show import err, print_layers, print_theory
from seepage.cli.show import out as console
from seepage.cli.sweep import sweep
from seepage.cli.train import train
from seepage.errors import InputError, SeepageError
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


app.command()(audit)
app.command()(demo)


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
    built = build_network(network, input_shape=shape, classes=classes, seed=seed, weights=weights)
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


app.command()(attack)
app.command()(score)
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
