"""Ridge regression with the damping that held-out rows choose."""

import torch
from torch import Tensor

__all__ = ["centred", "products", "ridge", "ridge_of_products"]

_COLUMNS = 4096  # in float64 at once
_ROWS = 256
_DAMPINGS = tuple(10.0**power for power in range(-9, 5))  # of the mean eigenvalue
_DECIDE = 1024  # targets that choose the damping


def ridge(rows: Tensor, targets: Tensor, judges: Tensor, truth: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Centred on ``rows``, solved in float64 in whichever of the two forms is the smaller.

    Args:
        rows: ``[M, n]``.
        targets: ``[M, P]``, centred.
        judges: ``[J, n]`` held-out rows, which choose the damping.
        truth: ``[J, P]`` their targets.
        asked: ``[q, n]``.

    Returns:
        What is predicted of ``judges``, ``[J, P]``, and of ``asked``, ``[q, P]``.
    """
    center = rows.mean(dim=0)
    apart, others = rows - center, torch.cat([judges, asked]) - center
    if len(rows) <= rows.shape[1]:
        return ridge_of_products(*products(apart, others), targets, truth)
    apart = apart.double()
    values, vectors = torch.linalg.eigh(apart.T @ apart)
    known = ((apart @ vectors).T.float() @ targets).to(targets)  # [n, P]
    return _damped(values, others.double() @ vectors, known, truth)


def ridge_of_products(gram: Tensor, across: Tensor, targets: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The same from inner products of centred rows.

    Args:
        gram: ``[M, M]`` in float64.
        across: ``[J + q, M]``: held-out rows first, then those asked for.
        targets: ``[M, P]``, centred.
        truth: ``[J, P]``.
    """
    values, vectors = torch.linalg.eigh(gram)
    return _damped(values, across @ vectors, vectors.T.to(targets) @ targets, truth)


def products(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """``[M, M]`` and ``[k, M]`` in float64, a few columns at a time: float64 copies of all would be large."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    across = torch.zeros(len(others), len(rows), dtype=torch.float64, device=rows.device)
    for narrow, other in zip(torch.split(rows, _COLUMNS, dim=1), torch.split(others, _COLUMNS, dim=1), strict=True):
        part = narrow.double()
        for first in range(0, len(rows), _ROWS):  # one triangle is the other
            gram[first : first + _ROWS, first:] += part[first : first + _ROWS] @ part[first:].T
        across += other.double() @ part.T
    return gram.triu() + gram.triu(1).T, across


def centred(gram: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products ``[M, M]`` and ``[k, M]`` as they are once the mean of the ``M`` rows is taken off all rows."""
    mean = gram.mean(dim=0)
    apart = gram - mean - mean[:, None] + mean.mean()
    return apart, across - across.mean(dim=1, keepdim=True) - mean + mean.mean()


def _damped(values: Tensor, seen: Tensor, known: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions of judges and others from eigenvalues ``[r]``, rows ``[J + q, r]`` and targets ``[r, P]`` along."""
    values = values.clamp_min(0)
    size = values.mean().clamp_min(1e-60)
    decide = torch.linspace(0, known.shape[1] - 1, min(_DECIDE, known.shape[1])).long().to(known.device)
    some, wanted = known[:, decide], truth[:, decide]

    def error(damping: float) -> float:
        found = (seen[: len(truth)] / (values + damping * size)).to(some) @ some
        return float((found - wanted).square().mean())

    best = min(_DAMPINGS, key=error)
    found = (seen / (values + best * size)).to(known) @ known
    return found[: len(truth)], found[len(truth) :]
