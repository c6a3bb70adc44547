"""Results that a command writes: whole or not at all, and bad input where they cannot be."""

from pathlib import Path

from seepage.errors import InputError

__all__ = ["make_folder", "write_text"]


def make_folder(folder: Path) -> None:
    """Before the attack: a folder that cannot be written should not cost an hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise InputError(f"`--out` should be a folder that can be written; found {folder}: {error}.") from error


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text.

    Raises:
        InputError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} should be a file that can be written; found: {error}.") from error
