"""Affine maps as they are written: ``linear``, a convolution, ``x @ W.T``, ``x @ W``, ``addmm``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seepage.networks.functions import AFFINE, AFFINE_ARGUMENTS, TRANSPOSITIONS

__all__ = ["Product", "Weights", "data_of"]

_PRODUCTS = {"matmul": ("input", "other"), "mm": ("input", "mat2"), "addmm": ("input", "mat1", "mat2")}


def data_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What goes into an affine call of this name, of all its arguments."""
    words = _PRODUCTS.get(name, AFFINE_ARGUMENTS)
    named = {**dict(zip(words, args, strict=False)), **kwargs}
    return named.get("mat1" if name == "addmm" else "input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One affine call.

    Args:
        data: what goes in.
        matrix: what it is multiplied by, as it is used.
        shape: of that, ``(outputs, inputs, *kernel)``.
        weight: the parameter that it is, or is the transpose of; ``None`` if neither.
        transposed: whether that parameter is ``[inputs, outputs]``.
        bias: what is added; ``None`` if nothing.
    """

    data: Tensor
    matrix: Tensor
    shape: tuple[int, ...]
    weight: str | None
    transposed: bool
    bias: Tensor | None


class Weights:
    """The parameters of a network and the transposes of its matrices, told by identity.

    Args:
        parameters: the parameters' names, by identity.
    """

    def __init__(self, parameters: Mapping[int, str]) -> None:
        self._parameters = parameters
        self._turned: dict[int, str] = {}

    def saw(self, name: str, args: Sequence[Any], result: object) -> None:
        """Of each call on parameters alone: keep the transposes."""
        given = args[0] if args and name in TRANSPOSITIONS else None
        if not isinstance(given, Tensor) or not isinstance(result, Tensor) or id(given) not in self._parameters:
            return
        if given.ndim == 2 and result.shape == given.shape[::-1] and result.stride() == given.stride()[::-1]:
            self._turned[id(result)] = self._parameters[id(given)]

    def product(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Product | None:
        """The affine call that this is, by a parameter or, of the affine functions, by anything; ``None`` if none."""
        if name in AFFINE:
            named = {**dict(zip(AFFINE_ARGUMENTS, args, strict=False)), **kwargs}
            return self._product(named["input"], named["weight"], named.get("bias"), flipped=False)
        if name not in _PRODUCTS:
            return None
        named = {**dict(zip(_PRODUCTS[name], args, strict=False)), **kwargs}
        data, matrix = (named.get(word) for word in _PRODUCTS[name][-2:])
        if not isinstance(data, Tensor) or not isinstance(matrix, Tensor) or data.ndim < 2:
            return None
        if (id(matrix) not in self._parameters and id(matrix) not in self._turned) or matrix.ndim != 2:
            return None
        if name != "addmm":
            return self._product(data, matrix, None, flipped=True)
        plain = named.get("beta", 1) == named.get("alpha", 1) == 1 and len(args) <= len(_PRODUCTS[name])
        added = id(named["input"]) in self._parameters and named["input"].shape == matrix.shape[1:]
        return self._product(data, matrix, named["input"], flipped=True) if plain and added else None

    def _product(self, data: Tensor, matrix: Tensor, bias: Tensor | None, *, flipped: bool) -> Product:
        """``flipped``: the matrix is used as ``[inputs, outputs]``."""
        turned = id(matrix) in self._turned
        return Product(
            data=data,
            matrix=matrix,
            shape=tuple(matrix.shape[::-1] if flipped else matrix.shape),
            weight=self._turned[id(matrix)] if turned else self._parameters.get(id(matrix)),
            transposed=turned is not flipped,
            bias=bias,
        )
