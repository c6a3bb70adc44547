"""One layer's inputs and outputs in any forward pass, whether or not a module stands for it."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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
        then: from what the layer puts out to what the network goes on with; ``None``: just that.
        answer: what the network goes on with in any case; the layer's last function, mostly all of it, does not run.
        later: further layers whose inputs are kept, in the order met.
    """

    def __init__(
        self,
        layer: AffineLayer,
        *,
        then: Callable[[Tensor], Tensor] | None = None,
        answer: Tensor | None = None,
        later: Collection[AffineLayer] = (),
    ) -> None:
        super().__init__()
        self.later: list[Tensor] = []
        self._then, self._answer, self._fed = then, answer, frozenset(one.fed for one in later)
        self.inputs: Tensor | None = None
        self.outputs: Tensor | None = None
        self._layer = layer
        self._counts: Counter[str] = Counter()

    def restart(self) -> None:
        """Forget the last pass."""
        self.inputs = self.outputs = None
        self.later.clear()
        self._counts.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function_name(func)
        place = (name, self._counts[name])
        self._counts[name] += 1
        if place == self._layer.fed:
            self.inputs = data_of(name, args, kwargs or {})
        elif place in self._fed:
            self.later.append(data_of(name, args, kwargs or {}))
        if place == self._layer.born and self._answer is not None:
            self.outputs = self._answer
            return self._answer
        result = func(*args, **(kwargs or {}))
        if place == self._layer.born and isinstance(result, Tensor):
            self.outputs = result
            return result if self._then is None else self._then(result)
        return result
