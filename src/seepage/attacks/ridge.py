"""Ridge regression with the damping that held-out rows choose."""

import torch
from torch import Tensor

__all__ = ["ridge"]

_COLUMNS = 4096
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
    center, others = rows.mean(dim=0), torch.cat([judges, asked])
    if len(rows) > rows.shape[1]:
        apart = (rows - center).double()
        values, vectors = torch.linalg.eigh(apart.T @ apart)
        seen = (others - center).double() @ vectors  # [J + q, n]
        known = ((apart @ vectors).T.float() @ targets).to(targets)  # [n, P]
    else:
        gram, across = _products(rows, others, center)
        values, vectors = torch.linalg.eigh(gram)
        seen = across @ vectors  # [J + q, M]
        known = vectors.T.to(targets) @ targets  # [M, P]
    values = values.clamp_min(0)
    size = values.mean().clamp_min(1e-60)
    decide = torch.linspace(0, targets.shape[1] - 1, min(_DECIDE, targets.shape[1])).long().to(targets.device)
    some, wanted = known[:, decide], truth[:, decide]

    def error(damping: float) -> float:
        found = (seen[: len(judges)] / (values + damping * size)).to(some) @ some
        return float((found - wanted).square().mean())

    best = min(_DAMPINGS, key=error)
    found = (seen / (values + best * size)).to(known) @ known
    return found[: len(judges)], found[len(judges) :]


def _products(rows: Tensor, others: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """``[M, M]`` and ``[k, M]`` of centred rows, a few columns at a time: float64 copies of all would be large."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    across = torch.zeros(len(others), len(rows), dtype=torch.float64, device=rows.device)
    parts = (torch.split(each, _COLUMNS, dim=-1) for each in (rows, others, center))
    for one, other, middle in zip(*parts, strict=True):
        apart = (one - middle).double()
        gram += apart @ apart.T
        across += (other - middle).double() @ apart.T
    return gram, across
