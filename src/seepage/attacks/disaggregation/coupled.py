"""The coupled search: directions and the inputs behind them together, from random starts, without an image prior."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from seepage.attacks.disaggregation.directions import round_ends
from seepage.attacks.disaggregation.found import Found, Proposals
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.linalg.coupling import Coupling
from seepage.linalg.dictionary import small_share
from seepage.linalg.nullspace import merge_directions

__all__ = ["CoupledSearch", "heights"]

_LIKENESS = 0.5  # of expected and true errors, 0.6 to 0.7 where it was measured; less is safer
_SAME_END = 0.98  # cosine of two runs that ended at the same place
_UNITS = 10  # an example, that a descent looks at; more make it no surer


@dataclass(frozen=True, slots=True, kw_only=True)
class CoupledSearch:
    """One arm: runs of a :class:`Coupling` from rows of ``L``, kept off the directions found, and their ends, rounded.

    The search of SPEAR++ asks for zeros anywhere. But the zeros of an example are where its own input, which lies in
    the row space too, is below the threshold of the units. A direction that is right in part shows some of the units
    that are off, which give a rough input, which shows more of them: runs that the zeros alone lead nowhere end at an
    example.

    Args:
        expected: ``[c, m']`` errors to expect, by class
            (:func:`~seepage.attacks.disaggregation.expectederrors.expected_errors`).
        descent: of both.
        starts: runs in one turn, ``None`` for the batch (128 to 256).
    """

    expected: Tensor | None = None
    descent: Coupling = field(default_factory=Coupling)
    starts: int | None = None

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; runs are ``effort`` times as long."""
        order = torch.randperm(len(mixture.white), generator=generator, device=generator.device)
        units = order[: _UNITS * mixture.batch_size].to(mixture.white.device)
        U, H = mixture.white[units], heights(mixture, found)[units]
        count = self.starts if self.starts is not None else min(max(mixture.batch_size, 128), 256)
        descent = replace(self.descent, steps=effort * self.descent.steps)
        starts = U[:count]
        expected = None
        if self.expected is not None:
            classes = torch.arange(len(starts), device=U.device) % len(self.expected)
            errors = self.expected.to(U)[:, units]  # of the units asleep none is among these: their size is not one
            errors = errors / errors.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-30)
            expected = _LIKENESS * 2**0.5 * errors[classes]
            starts = starts * (starts * (expected @ U)).sum(dim=1, keepdim=True).sign()
        known = None
        if 0 < len(found) < mixture.batch_size:
            known = found.directions.to(U)
            basis = torch.linalg.qr(known.T).Q
            starts = starts - (starts @ basis) @ basis.T
        ends = descent(U, H, starts, expected=expected, known=known)
        work = 4.0 * len(starts) * (U.numel() + H.numel()) * descent.steps
        return Proposals(directions=round_distinct(mixture, found, ends), cost=len(starts), work=work)


def heights(mixture: Mixture, found: Found) -> Tensor:
    """``[m', k + 1]`` float32: pre-activations of the ``k`` inputs not found yet and, in the last column, the bias.

    An input is ``x = right^T S N u`` with ``N [b, k]`` the complement of the directions found: ``Q^T (p / s) = I``
    holds exactly, and the search for the rest gets easier with each. Errors of different examples are nearly
    orthogonal, so that the batch's own covariance is about ``S^2`` and that of ``u`` the identity. Rows have a
    mean square length of one, and so has the bias.
    """
    columns = mixture.height * mixture.factors.singular
    if 0 < len(found) < mixture.batch_size:
        columns = columns @ torch.linalg.qr(found.directions.T, mode="complete").Q[:, len(found) :]
    bias = mixture.layer.bias[mixture.awake].double()[:, None]
    scaled = columns / columns.norm(dim=1).square().mean().sqrt().clamp_min(1e-300)
    return torch.cat([scaled, bias / bias.square().mean().sqrt().clamp_min(1e-300)], dim=1).float()


def round_distinct(mixture: Mixture, found: Found, ends: Tensor) -> Tensor:
    """As :func:`round_ends`, of one run for each place where runs ended: the sparsest."""
    ends = ends[small_share(mixture.white, ends).argsort(descending=True)]
    return round_ends(mixture, found, ends[merge_directions(ends, ends[:0], coherence=_SAME_END)])
