"""Descent in a direction and in the input behind it at once: the zeros of the one are where the other is below zero.

Notation: a direction ``q [b]`` has errors ``y = U q [m]``, an input ``u [b]`` has heights ``z = H u [m]``. For the two
of one example ``y_j = 0`` exactly where ``z_j < 0``. Neither is known; each tells where to look for the other.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coupling"]

_MOMENTUM, _MEMORY = 0.9, 0.95
_AWAKE = 2.0  # variance of an error that is not zero: half of them are, and together they have variance one
_LEAST_REST = 0.5  # of it that expected errors leave, however large they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """Maximises the likelihood of zeros and heights together, over many starts at once, by Adam.

    A unit ``j`` is off with probability ``p_j = 1 / (1 + exp z_j)``; then its error is ``N(0, spike^2)``, with
    ``spike`` falling; else ``N(a_j, 2 - a^2)`` with ``a_j`` its expected error and ``a^2`` the mean square of all.
    ``q`` stays on the sphere; ``u`` has a Gaussian prior, and its length, free, says how sure its heights are.

    Args:
        steps: how many.
        step_size: of ``q`` in the first step, in radians or so; falls to zero like a cosine.
        input_step: of ``u``, the same.
        spike: standard deviation of a zero, in the first step and in the last.
        ridge: weight of the prior of ``u``, for rows of ``H`` of unit mean square.
        nearest: cosine with known directions that a run may have, in the first step and in the last: true ones are
            rarely alike (two of one class 0.5), and without it all runs end at the same few.

    Reference:
        Ours: docs/attacks/prism.md.
    """

    steps: int = 300
    step_size: float = 0.15
    input_step: float = 1.0
    spike: tuple[float, float] = (0.7, 0.05)
    ridge: float = 0.1
    nearest: tuple[float, float] = (0.3, 0.6)

    def __call__(
        self,
        U: Tensor,
        H: Tensor,
        starts: Tensor,
        *,
        expected: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Where the runs end.

        Args:
            U: ``[m, b]`` of unit covariance; float32 suffices.
            H: ``[m, h]`` rows of unit mean square. Columns need not be those of ``U``.
            starts: ``[k, b]`` directions; they need not be unit.
            expected: ``[k, m]`` errors of the units that are on, as far as they can be told beforehand; their mean
                square is below 2.
            known: ``[f, b]`` unit directions to keep away from.

        Returns:
            ``[k, b]`` unit directions.
        """
        q = _unit(starts.to(U))
        u = torch.zeros(len(q), H.shape[1], dtype=U.dtype, device=U.device)
        mean = None if expected is None else expected.to(U)
        rest = _AWAKE if mean is None else max(_AWAKE - float(mean.square().mean()), _LEAST_REST)
        slope_q, slope_u = _Moments(q), _Moments(u)
        for step in range(self.steps):
            over = step / self.steps
            pace = 0.5 * (1 + math.cos(math.pi * over))
            spike = self.spike[0] * (self.spike[1] / self.spike[0]) ** over
            y, z = q @ U.T, u @ H.T
            beside = y if mean is None else y - mean
            evidence = beside.square() * (0.5 / rest) - y.square() * (0.5 / spike**2)
            off = torch.sigmoid(evidence - z + (0.5 * math.log(rest) - math.log(spike)))
            errors = (off * (y / spike**2) + (1 - off) * (beside / rest)) @ U
            heights = (off - torch.sigmoid(-z)) @ H + self.ridge * u
            q = _unit(q - self.step_size * pace * slope_q(_tangent(errors, q), step))
            if known is not None and len(known):
                q = _kept_off(q, known.to(q), self.nearest[0] + (self.nearest[1] - self.nearest[0]) * over)
            slope_q.first = _tangent(slope_q.first, q)  # carried along to where it is used next
            u = u - self.input_step * pace * slope_u(heights, step)
        return q


class _Moments:
    """Adam's, with one second moment for each run: the basis is arbitrary."""

    __slots__ = ("first", "second")

    def __init__(self, like: Tensor) -> None:
        self.first = torch.zeros_like(like)
        self.second = torch.zeros_like(like[:, :1])

    def __call__(self, slope: Tensor, step: int) -> Tensor:
        """The direction to go against, of unit length or so."""
        self.first = _MOMENTUM * self.first + (1 - _MOMENTUM) * slope
        self.second = _MEMORY * self.second + (1 - _MEMORY) * slope.square().sum(dim=1, keepdim=True)
        scale = (self.second / (1 - _MEMORY ** (step + 1))).sqrt().clamp_min(1e-12)
        return self.first / ((1 - _MOMENTUM ** (step + 1)) * scale)


def _kept_off(q: Tensor, known: Tensor, nearest: float) -> Tensor:
    likeness = q @ known.T
    return _unit(q - (likeness - likeness.clamp(-nearest, nearest)) @ known)


def _unit(rows: Tensor) -> Tensor:
    scaled: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return scaled


def _tangent(vectors: Tensor, points: Tensor) -> Tensor:
    return vectors - (vectors * points).sum(dim=1, keepdim=True) * points
