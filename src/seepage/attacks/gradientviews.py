"""What a ridge is fitted on: whole gradients, sketched, and what the last layer was given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.blueprint import Blueprint
from seepage.attacks.embeddingmap import read_embeddings
from seepage.attacks.gradientfeatures import Hash, Sketch
from seepage.attacks.ridge import centred, products
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

    def products(self, others: "GradientViews") -> dict[str, tuple[Tensor, Tensor]]:
        """Inner products ``[k, k]`` and with others ``[j, k]``, centred on these: two measures of likeness.

        ``gradient``: of whole gradients. ``directions``: the sum over tensors of the cosine between their parts.
        """
        sizes = len(self.whole), len(others.whole)
        found = {
            word: tuple(self.whole.new_zeros(size, sizes[0], dtype=torch.float64) for size in sizes)
            for word in ("gradient", "directions")
        }
        parts = (torch.split(each.whole, self.lengths, dim=1) for each in (self, others))
        for part, other in zip(*parts, strict=True):
            gram, across = products(part, other)
            ours, theirs = _inverse(gram.diagonal().sqrt()), _inverse(other.double().norm(dim=1))
            found["gradient"][0].add_(gram)
            found["gradient"][1].add_(across)
            found["directions"][0].add_(gram * ours * ours[:, None])
            found["directions"][1].add_(across * ours * theirs[:, None])
        return {word: centred(*both) for word, both in found.items()}


class ViewReader:
    """Looks at gradients as :class:`GradientViews`."""

    def __init__(self, blueprint: Blueprint, labels: Tensor, sizes: Mapping[str, int]) -> None:
        self._last, before = blueprint.layers[-1], blueprint.layers[-2:-1]
        self._activation = Activation(before[0].activation) if before else Activation.NONE
        self._labels = labels
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


def _inverse(sizes: Tensor) -> Tensor:
    """``1 / sizes``, zero for zero."""
    return torch.where(sizes > 0, 1 / sizes, 0)
