"""What a client's rule does to its examples' gradients, as far as labels are concerned: steps of its own, clipping."""

import torch

from seepage.types import LocalTraining, NoisyRule, UpdateRule

__all__ = ["clips", "clips_only", "moves"]


def moves(rule: UpdateRule | None) -> bool:
    """Whether the client takes steps of its own; a sum of clients has the method for it, and asks their rule."""
    return isinstance(rule, LocalTraining) and rule.ended(torch.zeros(1), torch.ones(1)) is not None


def clips(rule: UpdateRule | None) -> bool:
    """Whether each example's gradient was scaled by a number of its own, as in DP-SGD, or a sum of such clients."""
    return isinstance(rule, NoisyRule) and not moves(rule) and not rule.is_gradient


def clips_only(rule: UpdateRule | None) -> bool:
    """Whether it was, and no noise was added."""
    return isinstance(rule, NoisyRule) and clips(rule) and rule.deviation(batch_size=None) == 0.0
