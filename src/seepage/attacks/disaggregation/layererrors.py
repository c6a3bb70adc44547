"""What the network makes of inputs at one of its layers: outputs there, logits, and the errors that come back."""

import torch
from torch import Tensor, nn

from seepage.networks.clientcopy import client_copy
from seepage.networks.layers import AffineLayer
from seepage.networks.watching import WatchedLayer

__all__ = ["LayerRun", "errors_of_class"]


class LayerRun:
    """A copy of the network that runs forwards and is cut at one layer: gradients end there.

    Args:
        network: copied, and left as it is.
        layer: of it, with outputs ``[N, m]``.

    Raises:
        RuntimeError: the network cannot be copied (computed weights).
    """

    __slots__ = ("_layer", "_network")

    def __init__(self, network: nn.Module, layer: AffineLayer) -> None:
        self._network = client_copy(network, batch_norm_trains=False).network.requires_grad_(False)
        self._layer = layer

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """``Z [N, m]`` of the layer and the logits ``[N, C]`` as a function of it; ``None`` if it is not called once.

        Args:
            inputs: ``[N, *shape]``.

        Raises:
            RuntimeError, ValueError: the network refuses them.
        """
        cut: list[Tensor] = []

        def begin(outputs: Tensor) -> Tensor:
            cut.append(outputs.detach().requires_grad_())
            return cut[-1].clone()  # a ReLU in place would write into it

        with torch.enable_grad(), WatchedLayer(self._layer, then=begin):
            logits = self._network(inputs.to(next(self._network.parameters())))
        once = len(cut) == 1 and cut[0].ndim == 2
        if not once or not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.requires_grad:
            return None
        return cut[0], logits


def errors_of_class(outputs: Tensor, logits: Tensor, label: int) -> Tensor:
    """``dZ [N, m]`` of the summed cross-entropy, were all examples of one class; :class:`LayerRun` gives both."""
    slope = logits.detach().softmax(dim=1)
    slope[:, label] -= 1
    (errors,) = torch.autograd.grad(logits, outputs, slope, retain_graph=True, materialize_grads=True)
    return errors
