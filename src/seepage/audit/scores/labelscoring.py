"""Where restored labels meet the true ones: as counts, since a server learns them in no order."""

from collections import Counter

import torch
from torch import Tensor

from seepage.label_scores import exact_vector, l1_half, leacc, lnacc

__all__ = ["certified_examples", "label_numbers"]


def label_numbers(labels: Tensor, sure: Tensor, truth: Tensor, classes: int) -> dict[str, float]:
    """The published measures, the two that do not reward answering nothing, and how many certificates are wrong.

    Args:
        labels: ``[k]`` restored labels, -1 where unknown.
        sure: those of them that carry a certificate.
        truth: ``[b]``.
        classes: how many there are.
    """
    surplus = torch.bincount(sure[sure >= 0], minlength=classes) - torch.bincount(truth, minlength=classes)
    return {
        "leacc": leacc(labels, truth, classes),
        "lnacc": lnacc(labels, truth, classes),
        "exact_vector": exact_vector(labels, truth, classes),
        "l1_half": l1_half(labels, truth, classes),
        "wrong_certified": float(surplus.clamp_min(0).sum()),
    }


def certified_examples(sure: Tensor, truth: Tensor) -> list[bool]:
    """For each example in order: whether a certified label is left that accounts for it."""
    left = Counter(sure.tolist())
    accounted = []
    for label in truth.tolist():
        accounted.append(left[label] > 0)
        left[label] -= 1
    return accounted
