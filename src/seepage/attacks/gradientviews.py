"""What a ridge is fitted on: whole gradients, sketched, and what the last layer was given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.blueprint import Blueprint
from seepage.attacks.embeddingmap import read_embeddings
from seepage.attacks.gradientfeatures import Hash, Sketch, unit_rows
from seepage.networks.layers import Activation

__all__ = ["GradientViews", "ViewReader", "joined"]

_LARGEST_EMBEDDING = 1024  # numbers; more are hashed
_FAR = 2.0  # times beyond the pairs' largest or smallest norm: the update was clipped, or scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientViews:
    """Of ``k`` batches: sketched gradients ``[k, n]``, and what the last layer was given ``[k, b, m]``."""

    whole: Tensor
    embeddings: Tensor
    lengths: list[int]

    def rescaled(self, pairs: "GradientViews") -> "GradientViews":
        """The last, which was sent, brought to the pairs' mean norm where it is far from all of them."""
        norms, own = pairs.whole.norm(dim=1), self.whole[-1].norm().clamp_min(1e-30)
        if norms.min() / _FAR <= own <= norms.max() * _FAR:
            return self
        return replace(self, whole=torch.cat([self.whole[:-1], self.whole[-1:] * (norms.mean() / own)]))

    def directions(self) -> Tensor:
        """Each tensor's part of the gradient at unit norm."""
        parts = torch.split(self.whole, self.lengths, dim=1)
        return torch.cat([unit_rows(part) / part.shape[1] ** 0.5 for part in parts], dim=1)


class ViewReader:
    """Looks at gradients as :class:`GradientViews`."""

    def __init__(self, blueprint: Blueprint, labels: Tensor, sizes: Mapping[str, int]) -> None:
        self._last, before = blueprint.layers[-1], blueprint.layers[-2:-1]
        self._activation = Activation(before[0].activation) if before else Activation.NONE
        self._labels, self._names = labels, list(sizes)
        self._sketch = Sketch(sizes)
        self._hash = Hash(self._last.shape[1], _LARGEST_EMBEDDING, blueprint.hash_seed + 1_000_001)

    def __call__(self, gradients: Mapping[str, Tensor]) -> GradientViews:
        """Of gradients ``[k, *shape]`` by name."""
        weight, bias = gradients[self._last.weight], gradients[str(self._last.bias)]
        found = read_embeddings(weight, bias, self._labels.expand(len(weight), -1), self._activation)
        k, b, n = found.shape
        embeddings = self._hash(found.float().reshape(k * b, n)).reshape(k, b, -1)
        return GradientViews(whole=self._sketch(gradients), embeddings=embeddings, lengths=self._sketch.lengths)


def joined(views: Sequence[GradientViews]) -> GradientViews:
    """One after the other."""
    whole, embeddings = (torch.cat([getattr(each, word) for each in views]) for word in ("whole", "embeddings"))
    return GradientViews(whole=whole, embeddings=embeddings, lengths=views[0].lengths)
