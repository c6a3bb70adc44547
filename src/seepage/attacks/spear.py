"""SPEAR (Dimitrov et al., NeurIPS 2024): exact batches from one ReLU layer, by sampled null directions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.found import Found, Proposals, Proposer
from seepage.attacks.disaggregation.layerattack import LayerAttack
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.linalg.nullspace import sampled_null_directions, zero_mask
from seepage.types import Observation

__all__ = ["DRAWS_A_START", "SPEAR", "NullSampling", "expected_samples", "failure_probability", "zero_share_threshold"]

DRAWS_A_START = 64
_PROBES = 64  # units that a candidate is tried on before all others
_FIRST_DRAW = 256
_MOST_PROPOSED = 512  # of one chunk: more are copies of each other


@dataclass(frozen=True, slots=True, kw_only=True)
class SPEAR(LayerAttack):
    """Exact inversion of a whole batch from the low rank of a ReLU layer's gradient and the zeros of its factor.

    Null directions of random ``b - 1`` rows of the left factor are kept where they vanish on a share ``tau`` of all
    units; ``b`` of them, scaled by the bias gradient, give the batch. The cost grows about fourfold with each example:
    see :func:`expected_samples`.

    Args:
        layer: path of the layer to attack; the first that fits if ``None``. An inner layer yields its inputs.
        false_rejection: probability with which the filter may turn down a true direction; gives ``tau``.
        chunk: null directions drawn at once.
        budget: when to stop without a certificate.

    Reference:
        Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches in Federated Learning, arXiv 2403.03945:
        theorem 3.1 (low rank), theorem 3.3 (directions), section 4 (sampling, filter, choice).
    """

    false_rejection: float = 1e-9
    chunk: int = 16_384
    budget: Budget = field(default_factory=lambda: Budget(samples=200_000_000, seconds=600.0))

    patience: ClassVar[int] = 4_000_000  # samples, not starts

    def __post_init__(self) -> None:
        if not 0 < self.false_rejection < 1:
            raise ValueError(f"`false_rejection` should lie in (0, 1); found {self.false_rejection}.")
        if self.chunk < 1:
            raise ValueError(f"`chunk` should be at least 1; found {self.chunk}.")

    @property
    def name(self) -> str:
        """``spear``."""
        return "spear"

    def least_share(self, width: int) -> float:
        """``tau`` of the layer's ``width`` units."""
        return zero_share_threshold(width, self.false_rejection)

    def proposer(self, observation: Observation) -> Proposer:  # noqa: ARG002 - null directions fit any input
        """Null directions of random rows."""
        return self.propose

    def propose(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Iterator[Proposals]:  # noqa: ARG002
        """Sparse null directions, a chunk at a time."""
        count = min(_FIRST_DRAW, self.chunk)  # small batches are through after a few draws
        while True:
            yield Proposals(directions=_sparse_null_directions(mixture, generator, count=count), cost=count)
            if mixture.batch_size == 1:  # there is one direction, whatever the rows
                return
            count = min(2 * count, self.chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSampling:
    """SPEAR's draws as one arm of a portfolio: sure of finding what is small enough, however alike the examples are.

    Args:
        draws: in one turn.
    """

    draws: int = 4096

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:  # noqa: ARG002
        """One turn; ``effort`` times as many draws. A budget counts :data:`DRAWS_A_START` of them as one start."""
        count, b = effort * self.draws, mixture.batch_size
        directions = _sparse_null_directions(mixture, generator, count=count)
        return Proposals(directions=directions, cost=count // DRAWS_A_START, work=count * b * (b**2 / 3 + _PROBES))


def _sparse_null_directions(mixture: Mixture, generator: torch.Generator, *, count: int) -> Tensor:
    """Those of ``count`` sampled null directions that vanish on enough units, float32."""
    L = mixture.L.float()
    directions = sampled_null_directions(L, count=count, generator=generator)
    probes = torch.randperm(len(L), generator=generator, device=generator.device)[:_PROBES].to(L.device)
    hits = zero_mask(L[probes], directions, zero_tol=mixture.loose_tol).double().mean(dim=1)
    promising = directions[hits >= mixture.least_zeros / len(L) / 2]
    zeros = zero_mask(L, promising, zero_tol=mixture.loose_tol).sum(dim=1)
    return promising[zeros >= mixture.least_zeros][:_MOST_PROPOSED]


def zero_share_threshold(width: int, false_rejection: float) -> float:
    """``tau``: the share of zeros that a true direction reaches but with probability ``false_rejection``.

    A unit is off for an example with probability one half, independently (SPEAR, section 4.2).
    """
    from scipy.stats import binom

    return float(binom.ppf(false_rejection, width, 0.5)) / width


def expected_samples(batch_size: int, width: int) -> float:
    """Expected null directions until all examples were drawn: ``H_b / q``, infinite if no unit is left over.

    ``q = C(m/2, b-1) / C(m, b-1)`` is the chance that one example is off at all drawn rows (SPEAR, section 4.1).
    """
    half = width // 2
    if batch_size - 1 > half:
        return math.inf
    log_q = _log_choose(half, batch_size - 1) - _log_choose(width, batch_size - 1)
    harmonic = sum(1 / k for k in range(1, batch_size + 1))
    return harmonic * math.exp(min(-log_q, 700.0))


def failure_probability(batch_size: int, width: int, false_rejection: float = 1e-9) -> float:
    """Upper bound on the chance that some example cannot be found, however long the search.

    ``b (P[Bin(m, 1/2) < b - 1] + P[the others are dependent on its zero rows] + p_fr)`` (SPEAR, theorem 3.4); the
    middle term is bounded by the chance that one other example is off, or two others are on and off together, on all
    of the ``m / 2`` rows.
    """
    from scipy.stats import binom

    too_few = float(binom.cdf(batch_size - 2, width, 0.5))
    others, rows = batch_size - 1, width // 2
    dependent = others * 0.5**rows + others * (others - 1) / 2 * 0.5**rows
    return min(1.0, batch_size * (too_few + dependent + false_rejection))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
