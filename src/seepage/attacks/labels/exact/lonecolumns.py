"""Classes that are there for certain: columns of the last layer's gradient in which a single class is not positive."""

import torch
from torch import Tensor

from seepage.attacks.labels.lastlayer import LastLayer

__all__ = ["lone_classes"]


def lone_classes(layer: LastLayer) -> Tensor:
    """``[C]`` bool: classes that some column of the gradient names by itself; none where embeddings may be negative.

    Out of a ReLU an embedding is zero in most entries. Where one example alone is not, its column of the gradient is a
    multiple of its error ``p - onehot(c)``: positive but for the label, however faint the example. Where the
    client's ``p - 1`` has been rounded to zero, so is that entry. Examples of other classes would add to it, so the
    class is there whoever else is in the column.
    """
    if not layer.rectified or layer.deviation:
        return torch.zeros_like(layer.gb, dtype=torch.bool)
    single = (layer.gW <= 0).sum(0) == 1
    named: Tensor = (layer.gW[:, single] <= 0).any(1)
    return named
