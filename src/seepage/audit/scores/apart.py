"""Whether a network tells its inputs apart at all: where not, one example that comes out says nothing of several."""

import torch
from torch import Tensor, nn

from seepage.audit.scores.watched import fitting_layer, one_pass, watched_rows

__all__ = ["TOO_EASY", "tells_apart"]

TOO_EASY = "one example alone is too easy a case: the network tells inputs of this size hardly apart (are they scaled?)"

_SAME_OUTPUT = 1e-4  # relative, as the errors of such examples are: float32 has three digits more
_LIKE_OUTPUT = 0.05  # the same where units tell: of digits at 2 to 8 units, of which many switch on the same, 0.12 on


def tells_apart(network: nn.Module, inputs: Tensor) -> bool:
    """Whether the outputs of ``inputs [b, *shape]`` differ, or most of these switch on units of their own choice.

    Inputs that are tiny beside a network's biases do neither: they switch on the same units at the layer that reads
    them, and what the update then holds are sums over classes, which attacks that look for examples do not read. A
    batch of one comes out all the same, and its success says nothing of theirs.

    Args:
        network: as the server sends it out; it stays as it is.
        inputs: different examples, two or more.
    """
    found, outputs = fitting_layer(network, inputs, ""), one_pass(network, inputs)
    differ = float((outputs - outputs[0]).abs().max() / outputs.abs().max())
    if found is None or differ > _LIKE_OUTPUT:
        return differ > _SAME_OUTPUT
    on = watched_rows(network, found, inputs, None)[1].reshape(len(inputs), -1) > 0
    return 2 * len(torch.unique(on, dim=0)) > len(inputs)
