"""Rules and defenses as text and back: ``name``, ``name:value``, ``name:key=value,...``; what is written reads back."""

import dataclasses
import enum
import types
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from seepage.errors import InputError

__all__ = ["read", "write"]

_Record = TypeVar("_Record")
_WORDS = {"true": True, "yes": True, "false": False, "no": False}


def write(name: str, record: object) -> str:
    """``name`` and the options of ``record`` that are not at their default, as :func:`read` takes them.

    Args:
        name: how the record's class is called.
        record: a dataclass whose fields are numbers, truth values, words or ``None``.
    """
    parts = []
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if value != field.default:
            parts.append(f"{field.name}={_text(value)}")
    return f"{name}:{','.join(parts)}" if parts else name


def read(text: str, kinds: Mapping[str, type[_Record]], *, option: str) -> _Record:
    """The record that ``text`` describes.

    Args:
        text: ``name`` or ``name:key=value,...``; the first value may stand without its key.
        kinds: the dataclasses by name.
        option: how the user calls what is read, for errors.

    Raises:
        InputError: the name, a key or a value is wrong; it names the option, the key, what was expected and found.
    """
    name, colon, rest = text.partition(":")
    if name not in kinds:
        raise InputError(f"`{option}` should be one of {', '.join(kinds)}; found {text!r}.")
    kind = kinds[name]
    keys = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    options: dict[str, Any] = {}
    for position, item in enumerate(rest.split(",") if colon else []):
        key, equals, value = item.partition("=")
        if not equals and position == 0 and keys:
            key, value = keys[0], item
        if key not in keys:
            expected = f"one of {', '.join(keys)}" if keys else "left out: there are none"
            raise InputError(f"`{option}` {name}: a key should be {expected}; found {item!r}.")
        if key in options:
            raise InputError(f"`{option}` {name}: `{key}` should be given once; found it again in {item!r}.")
        options[key] = _value(value, hints[key], where=f"`{option}` {name}: `{key}`")
    missing = [field.name for field in dataclasses.fields(kind) if _needed(field) and field.name not in options]  # type: ignore[arg-type]
    if missing:
        raise InputError(
            f"`{option}` {name}: `{missing[0]}` should be given, as in {name}:{missing[0]}=...; found none."
        )
    try:
        return kind(**options)
    except InputError as error:
        raise InputError(f"`{option}` {name}: {error}") from error


def _needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value.value) if isinstance(value, enum.Enum) else str(value)


def _value(text: str, hint: Any, *, where: str) -> Any:
    """``text`` as a value of the type that the field declares."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if isinstance(hint, types.UnionType) else [hint]
    kind = kinds[0]
    if kind is bool:
        if text not in _WORDS:
            raise InputError(f"{where} should be true or false; found {text!r}.")
        return _WORDS[text]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if text not in [one.value for one in kind]:
            raise InputError(f"{where} should be one of {', '.join(one.value for one in kind)}; found {text!r}.")
        return kind(text)
    expected = {int: "a whole number", float: "a number", str: "a name"}[kind]
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"{where} should be {expected}; found {text!r}.") from error
