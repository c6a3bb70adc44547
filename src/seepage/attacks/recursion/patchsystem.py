"""Where a network cuts its input into patches and adds learned positions: how, and which gradients are the errors."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.nn.functional import cross_entropy

from seepage.attacks.walk.objective import twice_differentiable
from seepage.errors import InputError
from seepage.networks.clientcopy import client_copy
from seepage.networks.layers import AffineLayer, read_layers
from seepage.types import Obstacle

__all__ = ["PatchSystem", "find_patch_system"]

_AGREES = 1e-9  # relative, in float64
_MOST_BESIDE = 8  # tokens of positions that are no patches: class, distillation, registers
_PROBES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSystem:
    """``gW = D^T P`` of one example: ``D [T, d]`` is a part of the positions' gradient, ``P [T, n]`` are the patches.

    Args:
        module: the embedding, an ``nn.Conv2d`` or an ``nn.Linear`` on patches.
        weight: its weight's name.
        positions: name of the positions' parameter.
        first: how many rows of it come before the patches'.
        channels_first: positions are stored ``[d, T]``.
        places: ``[T n]`` for a linear embedding: which number of the flat input each entry of ``P`` is.
        input_shape: ``[c, h, w]``.
        grid: patches, down and across; of a linear embedding ``(T, 1)``.
    """

    module: nn.Conv2d | nn.Linear
    weight: str
    positions: str
    first: int
    channels_first: bool
    places: Tensor | None
    input_shape: tuple[int, ...]
    grid: tuple[int, int]

    @property
    def count(self) -> int:
        """``T``."""
        return self.grid[0] * self.grid[1]

    def errors(self, gradient: Tensor) -> Tensor:
        """``D [T, d]`` from the gradient of the positions."""
        width = self.module.weight.shape[0]
        rows = gradient.reshape(width, -1).T if self.channels_first else gradient.reshape(-1, width)
        return rows[self.first : self.first + self.count]

    def weight_gradient(self, gradient: Tensor) -> Tensor:
        """``[d, n]`` from the gradient of the weight."""
        return gradient.flatten(1)

    def patches(self, inputs: Tensor) -> Tensor:
        """``P [T, n]`` of one input ``[c, h, w]``."""
        if self.places is not None:
            return inputs.flatten()[self.places].reshape(self.count, -1)
        assert isinstance(self.module, nn.Conv2d), "else it has places"
        return F.unfold(inputs[None], _kernel(self.module), **_geometry(self.module))[0].T

    def inputs(self, patches: Tensor) -> Tensor:
        """``[c, h, w]`` from ``P [T, n]``; where patches overlap, their mean."""
        if self.places is not None:
            flat = torch.empty_like(patches.flatten())
            flat[self.places] = patches.flatten()
            return flat.reshape(self.input_shape)
        assert isinstance(self.module, nn.Conv2d), "else it has places"
        size, kernel = self.input_shape[1:], _kernel(self.module)
        folded = F.fold(patches.T[None], size, kernel, **_geometry(self.module))
        return (folded / F.fold(torch.ones_like(patches).T[None], size, kernel, **_geometry(self.module)))[0]


def find_patch_system(network: nn.Module, input_shape: tuple[int, ...]) -> PatchSystem | Obstacle:
    """The system of a network, held against its own gradients at two random inputs; or why there is none."""
    if len(input_shape) != 3:
        return Obstacle(
            where="inputs", reason=f"should be images [channels, height, width]; found {list(input_shape)}."
        )
    try:
        layers = read_layers(network, input_shape).layers
    except InputError as error:
        return Obstacle(where="network", reason=f"cannot be read: {error}")
    client = client_copy(network).network.double().cpu().requires_grad_()  # frozen here may not be frozen there
    first = next((layer for layer in layers if layer.positions > 1), None)
    module = None if first is None else dict(client.named_modules()).get(first.name)
    if first is None or not isinstance(module, nn.Conv2d | nn.Linear):
        return Obstacle(where="network", reason="has no convolution or linear layer that embeds patches.")
    embedding = _embedding(client, first, module, input_shape)
    if isinstance(embedding, Obstacle):
        return embedding
    systems = list(_candidates(client, first, module, embedding, input_shape))
    for seed in range(_PROBES if systems else 0):
        probe = _probe(client, input_shape, seed)
        systems = [system for system in systems if _explains(system, *probe)]
    if systems:
        return systems[0]
    reason = "no parameter is added to what this layer puts out, one row a patch: nothing shows the patches' errors."
    return Obstacle(where=first.name, reason=reason)


def _embedding(
    client: nn.Module, layer: AffineLayer, module: nn.Conv2d | nn.Linear, input_shape: tuple[int, ...]
) -> tuple[Tensor | None, tuple[int, int]] | Obstacle:
    """Places and grid of a :class:`PatchSystem`."""
    numbers = torch.arange(1, 1 + torch.Size(input_shape).numel(), dtype=torch.float64).reshape(1, *input_shape)
    given = _given(client, module, numbers)
    if isinstance(module, nn.Linear):
        places = given.round().long().flatten() - 1
        if not places.sort().values.equal(torch.arange(numbers.numel())):
            return Obstacle(where=layer.name, reason="is not given the numbers of the input, each once.")
        return places, (layer.positions, 1)
    if not given.equal(numbers):
        return Obstacle(where=layer.name, reason="is not given the input itself.")
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return Obstacle(
            where=layer.name, reason="should be a convolution without groups, padded with zeros by numbers."
        )
    covered = F.fold(
        F.unfold(torch.ones_like(numbers), _kernel(module), **_geometry(module)),
        input_shape[1:],
        _kernel(module),
        **_geometry(module),
    )
    if not bool((covered > 0).all()):
        return Obstacle(where=layer.name, reason="its patches leave a part of the image out.")
    down, across = module(numbers).shape[2:]
    return None, (int(down), int(across))


def _candidates(
    client: nn.Module,
    layer: AffineLayer,
    module: nn.Conv2d | nn.Linear,
    embedding: tuple[Tensor | None, tuple[int, int]],
    input_shape: tuple[int, ...],
) -> Iterator[PatchSystem]:
    places, grid = embedding
    count, width = grid[0] * grid[1], module.weight.shape[0]
    for name, value in client.named_parameters():
        beside = value.numel() // width - count
        if name in (layer.weight, layer.bias) or value.numel() % width or not 0 <= beside <= _MOST_BESIDE:
            continue
        for channels_first in (False, True):
            for first in range(beside + 1):
                yield PatchSystem(
                    module=module,
                    weight=layer.weight,
                    positions=name,
                    first=first,
                    channels_first=channels_first,
                    places=places,
                    input_shape=input_shape,
                    grid=grid,
                )


def _probe(client: nn.Module, input_shape: tuple[int, ...], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A random input and the gradients that it leaves."""
    inputs = torch.randn((1, *input_shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    free = dict(client.named_parameters())
    with torch.enable_grad(), twice_differentiable():
        loss = cross_entropy(client(inputs), torch.zeros(1, dtype=torch.long))
        found = torch.autograd.grad(loss, list(free.values()), materialize_grads=True)
    return inputs[0], dict(zip(free, found, strict=True))


def _explains(system: PatchSystem, inputs: Tensor, gradients: dict[str, Tensor]) -> bool:
    if system.positions not in gradients or system.weight not in gradients:
        return False
    wanted = system.weight_gradient(gradients[system.weight])
    found = system.errors(gradients[system.positions]).T @ system.patches(inputs)
    return bool((found - wanted).norm() <= _AGREES * wanted.norm()) and bool(wanted.any())


def _given(client: nn.Module, module: nn.Module, inputs: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    with torch.no_grad():
        client(inputs)
    handle.remove()
    return seen[0]


def _kernel(module: nn.Conv2d) -> tuple[int, int]:
    return module.kernel_size[0], module.kernel_size[1]


def _geometry(module: nn.Conv2d) -> dict[str, tuple[int, int]]:
    down, across = (int(side) for side in module.padding)
    return {
        "stride": (module.stride[0], module.stride[1]),
        "padding": (down, across),
        "dilation": (module.dilation[0], module.dilation[1]),
    }
