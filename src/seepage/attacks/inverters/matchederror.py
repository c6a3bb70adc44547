"""How far a batch is from another, whatever the order of their examples."""

import itertools

import torch
from torch import Tensor

__all__ = ["matched_error"]

_LISTED = 4  # up to so many examples all orders are tried at once; beyond, one assignment a batch


def matched_error(found: Tensor, truth: Tensor) -> Tensor:
    """``[k]``: mean squared error in the order of the examples that makes it least.

    Args:
        found: ``[k, b, *shape]``.
        truth: the same shape.
    """
    a, t = found.flatten(2), truth.flatten(2)
    costs = (a[:, :, None] - t[:, None]).square().mean(-1)  # [k, b, b]
    b = costs.shape[1]
    rows = torch.arange(b, device=costs.device)
    if b <= _LISTED:
        orders = torch.tensor(list(itertools.permutations(range(b))), device=costs.device)  # [b!, b]
        return costs[:, rows, orders].mean(-1).amin(1)
    from scipy.optimize import linear_sum_assignment

    chosen = [linear_sum_assignment(cost.detach().cpu().numpy())[1] for cost in costs]
    orders = torch.stack([torch.as_tensor(order, device=costs.device) for order in chosen])  # [k, b]
    return costs.gather(2, orders[:, :, None])[..., 0].mean(-1)
