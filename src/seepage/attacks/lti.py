"""LTI, Learning to Invert (Wu et al., UAI 2023): one fully connected network from the hashed gradient to the batch."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seepage.attacks.inverters.blueprint import Blueprint
from seepage.attacks.inverters.gradientfeatures import Hash, unit_rows

__all__ = ["LTI"]


class LTI(nn.Module):
    """Three hidden layers of ``width`` on the whole gradient, hashed to as many numbers as Coarse-GIT would see.

    No wiring and no equations of the audited network: the control that GIT has to beat. The published width is 3,000.

    Reference:
        Wu, Chen, Guo, Weinberger: Learning to Invert, UAI 2023, section 4.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.blueprint = blueprint
        self.names = [name for layer in blueprint.layers for name in (layer.weight, layer.bias) if name is not None]
        numbers = sum(
            math.prod(layer.shape) + (layer.shape[0] if layer.bias is not None else 0) for layer in blueprint.layers
        )
        self.hash = Hash(numbers, blueprint.buckets * len(blueprint.layers), blueprint.hash_seed)
        width, outputs = blueprint.width, blueprint.examples * math.prod(blueprint.input_shape)
        self.network = nn.Sequential(
            *(nn.Linear(self.hash.outputs, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, outputs),
        )

    def forward(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """``[k, b, *shape]`` from gradients ``[k, *shape]`` by name."""
        whole = torch.cat([gradients[name].flatten(1) for name in self.names], dim=1)
        found: Tensor = self.network(self.hash(unit_rows(whole)))
        return found.reshape(-1, self.blueprint.examples, *self.blueprint.input_shape)
