"""From real-valued counts of classes to integers, and to labels."""

import torch
from torch import Tensor

__all__ = ["counts_to_labels", "on_simplex", "round_counts"]


def counts_to_labels(counts: Tensor) -> Tensor:
    """``[K]`` int64 ascending: class c as often as ``counts[c]`` says."""
    return torch.repeat_interleave(torch.arange(len(counts)), counts.to("cpu", torch.int64))


def on_simplex(counts: Tensor, examples: float) -> Tensor:
    """``[C]``: the nearest non-negative vector with the sum ``examples``."""
    ordered = counts.sort(descending=True).values
    excess = (ordered.cumsum(0) - examples) / torch.arange(1, len(counts) + 1, dtype=counts.dtype, device=counts.device)
    support = int((ordered > excess).sum())
    return (counts - excess[max(support, 1) - 1]).clamp_min(0.0)


def round_counts(counts: Tensor, examples: int) -> Tensor:
    """``[C]`` int64: simplex projection, then the largest remainders get what is left of ``examples``."""
    projected = on_simplex(counts, examples)
    whole = (projected + 1e-9).floor()
    missing = examples - int(whole.sum())
    order = (projected - whole).argsort(descending=True, stable=True)
    whole[order[:missing]] += 1
    return whole.to(torch.int64)
