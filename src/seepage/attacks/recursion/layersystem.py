"""The input of one convolution from all that is known around it: a quadratic programme."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.recursion.link import Link

__all__ = ["LayerSystem", "Moments", "moments"]

_RIDGE = 1e-3  # of the mean variance, added to the covariance, which few inputs leave singular
_REFINEMENTS = 2
_MOST_EXCHANGES = 25
_PATIENCE = 3  # exchanges that leave more signs wrong before entries are exchanged one by one
_NEGATIVE = 1e-9  # of the largest entry: below rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean ``[n]`` of a layer's input and precision ``[n, n]``, scaled to a mean variance of one."""

    mean: Tensor
    precision: Tensor


def moments(rows: Tensor) -> Moments:
    """Of inputs ``[N, n]``."""
    mean = rows.mean(dim=0)
    apart = rows - mean
    covariance = (apart.float().T @ apart.float()).to(rows) / max(1, len(rows))  # its last digits decide nothing
    size = covariance.diagonal().mean().clamp_min(1e-12)
    covariance = covariance / size + _RIDGE * torch.eye(len(mean), dtype=rows.dtype, device=rows.device)
    return Moments(mean=mean, precision=torch.cholesky_inverse(torch.linalg.cholesky(covariance)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSystem:
    """``gW = d * x`` and, where the outputs are known, ``z = W x + bias``; the statistics of ``x`` fill what is open.

    Args:
        link: the convolution.
        gradient: of its weight.
        errors: ``d``, any view of the output.
        outputs: ``z``, the same.
        there: where ``z`` is known.
        statistics: of ``x``.
        nonnegative: ``x`` has come out of a ReLU.
    """

    link: Link
    gradient: Tensor
    errors: Tensor
    outputs: Tensor
    there: Tensor
    statistics: Moments
    nonnegative: bool

    def solved(self, damping: float) -> Tensor:
        """``x [n]``, NaN if the equations cannot be solved.

        A ReLU's zeros are found by exchange: what comes out negative is held at zero, what is held there although the
        equations pull it up is set free, all at once while that helps, else one by one (Judice and Pires, 1994: block
        principal pivoting). Fewer unknowns are then left than equations, more often than not.
        """
        known = self.there.reshape(self.link.output_shape).to(self.errors.dtype)
        normal, forward, backward = self.link.normal_equations(self.errors, known)
        size = normal.diagonal().mean()
        normal += damping * size * self.statistics.precision
        free = torch.ones(len(normal), dtype=torch.bool, device=normal.device)
        least, patience = len(free) + 1, _PATIENCE
        for _ in range(_MOST_EXCHANGES):
            found = self._at(free, normal, known, (forward, backward, float(damping * size)))
            pull = self._missed(found, known, (forward, backward, float(damping * size)))
            bound = _NEGATIVE * found.abs().max()
            wrong = torch.where(free, found < -bound, pull > bound * size)
            count = int(wrong.sum())
            if not self.nonnegative or not count or not bool(found.isfinite().all()):
                break
            patience = _PATIENCE if count < least else patience - 1
            least = min(least, count)
            if patience < 0:
                wrong &= wrong.cumsum(0) == count  # the last alone
            free = free ^ wrong
        return found.clamp_min(0) if self.nonnegative else found

    def _at(self, free: Tensor, normal: Tensor, known: Tensor, scales: tuple[float, float, float]) -> Tensor:
        """The solution with all entries that are not free at zero."""
        found = torch.zeros_like(self.statistics.mean)
        places = free.nonzero()[:, 0]
        factor, failed = torch.linalg.cholesky_ex(normal[places][:, places])
        if int(failed):
            return torch.full_like(found, torch.nan)
        for _ in range(1 + _REFINEMENTS):
            missed = self._missed(found, known, scales)[places, None]
            found[places] += torch.cholesky_solve(missed, factor)[:, 0]
        return found

    def _missed(self, found: Tensor, known: Tensor, scales: tuple[float, float, float]) -> Tensor:
        """The normal equations' right side less what ``found`` gives, by the operators: more digits are right."""
        link, x = self.link, found.reshape(self.link.input_shape)
        outputs = (self.outputs.reshape(link.output_shape) - link.bias_of_outputs() - link.linear(x)) * known
        gradient = self.gradient - link.gradient(x, self.errors)
        missed = scales[0] * link.transposed(outputs).flatten()
        missed = missed + scales[1] * link.gradient_transposed(gradient, self.errors).flatten()
        return missed - scales[2] * (self.statistics.precision @ (found - self.statistics.mean))
