"""``seepage train``: an attack network for a network, from public data."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from seepage.attacks.inverterfile import save_inverter
from seepage.attacks.inverters.blueprint import InverterKind, draw_blueprint
from seepage.attacks.training import Trained, Training, train_inverter
from seepage.cli.options import NetworkOption, SeedOption, SizeOption, ThreadsOption, WeightsOption, set_threads
from seepage.cli.show import Watch
from seepage.cli.show import out as console
from seepage.data.sources import draw_batch, load_dataset
from seepage.errors import InputError
from seepage.networks.zoo import build_network

__all__ = ["train"]

train = typer.Typer(
    help="Train an attack network on public data, for --attack git:FILE.", no_args_is_help=True, rich_markup_mode=None
)


_ScalingOption = Annotated[
    str, typer.Option("--normalize", metavar="HOW", help="As the client does: none, channel, MEAN,...:STD,....")
]
_CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="FILE", help="Written each epoch; taken up if it stands.")
]


@train.command()
def git(
    network: NetworkOption,
    data: Annotated[str, typer.Option("--data", metavar="SOURCE", help="Public data, none of which is audited.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where it goes, a .safetensors file.")],
    examples: Annotated[int, typer.Option("--batch-size", min=1, max=64, help="Examples a batch.")] = 1,
    kind: Annotated[InverterKind, typer.Option("--kind", help="Which attack network.")] = InverterKind.COARSE_GIT,
    pairs: Annotated[int | None, typer.Option("--pairs", min=2, help="Public examples; all if left out.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Most passes over them.")] = 40,
    width: Annotated[int, typer.Option("--width", min=1, help="Units of its hidden layers.")] = 512,
    normalize: _ScalingOption = "channel",
    size: SizeOption = None,
    checkpoint: _CheckpointOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Train GIT (or LTI) for the network as --seed or --weights give it; the audit should name the same."""
    set_threads(threads)
    _refuse_paths(out, checkpoint)
    dataset = load_dataset(data, normalize=normalize, size=size)
    count = min(pairs or len(dataset), len(dataset))
    public, _ = draw_batch(dataset, batch_size=count, generator=torch.Generator().manual_seed(seed))
    shape = dataset.input_shape
    built = build_network(network, input_shape=shape, classes=dataset.classes, seed=seed, weights=weights)
    blueprint = draw_blueprint(built, kind=kind, input_shape=shape, examples=examples, width=width)
    with Watch() as watch:
        trained = train_inverter(
            built,
            blueprint,
            public.inputs,
            public.labels,
            training=Training(epochs=epochs, seed=seed),
            checkpoint=checkpoint,
            progress=watch.progress,
        )
    _write(trained, float(public.inputs.var(dim=0, correction=0).mean()), out, interrupted=watch.interrupted)
    if watch.interrupted and checkpoint is not None and checkpoint.is_file():
        console.print(f"The same command goes on from {checkpoint}.", markup=False, soft_wrap=True)


def _refuse_paths(out: Path, checkpoint: Path | None) -> None:
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise InputError(f"`--out` should be a .safetensors file in a folder that exists; found {out}.")
    if checkpoint is None:
        return
    if checkpoint.is_dir() or not checkpoint.parent.is_dir():
        raise InputError(f"`--checkpoint` should be a file in a folder that exists; found {checkpoint}.")
    if checkpoint.resolve() == out.resolve():
        raise InputError(f"`--checkpoint` should be another file than `--out`, which would replace it; found {out}.")


def _write(trained: Trained, mean_error: float, out: Path, *, interrupted: bool) -> None:
    if not trained.train_errors and not trained.held_out_errors[0] < mean_error:  # Coarse-GIT's closed map may be less
        raise InputError("The training should last one epoch at least; it was interrupted before. Nothing was written.")
    save_inverter(trained.inverter, out)
    best, before = trained.best_epoch, "interrupted; " if interrupted else ""
    last = f" (training, last epoch: {trained.train_errors[-1]:.4f})" if trained.train_errors else ""
    console.print(
        f"{before}held-out mean squared error {trained.held_out_errors[best]:.4f}{last}, "
        f"best after {best} of {len(trained.train_errors)} epochs; "
        f"the mean of the public data has {mean_error:.4f}.\n{out}",
        markup=False,
        soft_wrap=True,
    )
