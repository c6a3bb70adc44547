"""``seepage score``: the truth meets a reconstruction that was made without it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from seepage.audit.findings import Score
from seepage.audit.reconstructions import read_reconstruction, score_against_truth
from seepage.audit.record import Verdict
from seepage.audit.scores.scoring import Scored
from seepage.cli.options import ThresholdOption
from seepage.cli.show import out as console
from seepage.cli.writing import write_text
from seepage.data.sources import load_dataset
from seepage.federated.truth import read_truth

__all__ = ["score"]


def score(
    reconstruction: Annotated[Path, typer.Argument(metavar="RECONSTRUCTION", help="As written by attack.")],
    truth: Annotated[Path, typer.Option("--truth", metavar="FILE", help="The client's own examples.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="What the examples are from: pictures are told from its others."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="With --data: a table's label column.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="With --data: resize and crop images.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores there as well.")
    ] = None,
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
        write_text(json_file, json.dumps({"certified": scored.certified, "scores": scored.scores}) + "\n")
    if known > threshold * len(batch):
        raise typer.Exit(Verdict.LEAKED)
    raise typer.Exit(Verdict.INCONCLUSIVE if wrong > 0 else Verdict.NOTHING_LEAKED)


def _list(scored: Scored, name: str) -> list[Score]:
    values = scored.scores[name]
    return values if isinstance(values, list) else [values]
