"""The pictures of one batch, from a file whose name and content are not trusted."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

__all__ = ["Pictures", "read_pictures"]

_SIDE = 2048  # pixels a side; larger pictures are not opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The first ``k`` examples of a batch of ``total``, in the batch's order.

    Args:
        originals: ``[k, c, h, w]`` in [0, 1], 1 or 3 channels.
        reconstructions: ``[k, c, h, w]``, matched to the originals.
        matched: ``[k]`` bool; false where nothing was matched with the original.
        labels: ``[k]`` class indices of the originals, ``None`` where they were not recorded.
    """

    originals: Tensor
    reconstructions: Tensor
    matched: Tensor
    labels: Tensor | None


def read_pictures(run: Path, artifact: str | None, *, most: int) -> Pictures | str:
    """Read at most ``most`` examples, or say in one sentence why there is nothing to show.

    Args:
        run: the run's folder; the artifact has to stay inside it.
        artifact: as the finding names it.
        most: examples to read; the rest of the file is not touched.
    """
    if artifact is None:
        return "No pictures were recorded for this batch."
    try:
        path = (run / artifact).resolve()
        inside = path.is_relative_to(run.resolve()) and path.suffix == ".safetensors"
        present = inside and path.is_file()
    except (OSError, ValueError):
        inside = present = False
    if not inside:
        return "The pictures are named outside this run's folder and were not opened."
    if not present:
        return f"The pictures are missing: {artifact} is not in this run's folder."
    try:
        return _read(path, most)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        return f"The pictures in {artifact} could not be read: {error}."


def _read(path: Path, most: int) -> Pictures | str:
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        if not {"originals", "reconstructions", "matched"} <= names:
            return "The pictures have an unexpected form and are not shown."
        shape = list(file.get_slice("originals").get_shape())
        same = shape == list(file.get_slice("reconstructions").get_shape())
        if not same or shape[:1] != list(file.get_slice("matched").get_shape()):
            return "The pictures have an unexpected form and are not shown."
        if len(shape) != 4 or shape[1] not in (1, 3) or not 0 < min(shape[2:]) <= max(shape[2:]) <= _SIDE:
            return f"The reconstructed inputs have the shape {shape[1:]}, which is no picture, and are not drawn."
        labels = file.get_slice("labels")[:most] if "labels" in names else None
        return Pictures(
            originals=file.get_slice("originals")[:most].to(torch.float32),
            reconstructions=file.get_slice("reconstructions")[:most].to(torch.float32),
            matched=file.get_slice("matched")[:most].bool(),
            labels=labels if labels is not None and labels.shape == (min(most, shape[0]),) else None,
        )
