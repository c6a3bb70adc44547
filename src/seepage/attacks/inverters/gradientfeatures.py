"""Gradients as the input of an attack network: normalised by layer, and hashed where they are large."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seepage.attacks.inverters.blueprint import GradientLayer

__all__ = ["Hash", "LayerFeatures", "Sketch", "divided", "unit_rows"]

_LARGEST = 10.0  # in a ratio of gradients: beyond it the divisor was rounding
_WHOLE = 4096  # a recovered layer input of up to so many numbers is not hashed
_SKETCHED = 65_536  # numbers of a whole gradient that are kept


def unit_rows(rows: Tensor) -> Tensor:
    """``[k, n]`` scaled to root mean square one; a row of zeros stays."""
    size = rows.square().sum(dim=1, keepdim=True).sqrt().clamp_min(torch.finfo(rows.dtype).tiny)
    return rows * (math.sqrt(rows.shape[1]) / size)


class Hash(nn.Module):
    """Signed feature hashing ``[k, n] -> [k, buckets]``; the identity if ``n`` is no larger.

    Reference:
        Wu et al.: Learning to Invert, UAI 2023, section 4.2.
    """

    places: Tensor
    signs: Tensor

    def __init__(self, numbers: int, buckets: int, seed: int) -> None:
        super().__init__()
        self.outputs = min(numbers, buckets)
        self.hashes = numbers > buckets
        draw = torch.Generator().manual_seed(seed)
        places = torch.randint(buckets, (numbers if self.hashes else 0,), generator=draw)
        signs = torch.randint(2, (len(places),), generator=draw).float() * 2 - 1
        self.register_buffer("places", places, persistent=False)  # the seed says it all
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        if not self.hashes:
            return rows
        return rows.new_zeros(len(rows), self.outputs).index_add_(1, self.places, rows * self.signs)


class LayerFeatures(nn.Module):
    """What one layer's gradient says: its direction, its bias's direction, its size, and ``gW^T gb / |gb|^2``.

    The last is the layer's input itself for one example at a linear layer with bias (GIT's first equation), and a
    mixture of inputs or patches otherwise.
    """

    def __init__(self, layer: GradientLayer, *, buckets: int, seed: int) -> None:
        super().__init__()
        self.layer = layer
        outputs, inputs = layer.shape[0], math.prod(layer.shape[1:])
        self.weight = Hash(outputs * inputs, buckets, seed)
        self.bias = Hash(outputs, buckets, seed + 1)
        self.input = Hash(inputs, max(buckets, _WHOLE), seed + 2)
        self.outputs = self.weight.outputs + 1
        if layer.bias is not None:
            self.outputs += self.bias.outputs + self.input.outputs

    def forward(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """``[k, outputs]`` from gradients ``[k, *shape]`` of the audited network's parameters."""
        weight = gradients[self.layer.weight].flatten(2)  # [k, m, n]
        flat = weight.flatten(1)
        size = flat.norm(dim=1, keepdim=True).clamp_min(1e-30).log10()
        parts = [self.weight(unit_rows(flat)), size]
        if self.layer.bias is not None:
            errors = gradients[self.layer.bias]  # [k, m]
            parts += [self.bias(unit_rows(errors)), self.input(divided(weight, errors))]
        return torch.cat(parts, dim=1)


class Sketch:
    """Several tensors in so many numbers: small ones as they are, the largest hashed to one common size.

    Args:
        sizes: numbers in each tensor, by name; they decide the order.
        most: numbers in all.
    """

    def __init__(self, sizes: Mapping[str, int], *, most: int = _SKETCHED) -> None:
        total = most
        while sum(min(size, most) for size in sizes.values()) > total and most > 1:
            most = max(1, most * 7 // 8)
        self._hashes = {name: Hash(size, most, 7 + place) for place, (name, size) in enumerate(sizes.items())}

    @property
    def names(self) -> list[str]:
        """Of the tensors, in order."""
        return list(self._hashes)

    @property
    def lengths(self) -> list[int]:
        """How many numbers of a sketch each tensor takes."""
        return [each.outputs for each in self._hashes.values()]

    def __call__(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """``[k, sum(lengths)]`` from gradients ``[k, *shape]`` by name."""
        return torch.cat([each(gradients[name].flatten(1)) for name, each in self._hashes.items()], dim=1)


def divided(weight: Tensor, errors: Tensor, *, largest: float | None = _LARGEST) -> Tensor:
    """``gW^T d / |d|^2``: ``[k, n]`` from ``[k, m, ...]`` and ``[k, m]``; in float64, for ``d`` may be tiny.

    Args:
        weight: gradients of weights.
        errors: ``d``.
        largest: bound of the result, which explodes where ``d`` vanishes.
    """
    d = errors.double()
    d = d / d.square().sum(dim=1, keepdim=True).clamp_min(1e-60)
    found = torch.einsum("kmn,km->kn", weight.flatten(2).double(), d)
    return (found if largest is None else found.clamp(-largest, largest)).to(weight.dtype)
