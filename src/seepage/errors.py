"""What can go wrong with what a user hands in, told apart from what an attack could not do; how names are told."""

__all__ = ["InputError", "SeepageError", "readable"]


class SeepageError(Exception):
    """Base of every error that seepage raises on purpose; its text is one sentence a user can act on."""


class InputError(SeepageError):
    """A file, network, option or tensor that cannot be used; says which, what was expected and what was found."""


def readable(name: str) -> str:
    r"""A name that can be printed and written: bytes of a file's name that are no UTF-8 are told as ``\xe9``."""
    return name.encode("utf8", "surrogateescape").decode("utf8", "backslashreplace")
