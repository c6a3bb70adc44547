"""From real-valued counts of classes to integers, to labels, and to a result that says how sure it is."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from seepage.types import Outcome, Reconstruction

__all__ = ["among_present", "counts_to_labels", "estimate", "on_simplex", "round_counts", "to_labels"]


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


def among_present(counts: Tensor, present: Tensor, examples: int) -> Tensor:
    """``[C]`` real: the counts moved onto the classes that are there, at least one each.

    Args:
        counts: ``[C]``.
        present: ``[C]`` bool; counts are returned as they are if it holds no class, or more than there are examples.
        examples: what they add up to.
    """
    there = int(present.sum())
    if not 0 < there <= examples:
        return counts
    moved = torch.zeros_like(counts)
    moved[present] = 1.0 + on_simplex(counts[present] - 1.0, examples - there)
    return moved


def estimate(
    counts: Tensor,
    examples: int,
    *,
    method: str,
    confidence: str = "estimated",
    deviation: float = 0.0,
    stats: Mapping[str, float] | None = None,
) -> Reconstruction:
    """Real-valued counts ``[C]`` rounded, with what their distance from integers says of the error.

    True counts are integers. Where those above a quarter lie ``s`` (root mean square) from the next integer, an error
    of that size has been made on every class, and a class goes wrong with probability ``erfc(0.5 / (s sqrt 2))``; above
    0.22 they are as good as uniform, and the labels are called a guess, without an expected error. Noise that is known
    to move each count by more than that ``s`` (``deviation``) stands in for it. Counts that are not finite, which an
    update of signs may lead to, are a failure.
    """
    projected = on_simplex(counts, examples)
    if not bool(projected.isfinite().all()):
        reason = f"{method}: no counts of classes fit the last layer's gradient; it was changed too much (signs, say)."
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats={"method": method})
    shown = projected[projected > 0.25]
    spread = max(float((shown - shown.round()).square().mean().sqrt()), deviation)
    wrong = math.erfc(0.5 / (math.sqrt(2) * max(spread, 1e-9))) * len(shown) / (2 * examples)
    sure = "guess" if spread > 0.22 else confidence
    return to_labels(
        round_counts(projected, examples),
        method=method,
        confidence=sure,
        stats={
            **({} if sure == "guess" else {"expected_error": min(1.0, wrong)}),
            "rounding_distance": spread,
            **({"noise_on_counts": deviation} if deviation else {}),
            **(stats or {}),
        },
    )


def to_labels(
    counts: Tensor, *, method: str, confidence: str, stats: Mapping[str, float | int | str] | None = None
) -> Reconstruction:
    """Integer counts ``[C]`` as an uncertified reconstruction."""
    labels = counts_to_labels(counts)
    return Reconstruction(
        outcome=Outcome.APPROXIMATE,
        labels=labels,
        certified=torch.zeros(len(labels), dtype=torch.bool),
        reason=_how_sure(method, confidence, (stats or {}).get("expected_error")),
        stats={"method": method, "confidence": confidence, "examples": len(labels), **(stats or {})},
    )


def _how_sure(method: str, confidence: str, error: float | int | str | None) -> str:
    if confidence == "guess":
        return f"{method}: a guess; nothing in the update says how good."
    few = "fewer than 0.1 %" if isinstance(error, float) and error < 0.0005 else f"about {100 * (error or 0):.1f} %"
    share = f", {few} of them expected to be wrong" if isinstance(error, float) else ""
    return f"{method}: labels estimated{share}; nothing in the update proves them."
