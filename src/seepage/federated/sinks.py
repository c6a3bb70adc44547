"""Where captures go: into a folder of bundles, or through an audit that may hold the update back."""

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

import seepage
from seepage.errors import InputError, SeepageError
from seepage.federated.storage import Capture, CaptureHeader, Sign, UpdateKind, client_digest, write_capture

__all__ = ["BundleFolder", "Decision", "HeldBack", "Known", "Sink", "decide", "refuse"]

_log = logging.getLogger("seepage.capture")


class HeldBack(SeepageError):  # noqa: N818 - a decision, not a fault
    """An update was not let go; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether an update may be sent, and why."""

    release: bool
    reason: str


class Sink(Protocol):
    """Takes a capture and decides. What it raises counts as "hold back"."""

    def __call__(self, capture: Capture) -> Decision: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What whoever places a hook can say of the client, for the header of its captures.

    Args:
        client: its name; only a digest is kept.
        salt: kept secret, it keeps names from being found by trying them out.
        batch_size: examples of a gradient, ``None`` if not known.
        input_shape: the shape of one input.
        classes: how many classes the network tells apart.
    """

    client: str | None = None
    salt: str = field(default="", repr=False)
    batch_size: int | None = None
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        """Refuse now what would otherwise break when a round is over and its update waits to be captured."""
        for word in ("client", "salt"):
            value = getattr(self, word)
            if value is not None and not isinstance(value, str):
                raise InputError(f"`{word}` should be text; found {type(value).__name__}.")
        self.header(UpdateKind.GRADIENT, rule="fedsgd", learning_rate=None, local_steps=None, number=0)

    def header(
        self,
        kind: UpdateKind,
        *,
        rule: str,
        learning_rate: float | None,
        local_steps: int | None,
        number: int | None,
        client: str | None = None,
        batch_size: int | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> CaptureHeader:
        """The header of one capture; ``client`` stands in where the hook was told no name.

        Raises:
            InputError: a value is out of range; the message names the field.
        """
        name = self.client if self.client is not None else client
        try:
            return CaptureHeader(
                kind=kind,
                sign=Sign.UPHILL if kind is UpdateKind.GRADIENT else Sign.AFTER_MINUS_BEFORE,
                rule=rule,
                learning_rate=learning_rate,
                local_steps=local_steps,
                batch_size=self.batch_size if batch_size is None else batch_size,
                round=number,
                client=None if name is None else client_digest(name, salt=self.salt),
                input_shape=self.input_shape,
                classes=self.classes,
                versions={
                    "seepage": seepage.__version__,
                    "python": platform.python_version(),
                    "torch": str(torch.__version__),
                    **(versions or {}),
                },
            )
        except ValueError as error:
            raise InputError(f"A capture's header should be valid; found {error}.") from error


class BundleFolder:
    """Writes every capture as ``round-R-CLIENT-N.safetensors`` and lets it go; no file is ever replaced.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def __call__(self, capture: Capture) -> Decision:
        """Write it.

        Raises:
            InputError: the file cannot be written.
        """
        header = capture.header
        stem = f"round-{'x' if header.round is None else header.round}-{header.client or 'client'}"
        number = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while (path := self.folder / f"{stem}-{number}.safetensors").exists():
                number += 1
        except OSError as error:
            raise InputError(f"`folder` should be one that can be written; found {self.folder}: {error}.") from error
        write_capture(path, capture)
        return Decision(release=True, reason=f"captured to {path}")


def decide(sink: Sink, capture: Capture) -> Decision:
    """Ask the sink. Fail closed: if it breaks, for whatever reason, the update is held back. The log says why."""
    try:
        decision = sink(capture)
    except Exception as error:
        decision = Decision(release=False, reason=f"the sink broke: {type(error).__name__}: {error}")
    if not decision.release:
        return refuse(decision.reason, place=_place(capture))
    _log.info("%s: released, %s", _place(capture), decision.reason)
    return decision


def refuse(reason: str, *, place: str = "an update") -> Decision:
    """Hold back, with the reason in the log."""
    _log.warning("%s: held back, %s", place, reason)
    return Decision(release=False, reason=reason)


def _place(capture: Capture) -> str:
    return f"round {capture.header.round}, client {capture.header.client}"
