"""The command line: the only room that prints."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["main"]

_NOT_AUDITED, _INTERRUPTED = 3, 130  # Python's own 1 would mean that something leaked
_SAID = "seepage: interrupted.\n"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; Ctrl-C ends it with 130 and a sentence, also in the seconds that importing torch takes."""
    try:
        with _interrupted_at_once():
            from seepage.cli.app import main as run
    except Exception:
        traceback.print_exc()
        sys.stderr.write("seepage: it could not be started, which says nothing of the data.\n")
        sys.exit(_NOT_AUDITED)
    try:
        run(arguments)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # typer's own, which says nothing
            sys.stderr.write(_SAID)
        raise


@contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Compiled modules that are being imported turn ``KeyboardInterrupt`` into errors of other kinds."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, _leave)
    except ValueError:  # not the main thread, which alone gets signals
        before = None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _leave(_: int, __: FrameType | None) -> NoReturn:
    os.write(2, _SAID.encode())
    os._exit(_INTERRUPTED)
