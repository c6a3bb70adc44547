"""Images in a folder: sub-folders are classes, or `labels.csv` tells them."""

import csv
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from seepage.data.loaded import (
    BYTES_LIMIT,
    CLASSES_LIMIT,
    LoadedImages,
    checked_labels,
    digest_files,
    to_unit_images,
)
from seepage.errors import InputError

__all__ = ["read_folder"]

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})  # 8 bits a channel or less

_BROKEN = (  # what Pillow's decoders raise on damaged files, one way or another
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def read_folder(folder: Path, *, size: int | None = None) -> LoadedImages:
    """The images of a folder, in the order of ``labels.csv`` or of their sorted paths.

    Labels come from ``labels.csv`` in the folder or beside it, with the columns ``file`` and ``class_index``
    (perhaps ``class_name`` too) or ``label`` (any text; the classes are the sorted texts); without such columns, each
    sub-folder is a class. A folder that holds ``labels.csv`` and a folder ``images`` means the latter. Files that are
    no images by their suffix are passed over; EXIF rotation is not applied; grey stays grey if all images are.

    Args:
        folder: the folder.
        size: crop the central square and resize it (bicubic) to ``size`` pixels a side.

    Raises:
        InputError: no labels, no images, a broken image, images of different sizes without ``size``.
    """
    if (folder / "labels.csv").is_file() and (folder / "images").is_dir():
        folder = folder / "images"
    table = next((path for path in (folder / "labels.csv", folder.parent / "labels.csv") if path.is_file()), None)
    listed = None if table is None else _read_label_file(table, folder)
    if listed is None:
        paths, labels, names = _by_subfolder(folder)
        files = paths
    else:
        paths, labels, names = listed
        files = [*paths, *([table] if table else [])]
    inputs = to_unit_images(_read_images(paths, size), where=str(folder))
    checked = checked_labels(np.asarray(labels), count=len(inputs), classes=None, where=str(folder))
    return LoadedImages(
        inputs=inputs, labels=checked, class_names=names, sha256=digest_files(files, root=folder.parent)
    )


def _by_subfolder(folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    classes = {
        child.name: sorted(path for path in child.iterdir() if path.is_file() and path.suffix.lower() in _SUFFIXES)
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    classes = {name: paths for name, paths in classes.items() if paths}
    if not classes:
        flat = sum(path.suffix.lower() in _SUFFIXES for path in folder.iterdir())
        raise InputError(
            f"{folder}: expected a sub-folder of images for each class, or labels.csv with the columns file and label "
            f"or class_index; found {flat} images without labels."
        )
    paths = [path for images in classes.values() for path in images]
    labels = [index for index, images in enumerate(classes.values()) for _ in images]
    return paths, labels, tuple(classes)


def _read_label_file(table: Path, folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]] | None:
    """Paths, labels and class names that ``labels.csv`` lists; ``None`` if it has no column of labels."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{table}: expected a CSV table in UTF-8; found one that cannot be read ({error}).") from error
    column = next((name for name in ("class_index", "label") if rows and name in rows[0]), None)
    if column is None or "file" not in rows[0]:
        return None
    texts = [(row[column] or "").strip() for row in rows]
    paths = [folder / (row["file"] or "").strip() for row in rows]
    for path in paths:
        if not path.is_file() or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
            raise InputError(
                f"{table}: expected every `file` to lie in {folder}; found no {path.name or 'name'} there."
            )
    if column == "label" and not all(text.isdecimal() for text in texts):
        names = tuple(sorted(set(texts)))
        return paths, [names.index(text) for text in texts], names
    for text in texts:
        if not text.isdecimal() or int(text) >= CLASSES_LIMIT:
            raise InputError(f"{table}: `{column}` should be 0 to {CLASSES_LIMIT - 1}; found `{text}`.")
    labels = [int(text) for text in texts]
    by_label = {label: row.get("class_name") or str(label) for label, row in zip(labels, rows, strict=True)}
    return paths, labels, tuple(by_label.get(label, str(label)) for label in range(max(labels) + 1))


def _open_image(path: Path, size: int | None) -> NDArray[np.uint8]:
    """``[h, w]`` if the image is grey, else ``[h, w, 3]``; transparency is dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF and the like: the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode = image.mode
                if mode in _MODES:
                    opaque = image.convert("RGBA") if mode in {"P", "PA"} else image
                    picture = opaque.convert("L" if mode in {"1", "L", "LA"} else "RGB")
    except _BROKEN as error:
        found = "another file" if isinstance(error, UnidentifiedImageError) else f"a broken one ({error})"
        raise InputError(f"{path}: expected an image; found {found}.") from error
    if mode not in _MODES:
        raise InputError(f"{path}: expected an image of 8 bits a channel; found mode {mode}.")
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _read_images(paths: list[Path], size: int | None) -> NDArray[Any]:
    """``[N, h, w]`` if all are grey, else ``[N, h, w, 3]``."""
    images: list[NDArray[np.uint8]] = []
    held = 0
    for path in paths:
        image = _open_image(path, size)
        if images and image.shape[:2] != images[0].shape[:2]:
            raise InputError(
                f"{path}: expected the size of the first image, {list(images[0].shape[:2])}; "
                f"found {list(image.shape[:2])}: give `size` to resize all."
            )
        held += image.size * 4
        if held > BYTES_LIMIT:
            raise InputError(f"{path}: expected images of at most {BYTES_LIMIT} bytes as float32; found more.")
        images.append(image)
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
    return np.stack(images)
