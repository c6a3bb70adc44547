"""A network's weights as a safetensors file: the only format read or written, because a pickle can run code."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seepage.errors import InputError

__all__ = ["load_weights", "save_weights"]


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Puts a file's tensors into a freshly built network, in place: all of them, or on any error none.

    Names and shapes are compared from the file's header, before a tensor is read. Numbers are converted to the dtype
    that the network has.

    Args:
        network: its ``state_dict()`` says which tensors are expected.
        path: a safetensors file.

    Raises:
        InputError: the file is missing or not safetensors, or a tensor is missing, unexpected, of another shape or
            kind, or not finite; the message names each.
    """
    path = Path(path)
    expected = _state(network)
    if not path.is_file():
        raise InputError(f"The weights should be a safetensors file; found no file {path}.")
    loaded: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            _refuse(path, _differences(expected, {name: file.get_slice(name).get_shape() for name in file.keys()}))  # noqa: SIM118 - no mapping
            for name, tensor in expected.items():
                loaded[name] = file.get_tensor(name)
                if loaded[name].is_floating_point() == tensor.is_floating_point():
                    loaded[name] = loaded[name].to(tensor.dtype)
    except (SafetensorError, OSError) as error:
        raise InputError(f"The weights should be a safetensors file; {path} {_nature(path)} ({error}).") from error
    _refuse(path, [problem for name, tensor in loaded.items() for problem in _faults(name, tensor, expected[name])])
    with torch.no_grad():
        for name, tensor in loaded.items():
            expected[name].copy_(tensor)


def save_weights(network: nn.Module, path: Path | str) -> None:
    """Writes the network's parameters and buffers. The file appears whole or not at all, also where one stood before.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # Clones, because safetensors refuses tensors that share memory, as tied parameters do.
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in _state(network).items()}, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"The weights should go to a file that can be written; {path} cannot: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: entry.detach() for name, entry in network.state_dict().items() if isinstance(entry, Tensor)}


def _differences(expected: dict[str, Tensor], found: dict[str, list[int]]) -> list[str]:
    missing = [f"`{name}` is missing" for name in expected if name not in found]
    unexpected = [f"`{name}` is unexpected" for name in sorted(found) if name not in expected]
    misshapen = [
        f"`{name}` should have shape {list(tensor.shape)} but has {list(found[name])}"
        for name, tensor in expected.items()
        if name in found and list(tensor.shape) != list(found[name])
    ]
    return missing + unexpected + misshapen


def _faults(name: str, tensor: Tensor, expected: Tensor) -> list[str]:
    if tensor.dtype != expected.dtype:
        return [f"`{name}` should hold {expected.dtype} but holds {tensor.dtype}"]
    return [] if bool(tensor.isfinite().all()) else [f"`{name}` holds NaN or infinity as {tensor.dtype}"]


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise InputError(f"The weights in {path} should fit the network; {', '.join(problems)}.")


def _nature(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    # A zip is what torch.save writes since 1.6, protocol 2 and up of pickle is what it wrote before.
    if start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return (
            "looks like a pickle from torch.save, which can run code when read: convert it with "
            "safetensors.torch.save_file(torch.load(file, weights_only=True), new_file)"
        )
    return "is none"
