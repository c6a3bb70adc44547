"""What enters the last layer, for inputs that a server can make up."""

import copy

import torch
from torch import Tensor, nn

from seepage.errors import InputError
from seepage.types import Observation

__all__ = ["embeddings_at", "noise_inputs"]


def noise_inputs(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """``[count, *input_shape]``: uniform in the observation's bounds, standard normal if it has none."""
    shape, device = (count, *observation.input_shape), generator.device
    if observation.bounds is None:
        return torch.randn(shape, generator=generator, device=device)
    noise = torch.rand(shape, generator=generator, device=device)
    low, high = (bound.to(noise) for bound in observation.bounds)
    return low + (high - low) * noise


def embeddings_at(network: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """``[N, m]``: what enters the module called ``layer`` of a copy in evaluation mode.

    Raises:
        InputError: the module is not called once with one row an example.
    """
    judge = copy.deepcopy(network).eval()
    seen: list[Tensor] = []
    judge.get_submodule(layer).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    with torch.no_grad():
        judge(inputs.to(next(judge.parameters())))
    if len(seen) != 1 or seen[0].ndim != 2:
        raise InputError(f"`{layer}` should be called once, with one row an example; found {len(seen)} calls.")
    return seen[0]
