"""Which reconstruction belongs to which original."""

import torch
from torch import Tensor

from seepage.errors import InputError
from seepage.metrics.rows import as_rows, finite

__all__ = ["match"]

_COPY = 0.01  # of an original's length
_FAR = 1e6  # squared distances beyond this many times the data's own size are all alike: a diverged reconstruction


def match(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Which reconstruction belongs to which original: the assignment of least total squared distance.

    Copies (each other's nearest, within 1 % of the original's length) come first: beside wild reconstructions the least
    total could give an original away from its copy. An original left over that is identical to a matched one takes the
    same row: a duplicated example leaves one trace. NaN and infinity match nothing. Memory is O(b k).

    Args:
        reconstructions: ``[k, *shape]``; ``k`` may be 0, smaller or larger than ``b``.
        originals: ``[b, *shape]``.

    Returns:
        ``[b]`` int64: a row of ``reconstructions`` for each original, -1 where there is none.

    Raises:
        InputError: the examples differ in shape.
    """
    if reconstructions.shape[1:] != originals.shape[1:]:
        raise InputError(
            f"`reconstructions` should hold examples of shape {list(originals.shape[1:])}; "
            f"found {list(reconstructions.shape[1:])}."
        )
    from scipy.optimize import linear_sum_assignment

    rows = torch.full([len(originals)], -1, dtype=torch.int64, device=originals.device)
    known = finite(originals).nonzero().squeeze(1)
    usable = finite(reconstructions).nonzero().squeeze(1).to(originals.device)
    if not len(known) or not len(usable):
        return rows
    flat = as_rows(originals[known])  # [known, n]
    cost = _distances(flat, as_rows(reconstructions.to(originals.device)[usable])).square()
    # A diverged reconstruction of 1e30 would drown the differences between all others in its rounding.
    cost = cost.nan_to_num(nan=torch.inf).clamp(max=_FAR * (1.0 + float(flat.square().sum(dim=1).max())))
    copies = _copies(cost, flat)
    rows[known[copies >= 0]] = usable[copies[copies >= 0]]
    left, free = copies < 0, torch.ones(len(usable), dtype=torch.bool, device=usable.device)
    free[copies[~left]] = False
    lefts, rights = linear_sum_assignment(cost[left][:, free].cpu().numpy())
    rows[known[left][torch.as_tensor(lefts)]] = usable[free][torch.as_tensor(rights)]
    return _share_duplicates(rows, originals, known)


def _copies(cost: Tensor, originals: Tensor) -> Tensor:
    """``[b]``: the column of ``cost [b, k]`` that is a copy of each of ``originals [b, n]``, -1 where none is."""
    nearest, back = cost.argmin(dim=1), cost.argmin(dim=0)
    mutual = back[nearest] == torch.arange(len(cost), device=cost.device)
    same = cost.amin(dim=1) <= _COPY**2 * originals.square().sum(dim=1)
    return torch.where(mutual & same, nearest, -1)


def _share_duplicates(rows: Tensor, originals: Tensor, known: Tensor) -> Tensor:
    """``rows`` with each unmatched original given the row of a matched twin, where it has one."""
    unmatched = known[rows[known] < 0]
    matched = known[rows[known] >= 0]
    if not len(unmatched):
        return rows
    twins = _distances(as_rows(originals[unmatched]), as_rows(originals[matched])) == 0
    has_twin = twins.any(dim=1)
    rows[unmatched[has_twin]] = rows[matched[twins.int().argmax(dim=1)[has_twin]]]
    return rows


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """``[b, k]`` Euclidean distances by differences: exactly zero for twins, and no ``[b, k, n]`` in memory."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
