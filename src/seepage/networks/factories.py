"""Users' own code, written ``module:factory``: imported from the current directory, called with what it asks for."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from seepage.errors import InputError

__all__ = ["call_factory", "source_sha256"]


def call_factory(spec: str, *, what: str, offered: Mapping[str, object]) -> object:
    """What the factory of ``spec`` returns.

    Args:
        spec: ``module:factory``; the factory may lie deeper, as in ``module:Class.make``.
        what: it should make, as messages name it, for example ``network``.
        offered: arguments by name; it is called with those that its signature names.

    Raises:
        InputError: the module cannot be imported, it has no such factory, or the factory fails.
    """
    module, _, path = spec.partition(":")
    one = f"an {what}" if what[0] in "aeiou" else f"a {what}"
    with _current_directory_importable():
        try:
            made: object = importlib.import_module(module)
        except Exception as error:
            written = f" Write `{module[:-3]}:{path}`, without .py." if module.endswith(".py") else ""
            raise InputError(
                f"The {what}'s module `{module}` should be importable from {Path.cwd()}; {_said(error)}.{written}"
            ) from error
        for part in path.split("."):
            if not hasattr(made, part):
                raise InputError(f"The module `{module}` should define the factory `{path}`; found no `{part}`.")
            made = getattr(made, part)
        if not callable(made) or isinstance(made, nn.Module):
            raise InputError(f"The factory `{spec}` should be a function or class; found {type(made).__name__}.")
        try:
            named = inspect.signature(made).parameters
            product: object = made(**{name: value for name, value in offered.items() if name in named})
        except Exception as error:
            raise InputError(f"The factory `{spec}` should return {one}; it failed with {_said(error)}.") from error
    return product


def source_sha256(spec: str) -> str | None:
    """Of the file that the module of ``spec`` stands in, ``None`` without one; what it imports is not looked at."""
    with _current_directory_importable():
        try:
            found = importlib.util.find_spec(spec.partition(":")[0])
        except Exception:  # of a package around it; whoever calls the factory says so
            return None
    file = None if found is None or found.origin is None else Path(found.origin)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else None


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        yield
    finally:
        sys.path[:] = before


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
