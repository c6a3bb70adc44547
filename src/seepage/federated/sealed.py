"""Safetensors files that say what they are and are read as if an enemy had written them: no pickle, no surprise."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from seepage.errors import InputError

__all__ = ["MOST_BYTES", "no_duplicates", "read_sealed", "write_sealed"]

MOST_BYTES = 4 * 2**30  # of one file; a larger one is refused unread
_MOST_HEADER = 8 * 2**20
_MOST_TENSORS = 20_000
_MOST_DIMENSIONS = 8
_LONGEST_NAME = 500
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FORMS = ("form", "header", "seal")


def write_sealed(path: Path | str, *, form: str, header: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and a JSON text under one seal. The file appears whole or not at all.

    Args:
        path: where to; what stands there is replaced.
        form: what kind of file it is, for example ``seepage-capture``.
        header: JSON, kept in the safetensors header for everyone to read.
        tensors: of any dtype that :func:`read_sealed` takes.

    Raises:
        InputError: a tensor could not be read back, or the file cannot be written.
    """
    path = Path(path)
    ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    for name, tensor in ready.items():
        _check_name(path, name)
        _check_values(path, name, tensor)
    metadata = {"form": form, "header": header, "seal": _seal(form, header, ready)}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(ready, partial, metadata=metadata)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{form} should go to a file that can be written; {path} cannot: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def read_sealed(path: Path | str, *, form: str, most_bytes: int = MOST_BYTES) -> tuple[str, dict[str, Tensor]]:
    """The JSON text and the tensors of a file that :func:`write_sealed` wrote.

    The file is read once, after its size was checked; the header is checked before any tensor is made. The seal is a
    SHA-256 of everything: it tells a damaged file from a whole one, not a forged file from an honest one.

    Args:
        path: the file.
        form: what it should be.
        most_bytes: a larger file is refused unread.

    Raises:
        InputError: naming the file, what was expected and what was found.
    """
    path = Path(path)
    content = _content(path, most_bytes)
    table, size = _table(path, content)
    metadata = _metadata(path, table.pop("__metadata__", None), form)
    _check_table(path, table, size)
    try:
        tensors = dict(sorted(load(content).items()))  # load has no order of its own
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise _refusal(path, "a whole safetensors file", str(error)) from error
    for name, tensor in tensors.items():
        _check_values(path, name, tensor)
    if _seal(form, metadata["header"], tensors) != metadata["seal"]:
        raise _refusal(path, "the content that its seal was made from", "other content: the file was damaged")
    return metadata["header"], tensors


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads``: an object whose names are all different; ``ValueError`` names the first that is not."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:80]!r} twice")
        found[name] = value
    return found


def _content(path: Path, most_bytes: int) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"{path} should be a file; found none.")
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} should be a file that can be read; found: {error}.") from error
    if len(content) > most_bytes:
        raise _refusal(path, f"at most {most_bytes} bytes", "more")
    return content


def _table(path: Path, content: bytes) -> tuple[dict[str, Any], int]:
    """What the header says of each tensor, and how many bytes of data follow it."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(_MOST_HEADER, len(content) - 8):
        raise InputError(f"{path} should be a safetensors file; found {len(content)} bytes that do not begin like one.")
    try:
        table = json.loads(content[8 : 8 + length].decode("utf8"), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, "a header in JSON", str(error)[:200]) from error
    if not isinstance(table, dict) or len(table) > _MOST_TENSORS:
        raise _refusal(path, f"a header naming at most {_MOST_TENSORS} tensors", type(table).__name__)
    return table, len(content) - 8 - length


def _metadata(path: Path, found: object, form: str) -> dict[str, str]:
    if not isinstance(found, dict) or set(found) != set(_FORMS) or not all(isinstance(x, str) for x in found.values()):
        raise InputError(f"{path} should be a {form} file; found safetensors without its form, header and seal.")
    if found["form"] != form:
        raise InputError(f"{path} should be a {form} file; found a {found['form'][:80]!r} file.")
    return found


def _check_table(path: Path, table: dict[str, Any], size: int) -> None:
    """Every tensor's name, dtype, shape and place; places have to follow each other without gap up to the end."""
    places = []
    for name, entry in table.items():
        _check_name(path, name)
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _refusal(path, f"dtype, shape and data_offsets of tensor `{name}`", "other entries")
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _SIZES:
            raise _refusal(path, f"tensor `{name}` of dtype {', '.join(_SIZES)}", repr(dtype)[:80])
        if not _whole(shape) or len(shape) > _MOST_DIMENSIONS:
            raise _refusal(path, f"tensor `{name}` of at most {_MOST_DIMENSIONS} sizes", repr(shape)[:80])
        if not _whole(place) or len(place) != 2 or place[1] - place[0] != math.prod(shape) * _SIZES[dtype]:
            raise _refusal(path, f"tensor `{name}` at a place as long as its shape {shape}", repr(place)[:80])
        places.append((place[0], place[1], name))
    end = 0
    for begin, stop, name in sorted(places):
        if begin != end:
            raise _refusal(path, f"tensor `{name}` to begin at byte {end}", f"byte {begin}")
        end = stop
        if end > size:
            raise _refusal(
                path, f"tensor `{name}` within {size} bytes of data", f"its end at byte {end}: the file was cut short"
            )
    if not places or end != size:
        raise _refusal(path, "tensors that end with the file", f"an end at byte {end} of {size}")


def _check_name(path: Path, name: str) -> None:
    """No control characters, and none that turn a line around: names are printed."""
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise _refusal(path, f"tensor names of 1 to {_LONGEST_NAME} printable characters", ascii(name[:80]))


def _whole(numbers: object) -> bool:
    return isinstance(numbers, list) and all(type(x) is int and 0 <= x <= 2**48 for x in numbers)


def _check_values(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise _refusal(path, f"finite numbers in tensor `{name}`", "NaN or infinity")


def _seal(form: str, header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for text in (form, header):
        digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refusal(path: Path, expected: str, found: str) -> InputError:
    return InputError(f"{path} should have {expected}; found {found}.")
