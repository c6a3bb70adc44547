"""The audited network from the outputs of one layer on, which is cheaper to run than all of it."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import jacrev

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer
from seepage.networks.calling import call_with
from seepage.networks.layers import AffineLayer
from seepage.networks.watching import WatchedLayer
from seepage.types import Observation

__all__ = ["Tail"]


class Tail:
    """Logits, and the inputs of some later layers, as functions of one example's outputs at a layer; float64 at first.

    Runs under ``vmap``, ``jacfwd`` and ``jacrev``. The layer itself does not run: its weights, most of the network's,
    are neither copied nor used.

    Args:
        observation: its latest round gives the network.
        layer: whose outputs are given.
        later: layers, called once each, whose inputs are wanted.
    """

    def __init__(self, observation: Observation, layer: AttackedLayer, later: Sequence[AffineLayer]) -> None:
        self.network = observation.latest.network
        self.layer, self.later = layer.read, tuple(later)
        own = {layer.read.weight, layer.read.bias}
        state = (*self.network.named_parameters(), *self.network.named_buffers())
        self.state = {
            name: value.detach().double() if value.is_floating_point() and name not in own else value.detach()
            for name, value in state
        }
        self.nothing = torch.zeros(1, *observation.input_shape, dtype=layer.weight.dtype, device=layer.weight.device)

    def __call__(self, outputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``[m]`` to logits ``[C]`` and the inputs ``[w]`` of each later layer.

        Raises:
            RuntimeError: the network cannot be run on one example.
        """
        with WatchedLayer(self.layer, answer=outputs[None].clone(), later=self.later) as watched:
            logits = call_with(self.network, self.state, self.nothing)
        if watched.outputs is None or len(watched.later) != len(self.later):
            raise RuntimeError("a layer is not called once")
        return logits.flatten(), [value.flatten() for value in watched.later]

    def to(self, dtype: torch.dtype) -> "Tail":
        """The same in another precision."""
        other = copy.copy(self)
        other.state = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in self.state.items()
        }
        return other

    def holding(self, values: Mapping[str, Tensor]) -> "Tail":
        """The same with other parameters of these names."""
        other = copy.copy(self)
        other.state = {**self.state, **values}
        return other

    def errors(self, outputs: Tensor) -> Tensor:
        """``[m]`` to the error there, of cross-entropy, for each label: ``[C, m]``."""

        def twice(z: Tensor) -> tuple[Tensor, Tensor]:
            logits, _ = self(z)
            return logits, logits

        slopes, logits = jacrev(twice, has_aux=True)(outputs)  # [C, m], [C]
        every: Tensor = nn.functional.softmax(logits, dim=0) @ slopes - slopes
        return every
