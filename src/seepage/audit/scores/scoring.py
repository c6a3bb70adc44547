"""Where the private batch meets the reconstruction: matched by assignment, scored in the data's own units."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seepage.audit.findings import Score
from seepage.audit.scores.labelscoring import certified_examples, label_numbers
from seepage.audit.scores.recognition import recognisable_numbers, recognisable_pictures, recognisable_rows
from seepage.data.sources import Dataset, InputKind
from seepage.metrics import exact_images, exact_numbers, match, psnr, recognisable_images, ssim
from seepage.types import PrivateBatch, Reconstruction

__all__ = ["PSNR_CAP", "Scored", "score"]

PSNR_CAP = 300.0  # dB written for a reconstruction equal to the last bit, whose PSNR is infinite
_COPY = 48.0  # dB: half a grey level of 8 bits
_OTHERS = 1000  # pictures that a reconstruction is held against, to see whether it shows its original and no other


@dataclass(slots=True, kw_only=True)
class Scored:
    """What the audit says of one reconstruction; every list is in the order of the private batch."""

    certified: list[bool] = field(default_factory=list)
    scores: dict[str, list[Score] | float | None] = field(default_factory=dict)
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    true_labels: list[int] | None = None


def score(
    reconstruction: Reconstruction, batch: PrivateBatch, dataset: Dataset, fed: Callable[[str], Tensor] | None
) -> Scored:
    """Match and score. Inputs of the network are scored in raw units, inputs of an inner layer as they are.

    Args:
        reconstruction: any number of examples, in any order.
        batch: the truth, ``b`` examples.
        dataset: gives the scaling, and the encoding of a table.
        fed: with the name of an inner layer, gives the ``[b, *shape]`` that the client fed it with; ``None`` where the
            network is not at hand, for inputs of the network only.

    Raises:
        ValueError: the inputs are those of an inner layer, and there is nothing to tell the true ones.
    """
    if reconstruction.inputs is None:
        return _score_labels(reconstruction, batch, dataset.classes)
    inner = reconstruction.layer != ""
    if inner and fed is None:
        raise ValueError(f"`fed` should be given to score inputs of `{reconstruction.layer}`; found None.")
    truth = batch.inputs if not inner or fed is None else fed(reconstruction.layer)
    originals = truth.detach().double().cpu()
    rows = reconstruction.inputs.detach().double().cpu()
    if not inner:
        originals, rows = dataset.normalization.invert(originals), dataset.normalization.invert(rows)
    places = match(rows, originals)
    matched = places >= 0
    ordered = torch.zeros_like(originals)
    ordered[matched] = rows[places[matched]]
    certified = reconstruction.certified.cpu()
    scored = Scored(
        certified=[bool(place >= 0 and certified[place]) for place in places.tolist()],
        true_labels=batch.labels.cpu().tolist(),
    )
    if inner or dataset.kind is InputKind.OTHER:
        exact, near = _score_numbers(scored, ordered, originals, matched)
    elif dataset.kind is InputKind.IMAGE:
        exact, near = _score_pictures(scored, dataset, ordered, originals, matched)
    else:
        scored.scores["psnr"] = _decibels(psnr(ordered, originals), matched)
        exact, near = _score_table(scored, dataset, ordered, originals, matched)
    scored.scores["recognisable"] = [bool(value) for value in ((exact | near) & matched).tolist()]
    scored.scores["exact"] = [bool(value) for value in (exact & matched).tolist()]
    beyond = certified.scatter(0, places[matched].cpu(), False)
    if bool(beyond.any()):
        scored.scores["certified_beyond"] = float(_unlike_any(rows[beyond], originals))
    return scored


def _unlike_any(rows: Tensor, originals: Tensor) -> int:
    """How many of ``rows [k, *shape]`` are none of ``originals [b, *shape]``; a copy of one is no wrong example."""
    spread = float(originals.max() - originals.min()) or 1.0
    same = [exact_numbers(row.expand_as(originals), originals, data_range=spread, least_psnr=_COPY) for row in rows]
    return sum(not bool(one.any()) for one in same)


def _score_numbers(scored: Scored, ordered: Tensor, originals: Tensor, matched: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs of an inner layer, or of an unknown kind and scale: which are exact, and which are near."""
    spread = float(originals.max() - originals.min()) or 1.0
    scored.scores["psnr"] = _decibels(psnr(ordered, originals, data_range=spread), matched)
    near = recognisable_numbers(ordered, originals, data_range=spread)
    if originals.ndim == 4 and originals.shape[1] in (1, 3):
        near |= recognisable_images(ordered / spread, originals / spread)
    return exact_numbers(ordered, originals, data_range=spread), near


