"""One layer's gradient as an unknown mixture of errors and inputs, ready to be unmixed.

Notation as in SPEAR: ``gW = dZ^T X = L R`` with ``dZ [b, m]``, ``X [b, n]``, ``L [m, b]``, ``R [b, n]``; one invertible
``Q [b, b]`` has ``dZ^T = L Q`` and ``X = Q^-1 R``. A *direction* is a column of ``Q`` up to its length.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer
from seepage.linalg.lowrank import LowRank, low_rank_factors
from seepage.linalg.nullspace import MOST_LEVERAGE

__all__ = ["Mixture", "mix"]

_MOST_NOISE = 0.25  # zero tolerance beyond which zeros cannot be told from errors
_LEAST_TOLERANCE, _MOST_TOLERANCE = 1e-6, 1e-3
_MARGIN = 12.0  # times the rounding of an entry, which the largest of hundreds of zeros reaches (it differs by row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a proposer works on: the factors of one layer's gradient, in float64.

    Args:
        layer: the attacked layer.
        factors: of ``gW``, at rank ``b``.
        L: ``[m', b]`` left factor with unit rows; units that no example woke are left out. Under noise rows keep their
            length, since all entries then are off by as much, and all units are taken.
        awake: ``[m]`` bool, which units those are.
        white: ``[m', b]`` float32 left factor of unit covariance, for searches.
        height: ``[m', b]`` pre-activation without bias of ``x = right^T p`` is ``height @ p``.
        planes: ``[m', b + 1]`` float32, pre-activations with bias in coordinates of unit covariance.
        zero_tol: an entry of ``L q`` counts as zero up to this share of the root mean square of ``L q``, for any
            direction; :meth:`zero_tols` says it for each.
        loose_tol: the same for a proposal, before it is refined.
        least_zeros: a direction needs at least this many.
    """

    layer: AttackedLayer
    factors: LowRank
    L: Tensor
    awake: Tensor
    white: Tensor
    height: Tensor
    planes: Tensor
    zero_tol: float
    loose_tol: float
    least_zeros: int

    @property
    def noisy(self) -> bool:
        """Whether the gradient carries noise above rounding: what comes out is then an estimate, however good."""
        return self.factors.spread > 0

    @property
    def explained(self) -> bool:
        """Whether zeros have to be the units that one input switches off; noise and pruning leave others."""
        return self.layer.gated and not self.noisy

    def zero_tols(self, directions: Tensor) -> Tensor:
        """The zero tolerance of each of ``directions [k, b]``, ``[k]``: what rounding does to its zeros, with a margin.

        ``L q`` is ``gW V^T (q / S)`` up to the lengths of rows, so that rounding of ``gW`` counts ``|q / S|`` times:
        much for a faint example, little for a strong one. Under noise it is the widest for all.
        """
        if self.noisy:
            return directions.new_full((len(directions),), self.zero_tol)
        own: Tensor = _MARGIN * _rounding_of_rows(self.factors) * (directions / self.factors.singular).norm(dim=1)
        return own.clamp(_LEAST_TOLERANCE, self.zero_tol)

    @property
    def height_tol(self) -> float:
        """A pre-activation is clearly on or off beyond this share of its row's root mean square."""
        return max(1e-4, self.zero_tol) if self.noisy else 1e-4

    @property
    def rank_tol(self) -> float:
        """Singular values of zero rows below this share of the largest count as none (:func:`largest_leverage`)."""
        return max(10 * self.zero_tol, 1e-5)

    def preactivations(self, inputs: Tensor) -> Tensor:
        """``Z [k, m]`` of ``inputs [k, n]``, float64, without a float64 copy of ``W``."""
        return self.layer.heights(inputs).T + self.layer.bias.double()

    def missing(self, directions: Tensor) -> Tensor:
        """Orthonormal basis ``[b - f, b]`` of the ``p`` of all examples but those of ``directions [f, b]``.

        ``Q^-1`` has one row an example, ``x = right^T p`` with ``p`` that row times the singular values, and
        ``Q^-1 Q = I``: every other example's ``p / singular`` is orthogonal to a true direction (PRISM, step 3).
        """
        if len(directions) >= self.batch_size:  # enough, but not certified: everything is open again
            return torch.eye(self.batch_size, dtype=directions.dtype, device=directions.device)
        rows: Tensor = torch.linalg.svd(directions / self.factors.singular, full_matrices=True).Vh
        return rows[len(directions) :]

    @property
    def batch_size(self) -> int:
        """The rank: how many distinct examples left a trace."""
        return self.factors.rank


