"""How right restored labels are: the published measures, and two that do not reward answering nothing."""

import torch
from torch import Tensor

__all__ = ["exact_vector", "l1_half", "leacc", "lnacc"]


def leacc(restored: Tensor, true: Tensor, classes: int) -> float:
    """Share of classes whose presence is right. Absent classes count, so that "none at all" scores well."""
    return float(((_counts(restored, classes) > 0) == (_counts(true, classes) > 0)).double().mean())


def lnacc(restored: Tensor, true: Tensor, classes: int) -> float:
    """Share of classes whose number is right. Absent classes count here as well."""
    return float((_counts(restored, classes) == _counts(true, classes)).double().mean())


def exact_vector(restored: Tensor, true: Tensor, classes: int) -> float:
    """1.0 if every class's number is right, else 0.0."""
    return float(torch.equal(_counts(restored, classes), _counts(true, classes)))


def l1_half(restored: Tensor, true: Tensor, classes: int) -> float:
    """``sum |n - n'| / 2K``: the share of examples with a wrong label, where both have as many. 0 is perfect."""
    return float((_counts(restored, classes) - _counts(true, classes)).abs().sum()) / (2 * len(true))


def _counts(labels: Tensor, classes: int) -> Tensor:
    """``[C]``: how many of each class; -1 (unknown) counts for none."""
    return torch.bincount(labels[labels >= 0].cpu(), minlength=classes)
