"""One layer's inputs and outputs in any forward pass, whether or not a module stands for it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from seepage.networks.functions import function_name
from seepage.networks.layers import AffineLayer
from seepage.networks.products import data_of

__all__ = ["WatchedLayer"]


class WatchedLayer(TorchFunctionMode):
    """While entered, keeps what a layer takes and puts out.

    The layer is found again by its functions and by how many calls of these names come before
    (:class:`seepage.networks.layers.AffineLayer`), so that it may be a module, a function or a written sum. Of several
    passes, each begins with :meth:`restart`.

    Args:
        layer: as it was read off the same network.
    """

    def __init__(self, layer: AffineLayer) -> None:
        super().__init__()
        self.inputs: Tensor | None = None
        self.outputs: Tensor | None = None
        self._layer = layer
        self._counts: Counter[str] = Counter()

    def restart(self) -> None:
        """Forget the last pass."""
        self.inputs = self.outputs = None
        self._counts.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function_name(func)
        place = (name, self._counts[name])
        self._counts[name] += 1
        if place == self._layer.fed:
            self.inputs = data_of(name, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        if place == self._layer.born and isinstance(result, Tensor):
            self.outputs = result
        return result
