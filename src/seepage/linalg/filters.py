"""Linear filters under which natural images and signals are sparse; linear, so they commute with any mixing.

A filter is a small stencil of one or two dimensions; it is applied to every channel (or difference of channels) alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["FILTER_BANKS", "FilterBank", "as_image"]

_ACROSS, _DOWN = ((-1.0, 1.0),), ((-1.0,), (1.0,))
_BEND_ACROSS, _BEND_DOWN = ((-1.0, 2.0, -1.0),), ((-1.0,), (2.0,), (-1.0,))
_TWIST = ((1.0, -1.0), (-1.0, 1.0))
_FALLING, _RISING = ((1.0, 0.0), (0.0, -1.0)), ((0.0, 1.0), (-1.0, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterBank:
    """Some stencils, each of unit length, whose answers lie over each other.

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
        """``rows [k, n]`` read as arrays of ``shape`` (``[c, h, w]``, ``[c, l]`` or ``[l]``) and filtered.

        Returns:
            ``[k, stencils, c, h', w']``: the part of the array where all stencils that fit into it have an answer,
            each in the middle of what it looks at; ``None`` if none fits.
        """
        channels, height, width = as_image(shape)
        images = rows.reshape(len(rows), channels, height, width)
        if self.opponent and channels > 1:
            images = torch.cat([images[:, 1:] - images[:, :-1], images.sum(dim=1, keepdim=True)], dim=1)
        flat = images.reshape(-1, 1, height, width)
        kernels = [torch.tensor(stencil, dtype=rows.dtype, device=rows.device) for stencil in self.stencils]
        kernels = [one for one in kernels if self._reach(one)[0] <= height and self._reach(one)[1] <= width]
        if not kernels:
            return None
        least = [min(size - self._reach(one)[axis] + 1 for one in kernels) for axis, size in enumerate((height, width))]
        answers = []
        for kernel in kernels:
            answer = conv2d(flat, kernel[None, None], dilation=self.spacing)[:, 0] / kernel.norm()
            down, across = ((size - part) // 2 for size, part in zip(answer.shape[1:], least, strict=True))
            answers.append(answer[:, down : down + least[0], across : across + least[1]])
        return torch.stack(answers, dim=1).reshape(len(rows), -1, len(kernels), *least).transpose(1, 2)

    def _reach(self, kernel: Tensor) -> tuple[int, int]:
        """Pixels that a stencil looks at, down and across."""
        down, across = (self.spacing * (size - 1) + 1 for size in kernel.shape)
        return down, across


def as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of an input; a signal is an image of height one."""
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    channels, height, width = (1,) * (3 - len(shape)) + shape
    return channels, height, width


# From the most to the least telling on CIFAR-10 (benchmarks/results/prism.md).
FILTER_BANKS = (
    FilterBank(name="bend and twist", stencils=(_BEND_ACROSS, _BEND_DOWN, _TWIST)),
    FilterBank(name="slope and bend", stencils=(_ACROSS, _DOWN, _BEND_ACROSS, _BEND_DOWN)),
    FilterBank(name="slope and twist", stencils=(_ACROSS, _DOWN, _TWIST)),
    FilterBank(name="diagonal", stencils=(_FALLING, _RISING)),
    FilterBank(name="colour", stencils=(_ACROSS, _DOWN, _TWIST), opponent=True),
    FilterBank(name="coarse bend and twist", stencils=(_BEND_ACROSS, _BEND_DOWN, _TWIST), spacing=2),
)
