"""The private batch on disk, in a file of its own: the attacking process never opens one."""

import json
from pathlib import Path

import torch

from seepage.errors import InputError
from seepage.federated.sealed import no_duplicates, read_sealed, write_sealed
from seepage.types import PrivateBatch

__all__ = ["read_truth", "write_truth"]

_FORM = "seepage-truth"


def write_truth(path: Path | str, batch: PrivateBatch, *, normalize: str = "none") -> None:
    """Write the client's examples for a later ``seepage score``. Keep the file with the data, never with the bundle.

    Args:
        path: where to.
        batch: as the network saw it.
        normalize: ``none``, or ``M1,..:S1,..`` with which raw inputs in [0, 1] were scaled.

    Raises:
        InputError: the file cannot be written.
    """
    header = json.dumps({"schema_version": 1, "normalize": normalize})
    write_sealed(path, form=_FORM, header=header, tensors={"inputs": batch.inputs, "labels": batch.labels})


def read_truth(path: Path | str) -> tuple[PrivateBatch, str]:
    """The batch, and how its inputs were scaled.

    Raises:
        InputError: naming the file, what was expected and what was found.
    """
    text, tensors = read_sealed(path, form=_FORM)
    try:
        header = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} should have a header in JSON; found {str(error)[:200]}.") from error
    if (
        not isinstance(header, dict)
        or set(header) != {"schema_version", "normalize"}
        or header["schema_version"] != 1
        or not isinstance(header["normalize"], str)
    ):
        raise InputError(f"{path} should be a truth file of schema 1; found the header {text[:80]}.")
    if set(tensors) != {"inputs", "labels"}:
        raise InputError(f"{path} should hold `inputs` and `labels`; found {', '.join(sorted(tensors))[:80]}.")
    if tensors["labels"].dtype != torch.int64:
        raise InputError(f"{path} should hold int64 `labels`; found {tensors['labels'].dtype}.")
    try:
        return PrivateBatch(inputs=tensors["inputs"], labels=tensors["labels"]), header["normalize"]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
