"""ReLUs that are written out: ``clamp(min=0)``, ``where(x > 0, x, 0)``, ``maximum(x, 0)``, ``x * (x > 0)``."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rectifiers"]

_ZEROS = frozenset({"zeros", "zeros_like", "new_zeros"})
_ABOVE = frozenset({"gt", "ge", "greater", "greater_equal"})
_BELOW = frozenset({"lt", "le", "less", "less_equal"})
_CASTS = frozenset({"to", "type", "type_as", "float", "double", "half", "bfloat16"})
_NEGATIONS = frozenset({"logical_not", "bitwise_not", "invert"})
_LARGER = frozenset({"maximum", "max", "fmax"})


class Rectifiers:
    """Remembers which tensors are zero and which say where another one is positive; finds the ReLUs made of them.

    At exactly zero such a ReLU may have another slope than torch's own; nothing rests on the slope there.

    Args:
        values: the number of each tensor that the network's input has gone into, by identity; kept up to date outside.
    """

    def __init__(self, values: Mapping[int, int]) -> None:
        self._values = values
        self._zeros: set[int] = set()
        self._masks: dict[int, tuple[int, bool]] = {}  # of a mask: the value it is about, and whether it says positive

    def saw(self, name: str, args: Sequence[Any], result: object) -> None:
        """Of each call, after it: keep zeros and masks."""
        if not isinstance(result, Tensor):
            return
        if name in _ZEROS:
            self._zeros.add(id(result))
        elif name in _ABOVE | _BELOW and len(args) == 2:
            self._compare(args[0], args[1], above=name in _ABOVE, mask=result)
        elif name in _CASTS | _NEGATIONS and args and id(args[0]) in self._masks:
            value, positive = self._masks[id(args[0])]
            self._masks[id(result)] = (value, positive is (name in _CASTS))

    def rectified(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """Of a call, before it: the tensor whose ReLU it gives; ``None`` if it gives something else."""
        given: Any = None
        if name in {"clamp", "clip", "clamp_min", "threshold"}:
            given = args[0] if args and self._clamps(name, [*args[1:]], dict(kwargs)) else None
        elif len(args) == 2 and not kwargs and name in _LARGER:
            pairs = ((one, other) for one, other in (args, args[::-1]) if isinstance(other, Tensor))  # else a dimension
            given = next((one for one, other in pairs if self._is_zero(other)), None)
        elif len(args) == 2 and not kwargs and name == "mul":
            given = next((one for one, other in (args, args[::-1]) if self._says(other, one, positive=True)), None)
        elif len(args) == 3 and not kwargs and name == "where":
            given = self._chosen(*args)
        elif len(args) == 3 and not kwargs and name == "masked_fill":
            given = args[0] if self._says(args[1], args[0], positive=False) and self._is_zero(args[2]) else None
        return given if isinstance(given, Tensor) and id(given) in self._values else None

    def _clamps(self, name: str, bounds: list[Any], named: dict[str, Any]) -> bool:
        """Whether all below zero becomes zero and nothing else changes."""
        if name == "threshold":
            both = [*bounds[:2], *(named[word] for word in ("threshold", "value") if word in named)]
            return len(both) == 2 and all(self._is_zero(one) for one in both)
        low = bounds[0] if bounds else named.get("min")
        high = bounds[1] if len(bounds) > 1 else named.get("max")
        return self._is_zero(low) and high is None

    def _chosen(self, mask: object, yes: object, no: object) -> object:
        if self._is_zero(no) and self._says(mask, yes, positive=True):
            return yes
        return no if self._is_zero(yes) and self._says(mask, no, positive=False) else None

    def _compare(self, left: object, right: object, *, above: bool, mask: Tensor) -> None:
        for one, other, positive in ((left, right, above), (right, left, not above)):
            if id(one) in self._values and self._is_zero(other):
                self._masks[id(mask)] = (self._values[id(one)], positive)

    def _says(self, mask: object, of: object, *, positive: bool) -> bool:
        return id(of) in self._values and self._masks.get(id(mask)) == (self._values[id(of)], positive)

    def _is_zero(self, thing: object) -> bool:
        if isinstance(thing, Tensor):
            plain = thing.device.type != "meta" and not thing.requires_grad and id(thing) not in self._values
            return id(thing) in self._zeros or (plain and thing.numel() == 1 and not bool(torch.any(thing)))
        return isinstance(thing, int | float) and not isinstance(thing, bool) and thing == 0
