"""What the readers of images hand to the data set, and the checks that all of them share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seepage.errors import InputError

__all__ = ["BYTES_LIMIT", "CLASSES_LIMIT", "LoadedImages", "checked_labels", "digest_files", "to_unit_images"]

BYTES_LIMIT = 8 * 2**30  # more than this in memory is a mistake or a bomb, not a test set for an audit
CLASSES_LIMIT = 100_000  # four times ImageNet-21k: a larger label is not a class index


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedImages:
    """Images as read: ``inputs [N, c, h, w]`` float32 in [0, 1], ``labels [N]`` int64, names, digest."""

    inputs: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    sha256: str


def to_unit_images(images: NDArray[Any], *, where: str) -> Tensor:
    """``[N, c, h, w]`` float32 in [0, 1] from ``[N, h, w]`` or ``[N, h, w, c]``, uint8 or floats in [0, 1].

    Raises:
        InputError: another shape or type, no images, NaN or infinity, values outside [0, 1], more than 8 GiB.
    """
    if images.ndim not in {3, 4} or (images.ndim == 4 and images.shape[-1] not in {1, 3}):
        raise InputError(
            f"{where}: `images` should have the shape [N, H, W] or [N, H, W, C] with C = 1 or 3; "
            f"found {list(images.shape)}."
        )
    if images.size == 0:
        raise InputError(f"{where}: `images` should hold at least one image; found shape {list(images.shape)}.")
    if images.size * 4 > BYTES_LIMIT:
        raise InputError(
            f"{where}: the images should take at most {BYTES_LIMIT} bytes as float32; found {images.size * 4}: "
            "use fewer or smaller images."
        )
    if images.dtype == np.uint8:
        values = torch.from_numpy(images.copy()).float().div_(255)
    elif images.dtype.kind == "f":
        low, high = float(images.min()), float(images.max())
        if not np.isfinite(low) or not np.isfinite(high):
            first = int(np.argwhere(~np.isfinite(images))[0, 0])
            raise InputError(f"{where}: `images` should be finite; found NaN or infinity in image {first}.")
        if low < 0 or high > 1:
            raise InputError(f"{where}: `images` of floats should lie in [0, 1]; found {low:g} to {high:g}.")
        values = torch.from_numpy(images.astype(np.float32))
    else:
        raise InputError(f"{where}: `images` should be uint8 or floats in [0, 1]; found {images.dtype}.")
    return values.unsqueeze(1) if values.ndim == 3 else values.permute(0, 3, 1, 2).contiguous()


def checked_labels(labels: NDArray[Any], *, count: int, classes: int | None, where: str) -> Tensor:
    """``[count]`` int64 class indices in [0, ``classes``).

    Raises:
        InputError: another shape or count, not integers, or a label outside the range.
    """
    if labels.ndim != 1 or len(labels) != count:
        raise InputError(
            f"{where}: `labels` should hold one label for each of {count} images; found shape {list(labels.shape)}."
        )
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: `labels` should be integers; found {labels.dtype}.")
    limit = CLASSES_LIMIT if classes is None else classes
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if len(wrong):
        raise InputError(
            f"{where}: `labels` should lie in 0 to {limit - 1}; found {labels[wrong[0]]} at row {wrong[0]}."
        )
    return torch.from_numpy(labels.astype(np.int64))


def digest_files(paths: Sequence[Path], *, root: Path | None = None) -> str:
    """The SHA-256 of one file; of several, that of the lines ``digest  name`` in the given order.

    Args:
        paths: the files.
        root: names are relative to this folder; without it, the last part of the path.
    """
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(paths) == 1 and root is None:
        return digests[0]
    names = [path.relative_to(root).as_posix() if root else path.name for path in paths]
    lines = "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
