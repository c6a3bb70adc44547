"""Unmixing: images from their mixtures in the row space, as rough inputs for others and as an arm of PRISM."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seepage.attacks.disaggregation.directions import round_either, round_ends, round_roughly
from seepage.attacks.disaggregation.found import Found, Proposals
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.linalg.dictionary import LogCosh, sparse_directions
from seepage.linalg.filters import FilterBank, as_image
from seepage.linalg.ica import Contrast, unmix
from seepage.linalg.nullspace import merge_directions, zero_mask
from seepage.linalg.sphere import RiemannianAdam

__all__ = ["Continued", "Unmixing"]

_FEW_UNITS = 9.0  # units an example: with fewer, guesses are also rounded by the robust kernel, which costs more;
_FEW = 128  # so are the guesses of a turn that has no more,
_PLENTY = 64  # but not where the descent alone found as many
_DESCENT = RiemannianAdam(steps=150, step_size=0.07)
_SAME = 1 - 1e-6  # cosine of copies
_STEPS, _MORE_STEPS = 60, 15  # of unmixing: of all that is missing, and where something was found in the meantime
_ROWS_AT_ONCE = 32  # mixtures filtered at a time
_WINDOW = 24  # pixels a side of the parts of a large input


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmixing:
    """One arm: the mixture that is left, filtered and unmixed; both signs of each guess, rounded.

    Args:
        bank: makes the inputs sparse.
        contrast: tells them from mixtures.
        shape: of one input.
        samples: of filtered pixels at most; windows on larger inputs are drawn anew each turn.
        momentum: of the steps of unmixing.
        free_steps: the last of them, in which guesses may be correlated.
    """

    bank: FilterBank
    contrast: Contrast
    shape: tuple[int, ...]
    samples: int
    momentum: float = 0.8
    free_steps: int = 20

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; unmixing takes ``effort`` times as many steps."""
        guesses = self.guess(mixture, found, generator, steps=_STEPS * effort)
        rough = round_roughly(mixture, torch.cat([guesses, -guesses]))
        ends = sparse_directions(mixture.white, rough, loss=LogCosh(start=0.3), optimizer=_DESCENT)
        directions = round_ends(mixture, found, ends)
        b, k = mixture.batch_size, len(rough)
        polish = 2.0 * k * mixture.white.numel() * _DESCENT.steps
        kernels = 2.0 * k * mixture.L.numel() * b
        tight = len(mixture.L) < _FEW_UNITS * b
        if (tight or k <= _FEW) and _count_new(mixture, found, directions) < _PLENTY:
            directions = torch.cat([directions, round_either(mixture, guesses)])
            kernels *= 6
        return Proposals(
            directions=directions, cost=k, work=0.25 * k**2 * self.samples * _STEPS * effort + polish + kernels
        )

    def guess(
        self,
        mixture: Mixture,
        found: Found,
        generator: torch.Generator,
        *,
        steps: int,
        start: Tensor | None = None,
    ) -> Tensor:
        """Rough inputs ``[k, b]`` (as ``p`` of ``x = right^T p``) of the ``k`` examples not found yet, up to sign.

        None of them where no stencil fits into an input, or filtered inputs are blank.

        Args:
            mixture: of the attacked layer.
            found: what is not looked for any more.
            generator: draws the samples, and where to start if there is no ``start``.
            steps: of unmixing.
            start: ``[k', b]`` guesses of when more was missing.
        """
        basis = mixture.missing(found.directions)  # [k, b]
        images = basis.float() @ mixture.factors.right.float()  # [k, n]
        windows = self._windows(generator)
        filtered = [self._filtered(part, windows) for part in torch.split(images, _ROWS_AT_ONCE)]
        if any(part is None for part in filtered):  # no stencil fits into an input this small
            return basis[:0]
        samples = torch.cat([part for part in filtered if part is not None])  # [k, windows, stencils, c, h', w']
        before = None if start is None or len(start) < len(basis) else _still_missing(start, basis)
        weights = unmix(
            samples,
            contrast=self.contrast,
            generator=generator,
            steps=steps,
            momentum=self.momentum,
            free_steps=self.free_steps,
            start=before,
        )
        guesses = weights.double() @ basis
        size = math.sqrt(mixture.layer.weight.shape[1])  # of normalised inputs; only the bias minds
        scaled: Tensor = guesses * (size / guesses.norm(dim=1, keepdim=True).clamp_min(1e-300))
        return scaled

    def _windows(self, generator: torch.Generator) -> list[tuple[slice, slice]]:
        """Parts of a large input that are looked at; all of a small one."""
        channels, *sides = as_image(self.shape)
        wanted = self.samples // (channels * len(self.bank.stencils))
        if sides[0] * sides[1] <= wanted:
            return [(slice(None), slice(None))]
        cut = [min(side, _WINDOW) for side in sides]
        count = max(1, wanted // (cut[0] * cut[1]))
        corners = [
            torch.randint(side - part + 1, (count,), generator=generator, device=generator.device).tolist()
            for side, part in zip(sides, cut, strict=True)
        ]
        return [(slice(y, y + cut[0]), slice(x, x + cut[1])) for y, x in zip(*corners, strict=True)]

    def _filtered(self, images: Tensor, windows: list[tuple[slice, slice]]) -> Tensor | None:
        pixels = images.reshape(len(images), *as_image(self.shape))
        parts = [pixels[:, :, down, across] for down, across in windows]
        answers = [self.bank(part.flatten(1), tuple(part.shape[1:])) for part in parts]
        fitting = [answer for answer in answers if answer is not None]
        return torch.stack(fitting, dim=1) if fitting else None


def _count_new(mixture: Mixture, found: Found, directions: Tensor) -> int:
    """How many different ones of ``directions [k, b]`` vanish on enough units and are not found yet."""
    zeros = zero_mask(mixture.L, directions, zero_tol=mixture.loose_tol).sum(dim=1)
    new = merge_directions(directions[zeros >= mixture.least_zeros], found.directions, coherence=_SAME)
    return int(new.sum())


@dataclass(slots=True, kw_only=True)
class Continued:
    """Guesses of an :class:`Unmixing`, each time from where the last ended, in what is left; each call is one turn."""

    way: Unmixing
    _last: Tensor | None = field(default=None, init=False)

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator) -> Tensor:
        """``[k, b]`` rough inputs, up to sign."""
        missing = mixture.batch_size - len(found)
        progress = self._last is not None and missing < len(self._last)
        steps = _MORE_STEPS if progress else _STEPS
        self._last = self.way.guess(mixture, found, generator, steps=steps, start=self._last)
        return self._last


def _still_missing(guesses: Tensor, basis: Tensor) -> Tensor:
    """``[k, k]``: those of ``guesses [k', b]`` that lie most in ``basis [k, b]``, in its coordinates."""
    inside = guesses @ basis.T
    share = inside.norm(dim=1) / guesses.norm(dim=1).clamp_min(1e-300)
    return inside[share.argsort(descending=True)[: len(basis)]]
