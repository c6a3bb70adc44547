"""Defenses by name, as far as the catalogue has them."""

from collections.abc import Callable, Sequence
from typing import cast

from seepage.audit import catalogue
from seepage.errors import InputError
from seepage.types import Defense

__all__ = ["build_defenses"]


def build_defenses(texts: Sequence[str]) -> tuple[Defense, ...]:
    """The defenses that the texts name, in order.

    Raises:
        InputError: the catalogue has no defenses, or not this one.
    """
    build = cast(Callable[[str], Defense] | None, getattr(catalogue, "build_defense", None))
    if texts and build is None:
        raise InputError(f"The defense {texts[0]!r} is not known: this version of seepage has none in its catalogue.")
    return tuple(build(text) for text in texts) if build else ()
