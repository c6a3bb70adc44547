"""Several answers to one question made into one, by what each is worth on held-out rows."""

from collections.abc import Mapping

import torch
from torch import Tensor

from seepage.types import Stats

__all__ = ["weighed"]

_ENTRIES = 2**20  # of the held-out truth at once


def weighed(answers: Mapping[str, tuple[Tensor, Tensor]], truth: Tensor) -> tuple[Tensor, Stats]:
    """The best sum of answers with weights in [0, 1]; zero where it is not clearly better than zero.

    Args:
        answers: by name, of the held-out rows ``[J, n]`` and of the one asked for ``[1, n]``.
        truth: ``[J, n]``.

    Returns:
        The answer ``[n]``, and weights and held-out errors to be told.
    """
    seen = [held_out.flatten() for held_out, _ in answers.values()]
    weights = _weights(seen, truth.flatten())
    sums = sum((weight * held_out for weight, (held_out, _) in zip(weights, answers.values(), strict=True)), truth * 0)
    blind = truth.square().mean(dim=1)  # [J]: the error of zero
    errors = (sums - truth).square().mean(dim=1)
    if not _better(errors, blind):
        weights, errors = [0.0] * len(weights), blind
    answer = torch.zeros_like(truth[0])
    for weight, (_, asked) in zip(weights, answers.values(), strict=True):
        answer += weight * asked[0]
    stats: Stats = {f"weight of {word}": round(weight, 3) for word, weight in zip(answers, weights, strict=True)}
    return answer, stats | {"held-out error": float(errors.mean()), "held-out error of the mean": float(blind.mean())}


def _better(errors: Tensor, blind: Tensor) -> bool:
    """Whether ``errors [J]`` lie below those of the mean by more than twice what chance makes of it."""
    gain = blind - errors
    return len(gain) > 1 and bool(gain.mean() > 2 * gain.std() / len(gain) ** 0.5)


def _weights(columns: list[Tensor], target: Tensor) -> list[float]:
    """In [0, 1], least squares of columns ``[N]`` against ``target [N]``, a part of the rows after the other."""
    from scipy.optimize import lsq_linear

    parts = zip(*(torch.split(each, _ENTRIES) for each in (*columns, target)), strict=True)
    factor = target.new_zeros(0, len(columns) + 1, dtype=torch.float64)
    for part in parts:
        factor = torch.linalg.qr(torch.cat([factor, torch.stack(part, dim=1).double()]), mode="r").R
    small = factor.cpu().numpy()
    found: list[float] = lsq_linear(small[:, :-1], small[:, -1], bounds=(0, 1)).x.tolist()
    return found
