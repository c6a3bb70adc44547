"""What a client holds and what it sends."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from seepage.errors import InputError

__all__ = [
    "GradientUpdate",
    "PrivateBatch",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateBatch:
    """One client's examples in one round, as the network sees them. No attack is ever handed one.

    Args:
        inputs: ``[b, *shape]``, floating point, finite.
        labels: ``[b]``, int64 class indices.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not self.inputs.is_floating_point() or self.inputs.ndim < 2 or len(self.inputs) == 0:
            raise InputError(
                f"`inputs` should be a floating-point tensor [b, *shape] with b >= 1; "
                f"found {self.inputs.dtype} of shape {list(self.inputs.shape)}."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise InputError(
                f"`labels` should be an int64 tensor of shape [{len(self.inputs)}]; "
                f"found {self.labels.dtype} of shape {list(self.labels.shape)}."
            )
        if not bool(self.inputs.isfinite().all()):
            raise InputError("`inputs` should be finite; found NaN or infinity.")

    def __len__(self) -> int:
        return len(self.inputs)


class GradientUpdate(Mapping[str, Tensor]):
    """What a client sends: tensors keyed as ``named_parameters()``, cloned on entry and never changed.

    Made of another update it shares its tensors: they may fill gigabytes.

    Every rule writes it in the direction of a gradient: what it would subtract from a parameter, before minus after.
    A rule that sends batch-norm statistics adds their changes under the names of ``named_buffers()``.

    Raises:
        InputError: a value is not a floating-point tensor or not finite; the message names it.
    """

    __slots__ = ("_tensors",)
    _tensors: Mapping[str, Tensor]

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if isinstance(tensors, GradientUpdate):
            self._tensors = tensors._tensors
            return
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise InputError(f"The update's `{name}` should be a floating-point tensor; found {type(tensor)}.")
            if not _finite(tensor):
                raise InputError(f"The update's `{name}` should be finite; found NaN or infinity.")
        self._tensors = MappingProxyType({name: tensor.detach().clone() for name, tensor in tensors.items()})

    def only(self, names: Container[str]) -> "GradientUpdate":
        """The same update without what is not in ``names``; tensors are shared."""
        part = GradientUpdate({})
        part._tensors = MappingProxyType({name: tensor for name, tensor in self.items() if name in names})
        return part

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"GradientUpdate({', '.join(f'{name}: {list(t.shape)}' for name, t in self.items())})"


def _finite(tensor: Tensor) -> bool:
    """Without a temporary of its size; NaN is the least and the largest of what holds one."""
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in tensor.detach().aminmax())
