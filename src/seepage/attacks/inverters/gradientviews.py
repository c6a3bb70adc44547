"""What a ridge is fitted on: whole gradients, sketched, their channels' products, and what the last layer was given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.inverters.blueprint import Blueprint
from seepage.attacks.inverters.embeddingmap import read_embeddings
from seepage.attacks.inverters.gradientfeatures import Hash, Sketch
from seepage.attacks.inverters.ridge import centred, products
from seepage.networks.layers import Activation

__all__ = ["GradientViews", "ViewReader", "channel_products", "joined"]

_LARGEST_EMBEDDING = 1024  # numbers; more are hashed
_CHANNELS = 512  # of a layer's input; the products of more would be large
_PRODUCTS = 32_768  # numbers in all layers' products of channels
_FAR = 2.0  # times beyond the pairs' largest or smallest norm: the update was clipped, or scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientViews:
    """Of ``k`` batches.

    Args:
        whole: ``[k, n]`` sketched gradients.
        lengths: numbers of each tensor in ``whole``.
        channels: ``[k, q]`` products of channels, sketched: see :func:`channel_products`.
        channel_lengths: numbers of each layer in ``channels``.
        embeddings: ``[k, b, m]`` what the last layer was given.
    """

    whole: Tensor
    lengths: list[int]
    channels: Tensor
    channel_lengths: list[int]
    embeddings: Tensor

    def rescaled(self, pairs: "GradientViews") -> "GradientViews":
        """The last, which was sent, brought to the pairs' mean norm where it is far from all of them."""
        norms, own = pairs.whole.norm(dim=1), self.whole[-1].norm().clamp_min(1e-30)
        if norms.min() / _FAR <= own <= norms.max() * _FAR:
            return self
        return replace(self, whole=torch.cat([self.whole[:-1], self.whole[-1:] * (norms.mean() / own)]))

    def products(self, others: "GradientViews") -> dict[str, tuple[Tensor, Tensor]]:
        """Inner products ``[k, k]`` and with others ``[j, k]``, centred on these: three measures of likeness.

        ``gradient``: of whole gradients. ``directions``: the sum over tensors of the cosine between their parts.
        ``channels``: of the layers' products of channels, each layer's scaled to one size; none without such layers.
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
        apart = {word: centred(*both) for word, both in found.items()}
        return apart | ({"channels": self._of_channels(others)} if self.channel_lengths else {})

    def _of_channels(self, others: "GradientViews") -> tuple[Tensor, Tensor]:
        sizes = len(self.channels), len(others.channels)
        grams, acrosses = (self.channels.new_zeros(size, sizes[0], dtype=torch.float64) for size in sizes)
        parts = (torch.split(each.channels, each.channel_lengths, dim=1) for each in (self, others))
        for part, other in zip(*parts, strict=True):
            gram, across = centred(*products(part, other))
            scale = _inverse(gram.diagonal().mean())
            grams += gram * scale
            acrosses += across * scale
        return grams, acrosses


class ViewReader:
    """Looks at gradients as :class:`GradientViews`."""

    def __init__(self, blueprint: Blueprint, labels: Tensor, sizes: Mapping[str, int]) -> None:
        self._last, before = blueprint.layers[-1], blueprint.layers[-2:-1]
        self._activation = Activation(before[0].activation) if before else Activation.NONE
        self._labels = labels
        self._sketch = Sketch(sizes)
        layers = [layer for layer in blueprint.layers if not layer.linear and layer.shape[1] <= _CHANNELS]
        self._channels = Sketch({layer.weight: layer.shape[1] ** 2 for layer in layers}, most=_PRODUCTS)
        self._hash = Hash(self._last.shape[1], _LARGEST_EMBEDDING, blueprint.hash_seed + 1_000_001)

    def __call__(self, gradients: Mapping[str, Tensor]) -> GradientViews:
        """Of gradients ``[k, *shape]`` by name."""
        weight, bias = gradients[self._last.weight], gradients[str(self._last.bias)]
        found = read_embeddings(weight, bias, self._labels.expand(len(weight), -1), self._activation)
        k, b, n = found.shape
        embeddings = self._hash(found.float().reshape(k * b, n)).reshape(k, b, -1)
        channels = {name: channel_products(gradients[name]) for name in self._channels.names}
        return GradientViews(
            whole=self._sketch(gradients),
            lengths=self._sketch.lengths,
            channels=self._channels(channels) if channels else weight.new_zeros(k, 0),
            channel_lengths=self._channels.lengths,
            embeddings=embeddings,
        )


def channel_products(gradient: Tensor) -> Tensor:
    """``[k, c, c]``: inner products of the columns that belong to a layer's input channels, with trace one.

    A gradient is a sum over positions, ``gW = sum_p d_p x_p^T``. In a deep network the errors ``d_p`` turn by a right
    angle when the image moves a little, and ``gW`` with them; but if they are taken to be random, ``gW^T gW`` is
    ``sum_p x_p x_p^T`` in the mean: which channels the layer has seen together, hence colours and textures.

    Args:
        gradient: ``[k, m, c]`` or, of a convolution, ``[k, m, c, *kernel]``.
    """
    rows = gradient.flatten(3).movedim(2, 3).flatten(1, 2) if gradient.ndim > 3 else gradient  # [k, m * places, c]
    found = rows.mT @ rows
    return found * _inverse(found.diagonal(dim1=1, dim2=2).sum(dim=1))[:, None, None]


def joined(views: Sequence[GradientViews]) -> GradientViews:
    """One after the other."""
    whole, channels, embeddings = (
        torch.cat([getattr(each, word) for each in views]) for word in ("whole", "channels", "embeddings")
    )
    return replace(views[0], whole=whole, channels=channels, embeddings=embeddings)


def _inverse(sizes: Tensor) -> Tensor:
    """``1 / sizes``, zero for zero."""
    return torch.where(sizes > 0, 1 / sizes, 0)