def _score_pictures(
    scored: Scored, dataset: Dataset, ordered: Tensor, originals: Tensor, matched: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw images: which are exact, and which are recognisable."""
    scored.scores["psnr"] = _decibels(psnr(ordered, originals), matched)
    likeness = ssim(ordered, originals)
    if likeness is not None:
        scored.scores["ssim"] = _where(likeness, matched)
    scored.pictures = {
        "originals": originals.float().contiguous(),
        "reconstructions": ordered.float().contiguous(),
        "matched": matched.to(torch.uint8),
    }
    near = recognisable_pictures(ordered, originals, others=_sample(dataset.inputs))
    return exact_images(ordered, originals), near


def _sample(inputs: Tensor) -> Tensor:
    """``[n, *shape]``: up to 1,000 examples, evenly spaced, so that every class of a sorted data set is among them."""
    return inputs[torch.linspace(0, len(inputs) - 1, min(_OTHERS, len(inputs)), dtype=torch.float64).round().long()]


def _score_labels(reconstruction: Reconstruction, batch: PrivateBatch, classes: int) -> Scored:
    """Labels that came without inputs belong to the batch, not to one example: numbers, and no match."""
    if reconstruction.labels is None:
        return Scored()
    truth, labels = batch.labels.cpu(), reconstruction.labels.cpu()
    sure = labels[reconstruction.certified.cpu()]
    return Scored(
        certified=certified_examples(sure, truth),
        scores={**label_numbers(labels, sure, truth, classes)},
        true_labels=truth.tolist(),
    )


def _score_table(
    scored: Scored, dataset: Dataset, ordered: Tensor, originals: Tensor, matched: Tensor
) -> tuple[Tensor, Tensor]:
    """Cells as text, and errors by column in the table's own units: which rows are right in every cell, and nearly."""
    table = dataset.table
    if table is None:
        raise ValueError("`table` should be the encoding of a table; found None.")
    truth, found = table.decode(originals), table.decode(ordered)
    right = torch.ones(len(originals), dtype=torch.bool)
    for column in table.columns:
        cells = [row[column.name] if ok else None for row, ok in zip(found, matched.tolist(), strict=True)]
        wanted: list[str | None] = [row[column.name] for row in truth]
        scored.columns[column.name] = cells
        scored.columns[f"{column.name} (original)"] = wanted
        same = [cell == want for cell, want in zip(cells, wanted, strict=True)]
        right &= torch.tensor(same)
        if column.categories:
            scored.scores[f"right:{column.name}"] = list[Score](same)
        else:
            scored.scores[f"error:{column.name}"] = [
                None if cell is None or want is None else abs(float(cell) - float(want))
                for cell, want in zip(cells, wanted, strict=True)
            ]
    return right, recognisable_rows(table, found, truth, _sample(dataset.inputs))


def _decibels(values: Tensor, matched: Tensor) -> list[Score]:
    return _where(values.clamp_max(PSNR_CAP), matched)


def _where(values: Tensor, matched: Tensor) -> list[Score]:
    pairs = zip(values.tolist(), matched.tolist(), strict=True)
    return [float(value) if ok and math.isfinite(value) else None for value, ok in pairs]
