"""What the network makes of inputs at one of its layers: outputs there, logits, and the errors that come back."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seepage.attacks.clientcopy import client_copy

__all__ = ["LayerRun", "errors_of_class"]


class LayerRun:
    """A copy of the network that runs forwards and is cut at one layer: gradients end there.

    Args:
        network: copied, and left as it is.
        layer: path of a module whose outputs are ``[N, m]``.

    Raises:
        RuntimeError: the network cannot be copied (computed weights).
    """

    __slots__ = ("_fits", "_network", "_seen")

    def __init__(self, network: nn.Module, layer: str) -> None:
        self._network = client_copy(network, batch_norm_trains=False).network.requires_grad_(False)
        self._seen: list[Tensor] = []
        module = dict(self._network.named_modules()).get(layer)
        self._fits = module is not None
        if module is not None:
            module.register_forward_hook(_cut(self._seen))

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """``Z [N, m]`` of the layer and the logits ``[N, C]`` as a function of it; ``None`` if it is not called once.

        Args:
            inputs: ``[N, *shape]``.

        Raises:
            RuntimeError, ValueError: the network refuses them.
        """
        self._seen.clear()
        if not self._fits:
            return None
        with torch.enable_grad():
            logits = self._network(inputs.to(next(self._network.parameters())))
        once = len(self._seen) == 1 and self._seen[0].ndim == 2
        if not once or not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.requires_grad:
            return None
        return self._seen[0], logits


def errors_of_class(outputs: Tensor, logits: Tensor, label: int) -> Tensor:
    """``dZ [N, m]`` of the summed cross-entropy, were all examples of one class; :class:`LayerRun` gives both."""
    slope = logits.detach().softmax(dim=1)
    slope[:, label] -= 1
    (errors,) = torch.autograd.grad(logits, outputs, slope, retain_graph=True, materialize_grads=True)
    return errors


def _cut(seen: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that knows of no network: a copy as large as this one should not wait for the garbage collector."""

    def cut(_: nn.Module, __: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        seen.append(outputs.detach().requires_grad_())
        return seen[-1].clone()  # a ReLU in place would write into it

    return cut
