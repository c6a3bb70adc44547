"""The capture bundle: what one client sent in one round and how it came about, in one file; never the truth."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from seepage.errors import InputError
from seepage.federated.sealed import no_duplicates, read_sealed, write_sealed
from seepage.types import GradientUpdate

__all__ = ["Capture", "CaptureHeader", "Sign", "UpdateKind", "client_digest", "read_capture", "write_capture"]

_FORM = "seepage-capture"
_GROUPS = ("update", "before", "after", "buffer")


class UpdateKind(StrEnum):
    """What was captured."""

    GRADIENT = "gradient"
    DELTA = "delta"
    PAIR = "pair"


class Sign(StrEnum):
    """Which way the numbers point."""

    UPHILL = "uphill"  # the gradient of the loss itself
    AFTER_MINUS_BEFORE = "after-minus-before"
    BEFORE_MINUS_AFTER = "before-minus-after"


class CaptureHeader(BaseModel):
    """What a bundle says of itself, as JSON in its safetensors header. ``None`` is "not known".

    ``rule`` is ``fedsgd`` for a plain gradient, else how the client trained in a few words; ``client`` is a digest,
    never a name; ``input_shape`` and ``classes`` belong to the network and are known to every server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    kind: UpdateKind
    sign: Sign
    rule: str = Field(default="unknown", min_length=1, max_length=200)
    learning_rate: float | None = Field(default=None, gt=0)
    local_steps: int | None = Field(default=None, ge=1, le=10**9)
    batch_size: int | None = Field(default=None, ge=1, le=10**9)
    round: int | None = Field(default=None, ge=0, le=10**9)
    client: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")
    secure_aggregation: bool = False
    input_shape: tuple[int, ...] | None = Field(default=None, min_length=1, max_length=4)
    classes: int | None = Field(default=None, ge=2, le=10**6)
    versions: dict[str, str] = Field(default_factory=dict, max_length=32)


class Capture:
    """One client's update of one round, with its header.

    Args:
        header: what is known of it.
        update: gradient or difference keyed as ``named_parameters()``; empty for a pair.
        before: the state that the server sent out (``state_dict()``), empty if it was not captured.
        after: the state that came back; for a pair only.
        buffers: buffers that were sent along with a gradient or a difference.

    Raises:
        InputError: the tensors do not fit the kind; the message names the field.
    """

    __slots__ = ("after", "before", "buffers", "header", "update")

    def __init__(
        self,
        *,
        header: CaptureHeader,
        update: Mapping[str, Tensor] | None = None,
        before: Mapping[str, Tensor] | None = None,
        after: Mapping[str, Tensor] | None = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.header = header
        self.update = _own(update)
        self.before = _own(before)
        self.after = _own(after)
        self.buffers = _own(buffers)
        _check(self)

    def gradient(self) -> GradientUpdate:
        """The gradient that the client took, or for several local steps the mean of those it took, so far as known.

        A difference is divided by learning rate and steps; that is exact for plain SGD alone.

        Raises:
            InputError: the learning rate or the count of steps is not known.
        """
        if self.header.kind is UpdateKind.GRADIENT:
            return GradientUpdate(self.update)
        if self.header.learning_rate is None or self.header.local_steps is None:
            raise InputError(
                "A difference of weights should come with `learning_rate` and `local_steps` to be turned into a "
                f"gradient; found {self.header.learning_rate} and {self.header.local_steps}."
            )
        scale = self.header.learning_rate * self.header.local_steps
        if self.header.kind is UpdateKind.PAIR:
            names = [name for name, tensor in self.before.items() if tensor.is_floating_point()]
            return GradientUpdate({name: _difference(self.before[name], self.after[name], scale) for name in names})
        turn = 1.0 if self.header.sign is Sign.BEFORE_MINUS_AFTER else -1.0
        return GradientUpdate(
            {name: (turn * delta.double() / scale).to(delta.dtype) for name, delta in self.update.items()}
        )


def client_digest(client: str, *, salt: str = "") -> str:
    """A stable stand-in for a client's name. Without a secret ``salt`` a name can be found by trying out names."""
    return hmac.new(salt.encode(), client.encode(), hashlib.sha256).hexdigest()[:16]


def write_capture(path: Path | str, capture: Capture) -> None:
    """Write a bundle; it appears whole or not at all.

    Raises:
        InputError: a tensor is not finite, or the file cannot be written.
    """
    groups = zip(_GROUPS, (capture.update, capture.before, capture.after, capture.buffers), strict=True)
    tensors = {f"{group}/{name}": tensor for group, named in groups for name, tensor in named.items()}
    write_sealed(path, form=_FORM, header=capture.header.model_dump_json(), tensors=tensors)


def read_capture(path: Path | str) -> Capture:
    """Read a bundle from an untrusted file.

    Raises:
        InputError: naming the file and the tensor or field, what was expected and what was found.
    """
    text, tensors = read_sealed(path, form=_FORM)
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        if group not in groups or not rest:
            raise InputError(f"{path} should name tensors {', '.join(f'{g}/...' for g in _GROUPS)}; found `{name}`.")
        groups[group][rest] = tensor
    try:
        json.loads(text, object_pairs_hook=no_duplicates)
        header = CaptureHeader.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "header"
        raise InputError(f"{path} should have a valid header; found `{field}`: {first['msg']}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} should have a header in JSON; found {str(error)[:200]}.") from error
    try:
        return Capture(
            header=header,
            update=groups["update"],
            before=groups["before"],
            after=groups["after"],
            buffers=groups["buffer"],
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _own(tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in (tensors or {}).items()}


def _difference(before: Tensor, after: Tensor, scale: float) -> Tensor:
    return ((before.double() - after.double()) / scale).to(before.dtype)


def _check(capture: Capture) -> None:
    kind = capture.header.kind
    fits = (capture.header.sign is Sign.UPHILL) == (kind is UpdateKind.GRADIENT)
    if not fits or (kind is UpdateKind.PAIR and capture.header.sign is not Sign.AFTER_MINUS_BEFORE):
        raise InputError(f"`sign` should fit the kind {kind}; found {capture.header.sign}.")
    if any(size < 1 or size > 2**31 for size in capture.header.input_shape or ()):
        raise InputError(f"`input_shape` should hold positive sizes; found {list(capture.header.input_shape or ())}.")
    GradientUpdate(capture.update)  # floating point and finite
    if kind is not UpdateKind.PAIR:
        if not capture.update or capture.after:
            raise InputError(f"A {kind} should hold `update` and no `after`; found {len(capture.update)} tensors.")
        if capture.before:
            _same_shapes("update", capture.update, "before", capture.before)
        return
    if capture.update or not capture.before or set(capture.before) != set(capture.after):
        odd = sorted(set(capture.before) ^ set(capture.after)) or sorted(capture.update) or ["nothing"]
        raise InputError(f"A pair should hold the same tensors `before` and `after`; found {odd[0]} in one alone.")
    _same_shapes("after", capture.after, "before", capture.before)
    for name, tensor in capture.before.items():
        if capture.after[name].dtype != tensor.dtype:
            raise InputError(f"`after/{name}` should hold {tensor.dtype}; found {capture.after[name].dtype}.")


def _same_shapes(word: str, tensors: Mapping[str, Tensor], other: str, expected: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name not in expected:
            raise InputError(f"`{word}/{name}` should be in `{other}` as well; found it missing.")
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"`{word}/{name}` should have shape {list(expected[name].shape)}; found {list(tensor.shape)}."
            )
