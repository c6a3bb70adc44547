"""What an attack returned, on disk; and its score, the one place where such a file meets the truth."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from seepage.audit.scores.scoring import Scored, score
from seepage.data.normalization import make_normalization
from seepage.data.sources import Dataset, InputKind
from seepage.errors import InputError
from seepage.federated.sealed import read_sealed, write_sealed
from seepage.types import Outcome, PrivateBatch, Reconstruction

__all__ = ["read_reconstruction", "score_against_truth", "write_reconstruction"]

_FORM = "seepage-reconstruction"


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    outcome: Outcome
    layer: str = ""
    reason: str = ""


def write_reconstruction(path: Path, found: Reconstruction) -> None:
    """Write inputs, labels and certificates. Rows that are not finite are no reconstruction and are left out.

    Raises:
        InputError: there is nothing to write, or the file cannot be written.
    """
    if found.inputs is None:
        raise InputError(f"A reconstruction should hold inputs to be written to {path}; found none.")
    keep = found.inputs.flatten(1).isfinite().all(dim=1)
    tensors = {"inputs": found.inputs[keep], "certified": found.certified[keep].to(torch.uint8)}
    if found.labels is not None:
        tensors["labels"] = found.labels[keep]
    header = _Header(outcome=found.outcome, layer=found.layer, reason=found.reason)
    write_sealed(path, form=_FORM, header=header.model_dump_json(), tensors=tensors)


def read_reconstruction(path: Path) -> Reconstruction:
    """Read what :func:`write_reconstruction` wrote.

    Raises:
        InputError: naming the file, what was expected and what was found.
    """
    text, tensors = read_sealed(path, form=_FORM)
    try:
        header = _Header.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path} should have the header of a reconstruction; found {str(error)[:200]}.") from error
    inputs, certified = tensors.get("inputs"), tensors.get("certified")
    if inputs is None or certified is None or not set(tensors) <= {"inputs", "certified", "labels"}:
        raise InputError(f"{path} should hold `inputs` and `certified`; found {', '.join(sorted(tensors))[:80]}.")
    if not inputs.is_floating_point() or inputs.ndim < 2 or certified.shape != inputs.shape[:1]:
        raise InputError(f"{path} should hold `inputs` [k, *shape] and `certified` [k]; found {list(inputs.shape)}.")
    labels = tensors.get("labels")
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != certified.shape):
        raise InputError(f"{path} should hold int64 `labels` [{len(certified)}]; found {list(labels.shape)}.")
    try:
        return Reconstruction(
            outcome=header.outcome,
            inputs=inputs,
            labels=labels,
            certified=certified.bool(),
            layer=header.layer,
            reason=header.reason,
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def score_against_truth(
    found: Reconstruction, batch: PrivateBatch, *, normalize: str, dataset: Dataset | None = None
) -> Scored:
    """Match and score, in raw units; lists are in the order of the private batch.

    Args:
        found: as read.
        batch: the truth.
        normalize: how raw inputs were scaled: ``none`` or ``M1,..:S1,..``.
        dataset: what the batch is from: then pictures are told from its others, and rows of a table cell by cell, as in
            an audit. Without it pictures are recognisable by their likeness alone, and rows of a table are numbers.

    Raises:
        InputError: the two do not fit each other.
    """
    if found.layer:
        raise InputError(
            f"The reconstruction should be of the network's own inputs to be scored; found inputs of `{found.layer}`."
        )
    if found.inputs is None or found.inputs.shape[1:] != batch.inputs.shape[1:]:
        shape = None if found.inputs is None else list(found.inputs.shape[1:])
        raise InputError(f"Reconstructed inputs should have shape {list(batch.inputs.shape[1:])}; found {shape}.")
    if normalize == "channel":
        raise InputError("`normalize` should be none or M1,..:S1,..; found channel, which needs the whole data set.")
    if dataset is None:
        return score(found, batch, _as_dataset(batch, normalize), None)
    if dataset.input_shape != batch.inputs.shape[1:]:
        shape = list(batch.inputs.shape[1:])
        raise InputError(f"The data should hold inputs of shape {shape}; found {list(dataset.input_shape)}.")
    return score(found, batch, replace(dataset, normalization=make_normalization(normalize, dataset.inputs)), None)


def _as_dataset(batch: PrivateBatch, normalize: str) -> Dataset:
    normalization = make_normalization(normalize, batch.inputs)
    raw = normalization.invert(batch.inputs).float()
    return Dataset(
        name="truth",
        kind=InputKind.IMAGE if _is_image(raw) else InputKind.OTHER,
        inputs=raw,
        labels=batch.labels,
        class_names=tuple(str(label) for label in range(int(batch.labels.max()) + 1)),
        normalization=normalization,
        table=None,
        sha256="",
    )


def _is_image(raw: Tensor) -> bool:
    in_range = float(raw.min()) >= -1e-3 and float(raw.max()) <= 1 + 1e-3
    return raw.ndim == 4 and raw.shape[1] in (1, 3) and in_range
