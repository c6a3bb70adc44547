"""``seepage attack``: a captured update is attacked without the truth."""

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from seepage.audit.captured import CapturedAudit
from seepage.audit.captures.attacked import Attacked
from seepage.audit.catalogue import ATTACKS, build_attack, build_rule
from seepage.audit.reconstructions import write_reconstruction
from seepage.cli.options import (
    BudgetOption,
    NetworkOption,
    SeedOption,
    StatedRuleOption,
    ThreadsOption,
    ThresholdOption,
    parse_budget,
    parse_shape,
    set_threads,
)
from seepage.cli.show import Watch
from seepage.cli.show import out as console
from seepage.cli.writing import make_folder, write_text
from seepage.data.normalization import Normalization, make_normalization
from seepage.errors import InputError, readable
from seepage.federated.storage import Capture, CaptureHeader, Sign, UpdateKind, read_capture
from seepage.networks.zoo import build_network
from seepage.report.sheet import write_sheet
from seepage.types import UpdateRule

__all__ = ["attack"]

_File = Path | None
_OutOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where finding and reconstruction go.")]
_UpdateOption = Annotated[_File, typer.Option("--update", metavar="FILE", help="A capture bundle.")]
_BeforeOption = Annotated[_File, typer.Option("--before", metavar="FILE", help="Or: weights sent out ...")]
_AfterOption = Annotated[_File, typer.Option("--after", metavar="FILE", help="... and weights that came back.")]
_RateOption = Annotated[float | None, typer.Option("--lr", help="The client's learning rate, with --before.")]
_StepsOption = Annotated[
    int | None, typer.Option("--local-steps", min=1, help="Its SGD steps, with --before; 1 without --rule.")
]
_SentWeightsOption = Annotated[
    _File, typer.Option("--weights", metavar="FILE", help="Weights sent out, if the bundle has none.")
]
_ShapeOption = Annotated[str | None, typer.Option("--input-shape", metavar="CxHxW", help="If not in it.")]
_ClassesOption = Annotated[int | None, typer.Option("--classes", min=2, help="Number of classes, if not in it.")]
_KnownSizeOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="If the server knows it and the bundle does not say.")
]
_AttackOption = Annotated[str, typer.Option("--attack", help=f"One of: {', '.join(ATTACKS)}.")]
_LayerOption = Annotated[str | None, typer.Option("--layer", help="Layer to attack; the first that fits.")]
_ScalingOption = Annotated[
    str, typer.Option("--normalize", metavar="HOW", help="For pictures: none, or MEAN,...:STD,...")
]


def attack(
    network: NetworkOption,
    out: _OutOption,
    update: _UpdateOption = None,
    before: _BeforeOption = None,
    after: _AfterOption = None,
    lr: _RateOption = None,
    local_steps: _StepsOption = None,
    rule: StatedRuleOption = None,
    weights: _SentWeightsOption = None,
    input_shape: _ShapeOption = None,
    classes: _ClassesOption = None,
    batch_size: _KnownSizeOption = None,
    attack_name: _AttackOption = "auto",
    layer: _LayerOption = None,
    normalize: _ScalingOption = "none",
    seed: SeedOption = 0,
    budget: BudgetOption = "10m",
    threads: ThreadsOption = None,
    threshold: ThresholdOption = 0.0,
) -> None:
    """Attack one captured update. Needs no truth: only what is certified is called exact."""
    set_threads(threads)
    method = build_attack(attack_name, budget=parse_budget(budget), layer=layer)
    stated = build_rule(rule) if rule is not None else None
    bundle = _bundle(update, weights, stated, before=before, after=after, lr=lr, local_steps=local_steps)
    shape, count = _sizes(bundle, input_shape, classes)
    built = build_network(network, input_shape=shape, classes=count, seed=seed, weights=before or weights)
    scaling = _scaling(normalize, shape)
    if bundle is None:
        later = build_network(network, input_shape=shape, classes=count, seed=seed, weights=after)
        bundle = _pair(built, later, stated, lr=lr, steps=local_steps)
    make_folder(out)
    audit = CapturedAudit(network=built, input_shape=shape, classes=count, attack=method, seed=seed, rule=stated)
    capture, source = _announced(bundle, batch_size), readable(str(update if update is not None else after))
    with Watch(1) as watch:
        attacked = audit(capture, progress=watch.progress)
    finding = audit.finding(attacked, capture, network=network, source=source, normalize=normalize)
    _write(out, attacked, finding.model_dump_json(), scaling)
    raise typer.Exit(attacked.verdict(threshold))


