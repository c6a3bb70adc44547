"""Images that come with scikit-learn: no download, for the demo and the tests."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from seepage.data.loaded import LoadedImages, to_unit_images

__all__ = ["read_digits", "read_photos"]

_CROP = 64


def read_digits() -> LoadedImages:
    """1797 handwritten digits, ``[1797, 1, 8, 8]``: 17 shades of grey as 8 bits, 10 classes (UCI, via scikit-learn)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.ascontiguousarray(np.rint(bunch.images * (255 / 16)), dtype=np.uint8)
    labels = np.ascontiguousarray(bunch.target, dtype=np.int64)
    return LoadedImages(
        inputs=to_unit_images(images, where="digits"),
        labels=torch.from_numpy(labels),
        class_names=tuple(map(str, range(10))),
        sha256=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
    )


def read_photos() -> LoadedImages:
    """Two photographs cut into 120 crops, ``[120, 3, 64, 64]``; the label says which photograph a crop is from.

    Crops lie side by side from the upper left corner; the rows and columns left over at the other edges are not used.
    None is dropped: some show plain sky or blurred leaves, and are nearly constant.
    """
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    crops, labels = [], []
    for label, photo in enumerate(bunch.images):
        rows, columns = photo.shape[0] // _CROP, photo.shape[1] // _CROP
        grid = photo[: rows * _CROP, : columns * _CROP].reshape(rows, _CROP, columns, _CROP, 3).swapaxes(1, 2)
        crops.append(grid.reshape(-1, _CROP, _CROP, 3))
        labels += [label] * (rows * columns)
    images = np.concatenate(crops)
    return LoadedImages(
        inputs=to_unit_images(images, where="photos"),
        labels=torch.tensor(labels),
        class_names=tuple(Path(name).stem for name in bunch.filenames),
        sha256=hashlib.sha256(images.tobytes()).hexdigest(),
    )
