"""Images in array files: NumPy `.npz` and the IDX files of MNIST."""

import gzip
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seepage.data.loaded import BYTES_LIMIT, LoadedImages, checked_labels, digest_files, to_unit_images
from seepage.errors import InputError

__all__ = ["is_idx", "read_idx", "read_npz"]

_CHUNK = 2**20


def read_npz(path: Path) -> LoadedImages:
    """Images from an ``.npz`` file; nothing in it is ever unpickled.

    The file holds ``images`` (uint8, or floats in [0, 1]; ``[N, H, W]`` or ``[N, H, W, C]``), ``labels`` (integers
    ``[N]``) and perhaps ``class_names``: one text for each class, or, as some sets have it, one for each image.

    Raises:
        InputError: not a readable zip of arrays, an array missing, pickled, truncated, too large or out of range.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name in ("images", "labels"):
                if name not in members:
                    raise InputError(f"{path}: expected arrays `images` and `labels`; found {sorted(members)}.")
            wanted = [name for name in ("images", "labels", "class_names") if name in members]
            arrays = {name: _read_member(archive, members[name], where=f"{path}: `{name}`") for name in wanted}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        MemoryError,
        OSError,
    ) as error:
        raise InputError(f"{path}: expected a complete .npz file; found one that cannot be read ({error}).") from error
    inputs = to_unit_images(arrays["images"], where=str(path))
    labels, names = arrays["labels"], arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise InputError(f"{path}: `class_names` should be a list of texts; found {names.dtype} {list(names.shape)}.")
    if names is not None and len(names) == len(inputs) and _names_images(names, labels):
        by_label = dict(zip(labels.tolist(), names.tolist(), strict=True))
        checked = checked_labels(labels, count=len(inputs), classes=None, where=str(path))
        class_names = tuple(str(by_label.get(k, k)) for k in range(int(checked.max()) + 1))
    else:
        classes = None if names is None else len(names)
        checked = checked_labels(labels, count=len(inputs), classes=classes, where=str(path))
        class_names = tuple(map(str, range(int(checked.max()) + 1) if names is None else names.tolist()))
    return LoadedImages(inputs=inputs, labels=checked, class_names=class_names, sha256=digest_files([path]))


def _names_images(names: NDArray[Any], labels: NDArray[Any]) -> bool:
    """Whether ``names`` has a text for each image, and the same for images of one class, and is no list of classes."""
    if labels.shape != names.shape or labels.dtype.kind not in "iu" or int(labels.max()) < len(names):
        return False
    pairs = set(zip(labels.tolist(), names.tolist(), strict=True))
    return len(pairs) == len(set(labels.tolist()))


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, where: str) -> NDArray[Any]:
    """One array, after its header has been found to agree with its size: nothing large is allocated on its word."""
    if info.file_size > BYTES_LIMIT:
        raise InputError(f"{where} should unpack to at most {BYTES_LIMIT} bytes; found {info.file_size}.")
    with archive.open(info) as file:
        try:
            shape, dtype, begins = _read_header(file)
        except (ValueError, SyntaxError, TypeError) as error:
            raise InputError(f"{where} should be a NumPy array; found a header that cannot be read.") from error
    if dtype.hasobject:
        raise InputError(f"{where} should be plain numbers or texts; found pickled objects, which are never loaded.")
    expected = begins + math.prod(shape) * dtype.itemsize
    if expected != info.file_size:
        raise InputError(f"{where} should take {expected} bytes by its header; found {info.file_size}.")
    with archive.open(info) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version}")
    shape, _, dtype = readers[version](file)
    return shape, dtype, file.tell()


def is_idx(path: Path) -> bool:
    """Whether the name is that of an IDX file, for example ``train-images-idx3-ubyte.gz``."""
    return path.name.removesuffix(".gz").endswith(("idx3-ubyte", "idx1-ubyte"))


def read_idx(path: Path) -> LoadedImages:
    """Images ``*-images-idx3-ubyte[.gz]``, with the labels ``*-labels-idx1-ubyte[.gz]`` found beside them.

    Raises:
        InputError: the labels are missing, a file is not IDX, truncated, too long or too large.
    """
    if "images" not in path.name or "idx3" not in path.name:
        raise InputError(f"{path}: expected the file of images, *-images-idx3-ubyte[.gz]; found another name.")
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    beside = [path.with_name(stem + suffix) for suffix in (".gz", "")]
    labels_path = next((candidate for candidate in beside if candidate.is_file()), None)
    if labels_path is None:
        raise InputError(f"{path}: expected the labels beside it as {stem}[.gz]; found no such file.")
    inputs = to_unit_images(_read_idx_array(path, dimensions=3), where=str(path))
    raw = _read_idx_array(labels_path, dimensions=1)
    labels = checked_labels(raw, count=len(inputs), classes=None, where=str(labels_path))
    names = tuple(map(str, range(int(labels.max()) + 1)))
    digest = digest_files([path, labels_path])
    return LoadedImages(inputs=inputs, labels=labels, class_names=names, sha256=digest)


def _read_idx_array(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """The bytes after the header, never more than it announces and one: a bomb is not unpacked."""
    length = 4 + 4 * dimensions
    with _open(path) as file:
        header = _read_at_most(file, length, path)
        if len(header) < length or header[:4] != bytes((0, 0, 8, dimensions)):
            raise InputError(
                f"{path}: expected an IDX header of bytes with {dimensions} dimensions; found {header[:4].hex(' ')}."
            )
        shape = struct.unpack(f">{dimensions}I", header[4:])
        expected = math.prod(shape)
        if expected > BYTES_LIMIT:
            raise InputError(f"{path}: expected at most {BYTES_LIMIT} bytes; found {expected} announced.")
        body = _read_at_most(file, expected + 1, path)
    if len(body) != expected:
        found = f"only {len(body)}" if len(body) < expected else "more"
        raise InputError(f"{path}: expected {expected} bytes after the header {list(shape)}; found {found}.")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _read_at_most(file: io.BufferedIOBase, count: int, path: Path) -> bytes:
    """Up to ``count`` bytes; fewer where the file ends, also in the middle of its compressed stream."""
    chunks, missing = [], count
    try:
        while missing and (chunk := file.read1(min(missing, _CHUNK))):
            chunks.append(chunk)
            missing -= len(chunk)
    except EOFError:
        pass  # the caller compares the count with what the header announces
    except (OSError, zlib.error) as error:
        raise InputError(f"{path}: expected a readable file; found damage ({error}).") from error
    return b"".join(chunks)
