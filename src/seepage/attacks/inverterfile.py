"""Attack networks as safetensors files: tensors and a header, nothing that can run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seepage.attacks.inverter import Inverter, build_module
from seepage.attacks.inverters.blueprint import Blueprint, read_blueprint
from seepage.attacks.inverters.pairs import PublicExamples
from seepage.errors import InputError

__all__ = ["load_inverter", "save_inverter"]

_FORMAT = "seepage-inverter-1"
_TRAINING = "note"  # in the header: of a checkpoint alone
_INPUTS, _LABELS = "public.inputs", "public.labels"
_DIGITS = 10
_NAMED = 40  # characters of a file's name that findings repeat


def save_inverter(
    inverter: Inverter, path: Path | str, *, extra: Mapping[str, Tensor] | None = None, note: str = ""
) -> None:
    """Write an attack network, whole or not at all.

    Args:
        inverter: to write.
        path: a safetensors file.
        extra: further tensors, of a training that is to be taken up.
        note: on that training, kept in the header; it makes the file a checkpoint, which is no attack network yet.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    tensors = {f"module.{name}": value for name, value in inverter.module.state_dict().items()} | dict(extra or {})
    if inverter.public is not None:
        tensors |= {_INPUTS: inverter.public.inputs, _LABELS: inverter.public.labels}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    header = {"format": _FORMAT, "blueprint": inverter.blueprint.to_json(), _TRAINING: note}
    if inverter.public is not None:
        header["held_out"] = str(inverter.public.held_out)
    try:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial, header)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The attack network should go to a file that can be written; {path} cannot: {error}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def load_inverter(path: Path | str, *, unfinished: bool = False) -> Inverter:
    """Read an attack network: the header first, then only tensors of the names and shapes that it entails.

    Args:
        path: a safetensors file.
        unfinished: a checkpoint is taken too, as it was after its last epoch, without public examples.

    Raises:
        InputError: the file is missing, no attack network, a checkpoint, or a tensor is missing, misshapen or not
            finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The attack network should be a safetensors file; found no file {path}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise InputError(
                    f"{path} should be an attack network that `seepage train` of this version wrote (format "
                    f"{_FORMAT!r}); found {header.get('format')!r}. Train it again."
                )
            if header.get(_TRAINING) and not unfinished:
                raise InputError(
                    f"{path} should be an attack network; found the checkpoint of a training, which a `seepage train` "
                    "with the same options goes on from. The attack network is the file that `--out` names."
                )
            blueprint = read_blueprint(header.get("blueprint", ""))
            # Its size is held against the file before anything of that size is made.
            with torch.device("meta"):
                expected = build_module(blueprint).state_dict()
            present = set(file.keys())
            state: dict[str, Tensor] = {}
            for name, value in expected.items():
                shape = file.get_slice(f"module.{name}").get_shape() if f"module.{name}" in present else None
                if shape != list(value.shape):
                    raise InputError(f"{path}: `{name}` should have shape {list(value.shape)}; found {shape}.")
                state[name] = file.get_tensor(f"module.{name}")
            public = _public(file, blueprint, path) if _INPUTS in present else None
    except (SafetensorError, OSError) as error:
        raise InputError(f"The attack network should be a safetensors file; {path} is none ({error}).") from error
    for name, value in (state if public is None else state | {_INPUTS: public.inputs}).items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise InputError(f"{path}: `{name}` should hold finite numbers; found others.")
    module = build_module(blueprint)
    module.load_state_dict(state)
    return Inverter(blueprint=blueprint, module=module.eval(), public=public, file=path.stem[:_NAMED])


def _public(file: Any, blueprint: Blueprint, path: Path) -> PublicExamples:
    """The public examples in a file."""
    shapes = [file.get_slice(word).get_shape() if word in file.keys() else None for word in (_INPUTS, _LABELS)]  # noqa: SIM118
    text = file.metadata().get("held_out", "")
    held_out = int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else 0
    count = shapes[0][0] if shapes[0] else 0
    enough = min(held_out, count - held_out) >= blueprint.examples
    if shapes != [[count, *blueprint.input_shape], [count]] or not enough:
        raise InputError(
            f"{path}: `{_INPUTS}` and `{_LABELS}` should hold inputs {list(blueprint.input_shape)} and their labels, "
            f"enough held out and enough others for batches of {blueprint.examples}; found {shapes}, held out {text!r}."
        )
    labels = file.get_tensor(_LABELS)
    classes = blueprint.layers[-1].shape[0]
    if labels.dtype != torch.int64 or not bool(((labels >= 0) & (labels < classes)).all()):
        raise InputError(f"{path}: `{_LABELS}` should hold whole numbers in 0 to {classes - 1}; found others.")
    return PublicExamples(inputs=file.get_tensor(_INPUTS), labels=labels, held_out=held_out)
