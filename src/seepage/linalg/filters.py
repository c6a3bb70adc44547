"""Linear filters under which natural images and signals are sparse; linear, so they commute with any mixing.

A filter is a small stencil of one or two dimensions; it is applied to every channel (or difference of channels) alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["FILTER_BANKS", "FilterBank"]

_ACROSS, _DOWN = ((-1.0, 1.0),), ((-1.0,), (1.0,))
_BEND_ACROSS, _BEND_DOWN = ((-1.0, 2.0, -1.0),), ((-1.0,), (2.0,), (-1.0,))
_TWIST = ((1.0, -1.0), (-1.0, 1.0))
_FALLING, _RISING = ((1.0, 0.0), (0.0, -1.0)), ((0.0, 1.0), (-1.0, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterBank:
    """Some stencils, each of unit length, whose answers are laid side by side.

    Args:
        name: as it stands in ``stats``.
        stencils: two-dimensional ones; of a one-dimensional signal those of height one are used.
        spacing: pixels from one entry of a stencil to the next: the scale.
        opponent: take differences of channels and their sum first.
    """

    name: str
    stencils: tuple[tuple[tuple[float, ...], ...], ...]
    spacing: int = 1
    opponent: bool = False

    def __call__(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """``rows [k, n]`` read as arrays of ``shape`` (``[c, h, w]``, ``[c, l]`` or ``[l]``) and filtered, ``[k, N]``.

        Returns:
            ``None`` if no stencil fits into the shape.
        """
        channels, height, width = (1,) * (3 - len(shape)) + shape if len(shape) < 3 else shape
        if len(shape) == 2:
            channels, height, width = shape[0], 1, shape[1]
        images = rows.reshape(len(rows), channels, height, width)
        if self.opponent and channels > 1:
            images = torch.cat([images[:, 1:] - images[:, :-1], images.sum(dim=1, keepdim=True)], dim=1)
        flat = images.reshape(-1, 1, height, width)
        answers = []
        for stencil in self.stencils:
            kernel = torch.tensor(stencil, dtype=rows.dtype, device=rows.device)
            reach = [self.spacing * (size - 1) + 1 for size in kernel.shape]
            if reach[0] > height or reach[1] > width:
                continue
            answer = conv2d(flat, kernel[None, None], dilation=self.spacing).reshape(len(rows), -1)
            answers.append(answer / kernel.norm())
        return torch.cat(answers, dim=1) if answers else None


# From the most to the least telling on CIFAR-10 (benchmarks/results/prism.md).
FILTER_BANKS = (
    FilterBank(name="bend and twist", stencils=(_BEND_ACROSS, _BEND_DOWN, _TWIST)),
    FilterBank(name="slope and bend", stencils=(_ACROSS, _DOWN, _BEND_ACROSS, _BEND_DOWN)),
    FilterBank(name="slope and twist", stencils=(_ACROSS, _DOWN, _TWIST)),
    FilterBank(name="diagonal", stencils=(_FALLING, _RISING)),
    FilterBank(name="colour", stencils=(_ACROSS, _DOWN, _TWIST), opponent=True),
    FilterBank(name="coarse bend and twist", stencils=(_BEND_ACROSS, _BEND_DOWN, _TWIST), spacing=2),
)
