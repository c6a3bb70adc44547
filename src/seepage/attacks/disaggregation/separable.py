"""Whether the zeros of a direction are the off-units of any one input at all."""

import torch
from torch import Tensor

from seepage.attacks.disaggregation.mixture import Mixture
from seepage.linalg.nullspace import zero_mask

__all__ = ["separable_share"]

_STEPS = 100
_STEP_SIZE = 4.0  # the inverse of the largest curvature of the logistic loss on white rows


def separable_share(mixture: Mixture, directions: Tensor) -> Tensor:
    """Share of units that one input in the row space, the best for each direction, switches as its zeros say.

    The zeros of an example are where its input's pre-activations are negative: a plane through the rows of heights
    separates them from the rest. The zeros of a combination (two examples whose errors are parallel leave one where
    both are on, and where both are off) are no such set, and with more than two rows an unknown a plane separates none
    by chance (Cover, 1965). No other direction is needed to ask.

    Args:
        mixture: of the attacked layer.
        directions: ``[k, b]``.

    Returns:
        ``[k]``: 1 for a true direction, up to units that are off by a hair.
    """
    if not len(directions):
        return directions.new_zeros(0)
    on = ~zero_mask(mixture.L, directions, zero_tol=mixture.zero_tols(directions))
    return _share(mixture.planes, on).to(directions)


def _share(H: Tensor, on: Tensor) -> Tensor:
    """Logistic regression of ``on [k, m]`` on white ``H [m, h]`` by Nesterov's method, and how much it gets right."""
    target = on.to(H)
    u = H.new_zeros(len(on), H.shape[1])
    ahead = u
    for step in range(_STEPS):
        slope = (torch.sigmoid(ahead @ H.T) - target) @ H / len(H)
        moved = ahead - _STEP_SIZE * slope
        ahead = moved + step / (step + 3) * (moved - u)
        u = moved
    share: Tensor = ((u @ H.T > 0) == on).to(H).mean(dim=1)
    return share
