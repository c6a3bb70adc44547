"""``seepage attack`` and ``seepage score``: a captured update first, and the truth later, if ever."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from seepage.audit.captured import Attacked, CapturedAudit
from seepage.audit.catalogue import ATTACKS, build_attack, build_rule
from seepage.audit.findings import Score
from seepage.audit.reconstructions import read_reconstruction, score_against_truth, write_reconstruction
from seepage.audit.record import Verdict
from seepage.audit.scoring import Scored
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
from seepage.data.normalization import Normalization, make_normalization
from seepage.data.sources import load_dataset
from seepage.errors import InputError, readable
from seepage.federated.storage import Capture, CaptureHeader, Sign, UpdateKind, read_capture
from seepage.federated.truth import read_truth
from seepage.networks.weights import load_weights
from seepage.networks.zoo import build_network
from seepage.report.sheet import write_sheet
from seepage.types import UpdateRule

__all__ = ["attack", "score"]

_File = Path | None


def attack(
    network: NetworkOption,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where finding and reconstruction go.")],
    update: Annotated[_File, typer.Option("--update", metavar="FILE", help="A capture bundle.")] = None,
    before: Annotated[_File, typer.Option("--before", metavar="FILE", help="Or: weights sent out ...")] = None,
    after: Annotated[_File, typer.Option("--after", metavar="FILE", help="... and weights that came back.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="The client's learning rate, with --before.")] = None,
    local_steps: Annotated[
        int | None, typer.Option("--local-steps", min=1, help="Its SGD steps, with --before; 1 without --rule.")
    ] = None,
    rule: StatedRuleOption = None,
    weights: Annotated[
        _File, typer.Option("--weights", metavar="FILE", help="Weights sent out, if the bundle has none.")
    ] = None,
    input_shape: Annotated[str | None, typer.Option("--input-shape", metavar="CxHxW", help="If not in it.")] = None,
    classes: Annotated[int | None, typer.Option("--classes", min=2, help="Number of classes, if not in it.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="If the server knows it and the bundle does not say.")
    ] = None,
    attack_name: Annotated[str, typer.Option("--attack", help=f"One of: {', '.join(ATTACKS)}.")] = "auto",
    layer: Annotated[str | None, typer.Option("--layer", help="Layer to attack; the first that fits.")] = None,
    normalize: Annotated[
        str, typer.Option("--normalize", metavar="HOW", help="For pictures: none, or MEAN,...:STD,...")
    ] = "none",
    seed: SeedOption = 0,
    budget: BudgetOption = "10m",
    threads: ThreadsOption = None,
    threshold: ThresholdOption = 0.0,
) -> None:
    """Attack one captured update. Needs no truth: only what is certified is called exact."""
    set_threads(threads)
    method = build_attack(attack_name, budget=parse_budget(budget), layer=layer)
    stated = None if rule is None else build_rule(rule)
    shape = None if input_shape is None else parse_shape(input_shape)
    bundle = None
    if update is not None:
        _refuse_besides_bundle(before=before, after=after, lr=lr, local_steps=local_steps)
        bundle = read_capture(update)
        shape, classes = shape or bundle.header.input_shape, classes or bundle.header.classes
    if shape is None or classes is None:
        lacking = " and ".join(
            word for word, value in (("`--input-shape`", shape), ("`--classes`", classes)) if value is None
        )
        raise InputError(f"{lacking} should be given where no bundle says it; found none.")
    built = build_network(network, input_shape=shape, classes=classes, seed=seed)
    scaling = _scaling(normalize, shape)
    _make_folder(out)
    if bundle is None:
        header = _pair_header(stated, before=before, after=after, lr=lr, steps=local_steps)
        capture = _pair(built, network, shape, classes, header, before=before, after=after)
    else:
        capture = bundle
        _load_weights(built, bundle, weights)
    capture = _announced(capture, batch_size)
    audit = CapturedAudit(network=built, input_shape=shape, classes=classes, attack=method, seed=seed, rule=stated)
    with Watch(1) as watch:
        attacked = audit(capture, progress=watch.progress)
    source = readable(str(update if update is not None else after))
    finding = audit.finding(attacked, capture, network=network, source=source, normalize=normalize)
    _write(out, attacked, finding.model_dump_json(), scaling)
    console.print(attacked.describe(), markup=False, soft_wrap=True)
    raise typer.Exit(attacked.verdict(threshold))


def score(
    reconstruction: Annotated[Path, typer.Argument(metavar="RECONSTRUCTION", help="As written by attack.")],
    truth: Annotated[Path, typer.Option("--truth", metavar="FILE", help="The client's own examples.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="What the examples are from: pictures are told from its others."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="With --data: a table's label column.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="With --data: resize and crop images.")] = None,
    json_file: Annotated[_File, typer.Option("--json", metavar="FILE", help="Write the scores there as well.")] = None,
    threshold: ThresholdOption = 0.0,
) -> None:
    """Compare a reconstruction with the truth, which attack never opens."""
    found = read_reconstruction(reconstruction)
    batch, normalize = read_truth(truth)
    dataset = None if data is None else load_dataset(data, normalize="none", target=target, size=size)
    scored = score_against_truth(found, batch, normalize=normalize, dataset=dataset)
    exact, shown, decibels = (_list(scored, word) for word in ("exact", "recognisable", "psnr"))
    for index, value in enumerate(decibels):
        word = "exact" if exact[index] else "recognisable" if shown[index] else "not exact"
        sure = ", certified" if scored.certified[index] else ""
        near = "nothing matched" if value is None else f"{value:.1f} dB"
        console.print(f"example {index}: {word}{sure}, {near}", markup=False)
    right, known = sum(value is True for value in exact), sum(value is True for value in shown)
    beside = f"{known} recognisable, " if known > right else ""
    console.print(f"{right} of {len(batch)} examples exact, {beside}{sum(scored.certified)} certified", markup=False)
    wrong = sum(sure and not true for sure, true in zip(scored.certified, exact, strict=True))
    wrong += int(found.certified.sum()) - sum(scored.certified)
    if dataset is None and known < len(batch):
        console.print(
            "Recognisable here means 20 dB; with --data, pictures are told from others too, and rows by cells."
        )
    if wrong > 0:
        console.print(f"{wrong} certified examples are not in this truth: is it the right file?", markup=False)
    if json_file is not None:
        _write_text(json_file, json.dumps({"certified": scored.certified, "scores": scored.scores}) + "\n")
    if known > threshold * len(batch):
        raise typer.Exit(Verdict.LEAKED)
    raise typer.Exit(Verdict.INCONCLUSIVE if wrong > 0 else Verdict.NOTHING_LEAKED)


def _list(scored: Scored, name: str) -> list[Score]:
    values = scored.scores[name]
    return values if isinstance(values, list) else [values]


def _refuse_besides_bundle(**given: Path | float | None) -> None:
    found = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if found:
        raise InputError(f"`--update` should stand alone, the bundle says the rest; found {', '.join(found)} as well.")


def _pair_header(
    stated: UpdateRule | None, *, before: _File, after: _File, lr: float | None, steps: int | None
) -> CaptureHeader:
    if before is None or after is None or (lr is None and stated is None) or not (lr is None or 0 < lr < float("inf")):
        raise InputError(
            "Either `--update`, or `--before`, `--after` and a positive `--lr` (or `--rule`) should be given; "
            f"found before {before}, after {after}, lr {lr}."
        )
    word, steps = ("sgd", steps or 1) if stated is None else ("unknown", steps)
    return CaptureHeader(
        kind=UpdateKind.PAIR, sign=Sign.AFTER_MINUS_BEFORE, rule=word, learning_rate=lr, local_steps=steps
    )


def _pair(
    network: nn.Module,
    spec: str,
    shape: tuple[int, ...],
    classes: int,
    header: CaptureHeader,
    *,
    before: _File,
    after: _File,
) -> Capture:
    later = build_network(spec, input_shape=shape, classes=classes, seed=0)
    for one, file in ((network, before), (later, after)):
        if file is not None:
            load_weights(one, file)
    return Capture(header=header, before=network.state_dict(), after=later.state_dict())


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


def _load_weights(network: nn.Module, bundle: Capture, weights: _File) -> None:
    if bool(bundle.before) == (weights is not None):
        found = "both" if bundle.before else "neither"
        raise InputError(f"The weights sent out should be in the bundle or in `--weights`; found {found}.")
    if weights is not None:
        load_weights(network, weights)


def _scaling(normalize: str, shape: tuple[int, ...]) -> Normalization:
    if normalize == "channel":
        raise InputError("`--normalize` should be none or MEAN,...:STD,...; found channel, which needs the data.")
    return make_normalization(normalize, torch.zeros(1, *shape))


def _make_folder(folder: Path) -> None:
    """Before the attack: a folder that cannot be written should not cost an hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise InputError(f"`--out` should be a folder that can be written; found {folder}: {error}.") from error


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
    _write_text(folder / "finding.json", finding + "\n")


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} should be a file that can be written; found: {error}.") from error
