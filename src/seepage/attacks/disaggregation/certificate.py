"""Evidence, from what the server has alone, that reconstructed inputs are the client's own.

Four facts are asked of every example, none of which holds for an arbitrary factorisation of the gradient:

1. *Agreement*: its error is zero exactly at the units that the reconstructed input switches off.
2. *Pinned*: those units determine its direction with units to spare
   (:attr:`seepage.attacks.disaggregation.found.Kept.pinned`), so that it is no combination of several examples;
   a pair of examples that switch on the same units fails here. Where one of these units is indispensable, nothing less
   than the replay of the whole batch takes its place.
3. *Undisturbed*: where the first two fail for other examples of the batch, the directions in their place hold none of
   this example, so that it comes out the same whatever they should have been (:func:`undisturbed`).
4. *Replay*, where the update is a plain gradient: for one label, the network itself, run on the reconstructed input,
   gives the error back, and the gradient recomputed from all of them equals the update
   (:mod:`seepage.attacks.disaggregation.replay`). Where it cannot be run, the first three certify only what
   :mod:`seepage.attacks.disaggregation.warrant` lets them.

Examples whose errors are parallel count as one in all four, and what comes out is their mean: copies, and near-copies
of one class that switch on the same units everywhere. Only how much of the loss it takes tells such a mean from an
example (:func:`seepage.attacks.disaggregation.replay.lone`).

All of them suppose that the bias gradient, which sets the scales, is the sum of the errors: it lies in their span
(:func:`seepage.attacks.disaggregation.precision.explains_bias`), and where the replay runs it is no
multiple of the sum either (:func:`seepage.attacks.disaggregation.replay.scale_is_known`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Agreement", "agree", "undisturbed"]

_CHANCE = 1e-5  # that a true example has more errors below the tolerance than are forgiven


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Fact 1 for ``k`` examples.

    Args:
        score: ``[k]`` share of units where zeros and switched-off units agree; 1 explains everything.
        holds: ``[k]`` bool: no unit that is clearly off has an error, and of those that are clearly on no more have
            none than fall below the tolerance by chance (one; two or three in layers of thousands of units).
    """

    score: Tensor
    holds: Tensor


def agree(errors: Tensor, preactivations: Tensor, *, zero_tol: float | Tensor, margin: float = 1e-4) -> Agreement:
    """Sparsity matching (SPEAR, section 4.3) of ``errors [k, m]`` with ``preactivations [k, m]``.

    Args:
        errors: reconstructed ``dZ``, one row an example.
        preactivations: ``Z`` from the reconstructed inputs.
        zero_tol: an error counts as zero up to this share of its row's root mean square; one for all, or one for each,
            ``[k]``.
        margin: a pre-activation counts as clearly on or off beyond this share of its row's root mean square.
    """
    from scipy.special import pdtrik

    size = errors.abs() / _rms(errors)
    height = preactivations / _rms(preactivations)
    tols = torch.as_tensor(zero_tol, dtype=errors.dtype, device=errors.device).expand(len(errors))[:, None]
    unexplained = (size > 10 * tols) & (height < -margin)
    silent = (size <= tols) & (height > margin)
    by_chance = pdtrik(1 - _CHANCE, 0.3 * tols[:, 0].cpu().numpy() * errors.shape[1])  # Poisson
    silent_by_chance = torch.as_tensor(np.ceil(by_chance), device=errors.device).clamp_min(1)
    holds = ~unexplained.any(dim=1) & (silent.sum(dim=1) <= silent_by_chance)
    return Agreement(score=1 - (unexplained | silent).double().mean(dim=1), holds=holds)


def undisturbed(zeros: Tensor, *, doubtful: Tensor) -> Tensor:
    """Fact 3: which examples come out right although some directions of the batch are wrong.

    ``x_i`` is fixed by being orthogonal (in the dual basis) to the span of all directions but its own. Where the
    doubtful ones span what the missing examples span, they all vanish on every unit that none of these switches on,
    whatever example ``i`` does there. Where they hold a part of ``q_i`` they can vanish on a unit that ``i`` switches
    on by accident only, and a direction has fewer than ``b`` accidents to give.

    Args:
        zeros: ``[b, m]`` bool, where each direction vanishes.
        doubtful: ``[b]`` bool, the directions that are not known to be true.

    Returns:
        ``[b]`` bool; all true if nothing is doubtful.
    """
    if not bool(doubtful.any()):
        return torch.ones_like(doubtful)
    silent = zeros[doubtful].all(dim=0)  # [m]
    return (~zeros & silent).sum(dim=1) >= len(zeros)


def _rms(rows: Tensor) -> Tensor:
    return rows.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-300)
