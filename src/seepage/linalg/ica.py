"""Blind source separation: unmix rows that are unknown combinations of independent, heavy-tailed sources.

Notation: ``S [k, ...]`` holds ``k`` mixtures of as many samples; ``W S`` should have independent rows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

__all__ = ["Contrast", "ScaleMixture", "SoftSign", "Tanh", "unmix"]

_FREE_STEP, _FARTHEST = 0.5, 0.15  # of the likelihood's: share of a quasi-Newton step, and largest entry
_LEAST_CURVATURE = 0.05  # of two sources that no step can tell apart


class Contrast(Protocol):
    """An odd function of all samples of a source, the slope of a heavy-tailed log-density, and its derivative."""

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Values, in the shape of ``sources [k, ...]``, and how each changes with its own sample, mean ``[k]``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleMixture:
    """``y / (floor + e)``, ``e`` the mean square of all channels and of 3 x 3 pixels around: a local scale.

    A flat spot of an image is flat in all channels and all around, and so is an edge: samples of one source share
    their scale with their neighbours, samples of a mixture do not. Sources: ``[k, ..., channels, height, width]``.

    Args:
        floor: a square, of samples of unit mean square, below which scales are not told apart.

    Reference:
        Gaussian scale mixtures: Wainwright and Simoncelli, Scale Mixtures of Gaussians and the Statistics of Natural
        Images, NeurIPS 1999. Energies of neighbours: Hyvärinen, Hoyer and Inki, Topographic ICA, 2001.
    """

    floor: float = 0.01

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        squares = sources.square()
        channels, height, width = sources.shape[-3:]
        pooled = squares.mean(dim=-3).reshape(-1, 1, height, width)
        pooled = avg_pool2d(pooled, 3, stride=1, padding=1, count_include_pad=False)
        below = 1 / (self.floor + pooled.reshape(*sources.shape[:-3], 1, height, width))
        own = 2 / (channels * min(height, 3) * min(width, 3))  # of one sample in the derivative of its own scale
        return sources * below, (below - own * squares * below.square()).flatten(1).mean(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tanh:
    """``tanh(a y)``, of each sample by itself."""

    sharpness: float = 2.0

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.tanh(self.sharpness * sources)
        return value, self.sharpness * (1 - value.square()).flatten(1).mean(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftSign:
    """``y / (1 / a + |y|)``, of each sample by itself: heavier tails than :class:`Tanh`."""

    sharpness: float = 8.0

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        below = 1 / (1 / self.sharpness + sources.abs())
        return sources * below, below.square().flatten(1).mean(dim=1) / self.sharpness


def unmix(
    S: Tensor,
    *,
    contrast: Contrast,
    generator: torch.Generator,
    steps: int = 60,
    momentum: float = 0.8,
    free_steps: int = 20,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
) -> Tensor:
    """Symmetric FastICA on whitened rows, with momentum; then maximum likelihood, whose sources may be correlated.

    Few samples of independent sources are correlated by chance, as much as one over the root of their number. Sources
    that have to be uncorrelated are wrong by that; those of the likelihood are not.

    Args:
        S: ``[k, ...]``, samples in the shape that the contrast looks at; float32 suffices.
        contrast: what tells a source from a mixture.
        generator: draws the start, if there is none.
        steps: of uncorrelated sources, at most.
        momentum: how much of the last of them comes before the next; 0 needs three times as many.
        free_steps: of the likelihood.
        tolerance: the uncorrelated steps end when every source moves by less (one minus cosine).
        start: ``[k, k]`` rows of weights on ``S`` to start from, of any length.

    Returns:
        ``[k, k]``: one row of weights on ``S`` a source; ``[0, k]`` if ``S`` is blank.

    Reference:
        Hyvärinen and Oja, Independent Component Analysis: Algorithms and Applications, 2000, sections 6.1 to 6.2.
        Ablin, Cardoso and Gramfort, Faster ICA by Preconditioning with Hessian Approximations, 2018.
    """
    if float(S.abs().amax()) < 1e-30:
        return S.new_empty(0, len(S))
    whitening = _whitening(S.flatten(1))
    Z = (whitening @ S.flatten(1)).reshape(S.shape)
    k = len(Z)
    if start is None:
        first = torch.randn(k, k, generator=generator, dtype=torch.float32, device=generator.device).to(Z)
    else:  # correlations of its sources with the whitened rows
        sources = start.to(S) @ S.flatten(1)
        first = sources / sources.norm(dim=1, keepdim=True).clamp_min(1e-30) @ Z.flatten(1).T
    W = _together(_orthogonal(first), Z, contrast, steps=steps, momentum=momentum, tolerance=tolerance)
    return _freed(W, Z, contrast, free_steps) @ whitening


def _together(W: Tensor, Z: Tensor, contrast: Contrast, *, steps: int, momentum: float, tolerance: float) -> Tensor:
    before = W
    for _ in range(steps):
        ahead = _orthogonal(W + momentum * (W - before))
        moved = _orthogonal(_step(ahead, Z, contrast))
        moved = moved * (moved * ahead).sum(dim=1, keepdim=True).sign()
        change = float(1 - (moved * W).sum(dim=1).abs().min())
        before, W = W, moved
        if change < tolerance:
            break
    return W


def _freed(W: Tensor, Z: Tensor, contrast: Contrast, steps: int) -> Tensor:
    """Steps of a quasi-Newton descent of the likelihood: in blocks of two sources, as if they were independent."""
    for _ in range(steps):
        sources = (W @ Z.flatten(1)).reshape(Z.shape)
        size = sources.flatten(1).square().mean(dim=1).sqrt().clamp_min(1e-30)  # [k]
        W = W / size[:, None]
        flat = sources.flatten(1) / size[:, None]
        value, slope = contrast(flat.reshape(Z.shape))
        own = (value.flatten(1) * flat).mean(dim=1).clamp_min(1e-30)
        slopes = value.flatten(1) @ flat.T / (flat.shape[1] * own[:, None])
        curvature = slope / own
        across = (curvature[:, None] * curvature - 1).clamp_min(_LEAST_CURVATURE)
        move = (slopes.T - curvature * slopes) / across
        move.fill_diagonal_(0.0)
        W = W + min(_FREE_STEP, _FARTHEST / float(move.abs().max().clamp_min(1e-30))) * move @ W
    return W


def _step(W: Tensor, Z: Tensor, contrast: Contrast) -> Tensor:
    flat = Z.flatten(1)
    value, slope = contrast((W @ flat).reshape(len(W), *Z.shape[1:]))
    return value.flatten(1) @ flat.T / flat.shape[1] - slope[:, None] * W


def _orthogonal(W: Tensor) -> Tensor:
    try:
        left, _, right = torch.linalg.svd(W, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # Of a matrix that is nearly orthogonal already the decomposition in float32 does not converge now and then.
        left, _, right = torch.linalg.svd(W.double(), full_matrices=False)
    nearest: Tensor = left @ right
    return nearest.to(W)


def _whitening(S: Tensor) -> Tensor:
    """``[k, k]``, symmetric; directions without any signal are damped and not blown up."""
    values, vectors = torch.linalg.eigh((S @ S.T / S.shape[1]).double())
    scale = values.clamp_min(1e-10 * float(values[-1]) + 1e-300).rsqrt()
    whitening: Tensor = (vectors * scale) @ vectors.T
    return whitening.to(S)
