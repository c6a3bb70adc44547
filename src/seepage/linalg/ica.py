"""Blind source separation: unmix rows that are unknown combinations of independent, heavy-tailed sources.

Notation: ``S [k, N]`` holds ``k`` mixtures of ``N`` samples; ``W S`` should have independent rows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Contrast", "SoftSign", "Tanh", "unmix"]


class Contrast(Protocol):
    """A bounded odd function, the slope of a heavy-tailed log-density, and its derivative."""

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tanh:
    """``tanh(a y)``."""

    sharpness: float = 2.0

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.tanh(self.sharpness * sources)
        return value, self.sharpness * (1 - value.square())


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftSign:
    """``y / (1 / a + |y|)``: heavier tails than :class:`Tanh`."""

    sharpness: float = 8.0

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        below = 1 / (1 / self.sharpness + sources.abs())
        return sources * below, below.square() / self.sharpness


def unmix(
    S: Tensor,
    *,
    contrast: Contrast,
    generator: torch.Generator,
    symmetric: bool = True,
    steps: int = 60,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
) -> Tensor:
    """FastICA on whitened rows.

    Args:
        S: ``[k, N]``; float32 suffices.
        contrast: what tells a source from a mixture.
        generator: draws the start, if there is none.
        symmetric: all sources at once; else one after the other, each orthogonal to those before.
        steps: at most (for each source if not symmetric).
        tolerance: stop when every source moves by less (one minus cosine).
        start: ``[k, k]`` rows of weights on ``S`` to start from, of any length.

    Returns:
        ``[k, k]``: one row of weights on ``S`` a source; ``[0, k]`` if ``S`` is blank.

    Reference:
        Hyvärinen and Oja, Independent Component Analysis: Algorithms and Applications, 2000, sections 6.1 to 6.2.
    """
    if float(S.abs().amax()) < 1e-30:
        return S.new_empty(0, len(S))
    whitening = _whitening(S)
    Z = whitening @ S
    k = len(Z)
    if start is None:
        first = torch.randn(k, k, generator=generator, dtype=torch.float32, device=generator.device).to(Z)
    else:  # correlations of its sources with the whitened rows
        sources = start.to(S) @ S
        first = sources / sources.norm(dim=1, keepdim=True).clamp_min(1e-30) @ Z.T
    W = _orthogonal(first)
    W = _together(W, Z, contrast, steps, tolerance) if symmetric else _one_by_one(W, Z, contrast, steps, tolerance)
    return W @ whitening


def _together(W: Tensor, Z: Tensor, contrast: Contrast, steps: int, tolerance: float) -> Tensor:
    for _ in range(steps):
        moved = _orthogonal(_step(W, Z, contrast))
        change = float(1 - (moved * W).sum(dim=1).abs().min())
        W = moved
        if change < tolerance:
            break
    return W


def _one_by_one(W: Tensor, Z: Tensor, contrast: Contrast, steps: int, tolerance: float) -> Tensor:
    """Each orthogonal to those before; writes over ``W``."""
    for index in range(len(W)):
        for _ in range(steps):
            moved = _step(W[index : index + 1], Z, contrast)
            moved = moved - (moved @ W[:index].T) @ W[:index]
            moved = moved / moved.norm().clamp_min(1e-30)
            change = float(1 - (moved[0] @ W[index]).abs())
            W[index] = moved[0]
            if change < tolerance:
                break
    return W


def _step(W: Tensor, Z: Tensor, contrast: Contrast) -> Tensor:
    value, slope = contrast(W @ Z)
    return value @ Z.T / Z.shape[1] - slope.mean(dim=1, keepdim=True) * W


def _orthogonal(W: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(W, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


def _whitening(S: Tensor) -> Tensor:
    """``[k, k]``, symmetric; directions without any signal are damped and not blown up."""
    values, vectors = torch.linalg.eigh((S @ S.T / S.shape[1]).double())
    scale = values.clamp_min(1e-10 * float(values[-1]) + 1e-300).rsqrt()
    whitening: Tensor = (vectors * scale) @ vectors.T
    return whitening.to(S)