def _bundle(
    update: _File,
    weights: _File,
    stated: UpdateRule | None,
    *,
    before: _File,
    after: _File,
    lr: float | None,
    local_steps: int | None,
) -> Capture | None:
    """The bundle; ``None`` for two files of weights and what led from one to the other. Never a mixture."""
    if update is not None:
        beside = {"--before": before, "--after": after, "--lr": lr, "--local-steps": local_steps}
        found = ", ".join(word for word, value in beside.items() if value is not None)
        if found:
            raise InputError(f"`--update` should stand alone, the bundle says the rest; found {found} as well.")
        bundle = read_capture(update)
        if bool(bundle.before) == (weights is not None):
            found = "both" if bundle.before else "neither"
            raise InputError(f"The weights sent out should be in the bundle or in `--weights`; found {found}.")
        return bundle
    if before is None or after is None or (lr is None and stated is None) or not (lr is None or 0 < lr < math.inf):
        given = {"--before": before, "--after": after, "--lr": lr, "--rule": stated and stated.name}
        found = ", ".join(f"{word} {value}" for word, value in given.items() if value is not None)
        raise InputError(
            "Either `--update`, or `--before`, `--after` and a positive `--lr` (or `--rule`) should be given; "
            f"found {found or 'none of them'}."
        )
    if weights is not None:
        raise InputError("`--before` says what was sent out; found `--weights` as well.")
    return None


def _sizes(bundle: Capture | None, input_shape: str | None, classes: int | None) -> tuple[tuple[int, ...], int]:
    shape = None if input_shape is None else parse_shape(input_shape)
    if bundle is not None:
        shape, classes = shape or bundle.header.input_shape, classes or bundle.header.classes
    if shape is None or classes is None:
        lacking = " and ".join(
            word for word, value in (("`--input-shape`", shape), ("`--classes`", classes)) if value is None
        )
        raise InputError(f"{lacking} should be given where no bundle says it; found none.")
    return shape, classes


def _pair(
    before: nn.Module, after: nn.Module, stated: UpdateRule | None, *, lr: float | None, steps: int | None
) -> Capture:
    word, steps = ("sgd", steps or 1) if stated is None else ("unknown", steps)
    header = CaptureHeader(
        kind=UpdateKind.PAIR, sign=Sign.AFTER_MINUS_BEFORE, rule=word, learning_rate=lr, local_steps=steps
    )
    return Capture(header=header, before=before.state_dict(), after=after.state_dict())


def _announced(capture: Capture, batch_size: int | None) -> Capture:
    known = capture.header.batch_size
    if batch_size is None or batch_size == known:
        return capture
    if known is not None:
        raise InputError(f"`--batch-size` should agree with the bundle, which says {known}; found {batch_size}.")
    return Capture(
        header=capture.header.model_copy(update={"batch_size": batch_size}),
        update=capture.update,
        before=capture.before,
        after=capture.after,
        buffers=capture.buffers,
    )


def _scaling(normalize: str, shape: tuple[int, ...]) -> Normalization:
    if normalize == "channel":
        raise InputError("`--normalize` should be none or MEAN,...:STD,...; found channel, which needs the data.")
    return make_normalization(normalize, torch.zeros(1, *shape))


def _write(folder: Path, attacked: Attacked, finding: str, scaling: Normalization) -> None:
    try:
        for stale in ("reconstruction.safetensors", "reconstruction.png"):
            (folder / stale).unlink(missing_ok=True)
        found = attacked.reconstruction
        if found is not None and found.inputs is not None:
            write_reconstruction(folder / "reconstruction.safetensors", found)
            if not found.layer:
                write_sheet(folder / "reconstruction.png", scaling.invert(found.inputs), found.certified)
    except OSError as error:
        raise InputError(f"`--out` should be a folder that can be written; found {folder}: {error}.") from error
    write_text(folder / "finding.json", finding + "\n")
    console.print(attacked.describe(), markup=False, soft_wrap=True)
    written = ("finding.json", "reconstruction.safetensors", "reconstruction.png")
    there = ", ".join(name for name in written if (folder / name).exists())
    console.print(f"in {folder}: {there}", markup=False, soft_wrap=True)