def mix(layer: AttackedLayer, *, least_share: float, generator: torch.Generator) -> Mixture | None:
    """Factor the layer's gradient; ``None`` if it has no numerical rank below its size, or noise drowns its zeros.

    Args:
        layer: the attacked layer.
        least_share: zeros that a direction needs, as a share of all ``m`` units.
        generator: draws the sketch of the factorisation.
    """
    factors = low_rank_factors(layer.weight_gradient, generator=generator, rounding=layer.rounding)
    if factors is None:
        return None
    zero_tol = _zero_tolerance(factors)
    if factors.spread and zero_tol > _MOST_NOISE:
        return None
    length = factors.left.norm(dim=1)
    awake = length > (0 if factors.spread else zero_tol * float(length.max()))
    height = layer.heights(factors.right)
    asleep = int((~awake).sum())  # zeros of every example, but no equations
    share = max(int(least_share * len(awake)) - asleep, 0)
    return Mixture(
        layer=layer,
        factors=factors,
        L=factors.left[awake] / (len(length) ** -0.5 if factors.spread else length[awake, None]),
        awake=awake,
        white=(factors.left[awake] * int(awake.sum()) ** 0.5).float(),
        height=height[awake],
        planes=_planes(height[awake] * factors.singular, layer.bias[awake].to(height)),
        zero_tol=zero_tol,
        loose_tol=4 * zero_tol if factors.spread else max(zero_tol, 1e-3),
        least_zeros=max(share, _fewest_zeros(factors, layer)),
    )


def _fewest_zeros(factors: LowRank, layer: AttackedLayer) -> int:
    """One more than any direction can be given; where nothing else is asked of it, as many as it takes to be pinned."""
    if not layer.relu:
        return 0
    others = factors.rank - 1
    if others and layer.gated and not factors.spread:
        return others + 1
    return math.ceil(others / MOST_LEVERAGE)


def _planes(columns: Tensor, bias: Tensor) -> Tensor:
    """White coordinates ``[m', b + 1]`` of pre-activations: ``columns [m', b]`` and the bias ``[m']``."""
    H = torch.cat([columns, bias[:, None] + 1e-12], dim=1)
    H = H / H.norm(dim=0).clamp_min(1e-300)
    white: Tensor = (torch.linalg.qr(H).Q * len(H) ** 0.5).float()
    return white


def _zero_tolerance(factors: LowRank) -> float:
    """Rounding of the gradient as it stands in ``L``, amplified as for the faintest example that there may be.

    Noise is known by its spread, which four times over covers all but one zero in 10,000.
    """
    if factors.spread:
        return 4 * factors.spread * math.sqrt(len(factors.left)) / float(factors.singular[-1])
    widest = _MARGIN * _rounding_of_rows(factors) / float(factors.singular[-1])
    return min(max(widest, _LEAST_TOLERANCE), _MOST_TOLERANCE)


def _rounding_of_rows(factors: LowRank) -> float:
    """Root mean square rounding of ``m`` entries together: the edge of the spectrum, undone."""
    rows, columns = len(factors.left), factors.right.shape[1]
    edge = factors.noise * float(factors.singular[0])
    return edge / (1 + math.sqrt(columns / rows))
