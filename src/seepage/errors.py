"""What can go wrong with what a user hands in, told apart from what an attack could not do."""

__all__ = ["InputError", "SeepageError"]


class SeepageError(Exception):
    """Base of every error that seepage raises on purpose; its text is one sentence a user can act on."""


class InputError(SeepageError):
    """A file, network, option or tensor that cannot be used; says which, what was expected and what was found."""
