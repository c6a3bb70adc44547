"""One name in, one data set out: files, folders and what comes with scikit-learn."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from seepage.data.arrays import is_idx, read_idx, read_npz
from seepage.data.bundled import read_digits, read_photos
from seepage.data.delimited import read_table
from seepage.data.folders import read_folder
from seepage.data.loaded import BYTES_LIMIT, LoadedImages
from seepage.data.normalization import Normalization, make_normalization
from seepage.data.tabular import TableEncoding
from seepage.errors import InputError, readable
from seepage.types import PrivateBatch

__all__ = ["BUNDLED", "Dataset", "InputKind", "Normalization", "draw_batch", "load_dataset"]

BUNDLED = ("digits", "photos")
_SIZE_LIMIT = 4096
_TABLES = (".csv", ".tsv", ".data", ".test")


class InputKind(StrEnum):
    """What one input is, and so how it is shown and scored."""

    IMAGE = "image"
    TABLE = "table"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Examples with their labels, and the map from raw values to what a network sees.

    Args:
        name: the path, or ``digits`` or ``photos``.
        kind: images or rows of a table.
        inputs: ``[N, *shape]`` float32, not normalised: images in [0, 1], tables as encoded.
        labels: ``[N]`` int64 class indices.
        class_names: one for each class.
        normalization: raw to network values.
        table: decodes rows; ``None`` for images.
        sha256: of the file; of several files, of their digests; of the arrays for bundled data.
    """

    name: str
    kind: InputKind
    inputs: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    normalization: Normalization
    table: TableEncoding | None
    sha256: str

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.float32 or self.inputs.ndim < 2 or len(self.inputs) == 0:
            raise InputError(
                f"{self.name}: `inputs` should be float32 [N, *shape] with N >= 1; "
                f"found {self.inputs.dtype} {list(self.inputs.shape)}."
            )
        if not bool(self.inputs.isfinite().all()):
            raise InputError(f"{self.name}: `inputs` should be finite; found NaN or infinity.")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise InputError(
                f"{self.name}: `labels` should be int64 [{len(self.inputs)}]; "
                f"found {self.labels.dtype} {list(self.labels.shape)}."
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.classes:
            raise InputError(f"{self.name}: `labels` should lie in 0 to {self.classes - 1}; found {low} to {high}.")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: ``(c, h, w)`` or ``(features,)``."""
        return tuple(self.inputs.shape[1:])

    @property
    def classes(self) -> int:
        """How many classes there are, those without an example included."""
        return len(self.class_names)

    def batch(self, indices: Tensor) -> PrivateBatch:
        """The examples at ``indices [b]`` (integers in [0, N)), as the network sees them.

        Raises:
            InputError: no index, or one that is no integer in [0, N).
        """
        whole = not indices.is_floating_point() and indices.dtype != torch.bool and indices.ndim == 1
        if not whole or len(indices) == 0 or int(indices.min()) < 0 or int(indices.max()) >= len(self):
            raise InputError(f"`indices` should be integers [b] in 0 to {len(self) - 1}; found {indices}.")
        chosen = indices.to(self.inputs.device, torch.int64)
        return PrivateBatch(inputs=self.normalization.apply(self.inputs[chosen]), labels=self.labels[chosen])


def load_dataset(
    source: str, *, normalize: str = "channel", target: str | None = None, size: int | None = None
) -> Dataset:
    """Reads a data set.

    Args:
        source: ``digits``, ``photos``, or a path: ``.npz``, ``*-images-idx3-ubyte[.gz]``, a folder of images, or a
            table (``.csv``, ``.tsv``, ``.data``, ``.test``).
        normalize: ``channel``, ``none`` or ``M1,M2,M3:S1,S2,S3``.
        target: tables only: the column of labels, the last one by default.
        size: images only: crop the central square and resize it (bicubic) to this many pixels a side.

    Raises:
        InputError: what is wrong with which file, in one sentence.
    """
    if size is not None and not 1 <= size <= _SIZE_LIMIT:
        raise InputError(f"`size` should lie in 1 to {_SIZE_LIMIT}; found {size}.")
    path = Path(source)
    table = source not in BUNDLED and path.suffix.lower() in _TABLES and not path.is_dir()
    if source not in BUNDLED and not path.exists():
        raise InputError(f"{source}: expected a file, a folder, {' or '.join(BUNDLED)}; found nothing of this name.")
    if table and size is not None:
        raise InputError(f"{source}: `size` is for images; found a table.")
    if not table and target is not None:
        raise InputError(f"{source}: `target` is for tables; found images.")
    try:
        if table:
            return _table(source, path, normalize=normalize, target=target)
        return _images(source, _read_images(source, path, size), normalize=normalize, size=size)
    except OSError as error:
        raise InputError(f"{source}: expected a readable file; found {error.strerror or error}.") from error


def draw_batch(dataset: Dataset, *, batch_size: int, generator: torch.Generator) -> tuple[PrivateBatch, Tensor]:
    """A batch drawn without replacement, and the indices ``[batch_size]`` of its examples.

    Raises:
        InputError: ``batch_size`` is not between 1 and the number of examples.
    """
    if not 1 <= batch_size <= len(dataset):
        raise InputError(f"`batch_size` should lie in 1 to {len(dataset)} for {dataset.name}; found {batch_size}.")
    indices = torch.randperm(len(dataset), generator=generator, device=generator.device)[:batch_size].cpu()
    return dataset.batch(indices), indices


def _read_images(source: str, path: Path, size: int | None) -> LoadedImages:
    if source == "digits":
        return read_digits()
    if source == "photos":
        return read_photos()
    if path.is_dir():
        return read_folder(path, size=size)
    if is_idx(path):
        return read_idx(path)
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    raise InputError(
        f"{source}: expected .npz, *-images-idx3-ubyte[.gz], a folder of images or a table ({', '.join(_TABLES)}); "
        f"found `{path.suffix or path.name}`."
    )


def _images(source: str, loaded: LoadedImages, *, normalize: str, size: int | None) -> Dataset:
    inputs = loaded.inputs if size is None else _resize(loaded.inputs, size)
    return Dataset(
        name=readable(source),
        kind=InputKind.IMAGE,
        inputs=inputs,
        labels=loaded.labels,
        class_names=tuple(map(readable, loaded.class_names)),
        normalization=make_normalization(normalize, inputs),
        table=None,
        sha256=loaded.sha256,
    )


def _table(source: str, path: Path, *, normalize: str, target: str | None) -> Dataset:
    loaded = read_table(path, target=target)
    return Dataset(
        name=readable(source),
        kind=InputKind.TABLE,
        inputs=loaded.inputs,
        labels=loaded.labels,
        class_names=tuple(map(readable, loaded.class_names)),
        normalization=make_normalization(normalize, loaded.inputs),
        table=loaded.encoding,
        sha256=loaded.sha256,
    )


def _resize(inputs: Tensor, size: int) -> Tensor:
    """``[N, c, size, size]``: the central square, resized (bicubic, antialiased) and rounded to 8 bits."""
    count, channels, height, width = inputs.shape
    if height == width == size:  # as a folder comes
        return inputs
    if count * channels * size * size * 4 > BYTES_LIMIT:
        raise InputError(f"`size` should keep the images within {BYTES_LIMIT} bytes; found {size} for {count} images.")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = inputs[:, :, top : top + side, left : left + side]
    values = torch.nn.functional.interpolate(square, [size, size], mode="bicubic", antialias=True, align_corners=False)
    return values.clamp(0, 1).mul(255).round().div(255)
