"""The affine map between what a file holds and what a network sees."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.errors import InputError

__all__ = ["Normalization", "make_normalization"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Normalization:
    """Affine map per channel (images) or per feature (tables): network value = (raw - mean) / std.

    Args:
        name: ``channel``, ``none``, or the text that gave the numbers.
        mean: broadcastable to one input's shape, for example ``[c, 1, 1]``.
        std: the same shape, positive; 1 where a channel is constant.
    """

    name: str
    mean: Tensor
    std: Tensor

    def apply(self, inputs: Tensor) -> Tensor:
        """What the network sees of raw ``inputs [b, *shape]`` in [0, 1]; same shape, dtype and device."""
        return (inputs - self.mean.to(inputs)) / self.std.to(inputs)

    def invert(self, inputs: Tensor) -> Tensor:
        """The raw values ``[b, *shape]`` behind what a network sees; not clamped to [0, 1]."""
        return inputs * self.std.to(inputs) + self.mean.to(inputs)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """What the network sees of raw 0 and of raw 1, each broadcastable to one input's shape."""
        return self.apply(torch.zeros_like(self.mean)), self.apply(torch.ones_like(self.mean))


def make_normalization(text: str, inputs: Tensor) -> Normalization:
    """The normalization that ``text`` names, over raw ``inputs [N, *shape]``.

    Args:
        text: ``channel`` (mean and deviation of each channel or feature over all inputs), ``none``, or numbers
            ``M1,M2,M3:S1,S2,S3``: one mean and one deviation for each channel or feature, or one for all.
        inputs: ``[N, c, h, w]`` or ``[N, f]``.

    Raises:
        InputError: the text is none of these, has the wrong count of numbers, or a deviation is not positive.
    """
    channels = inputs.shape[1]
    shape = (channels, *(1 for _ in inputs.shape[2:]))
    if text == "none":
        mean, std = torch.zeros(channels), torch.ones(channels)
    elif text == "channel":
        mean, std = _statistics(inputs)
    else:
        mean, std = _parse(text, channels)
    return Normalization(name=text, mean=mean.reshape(shape), std=std.reshape(shape))


def _statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[c]``, one channel at a time: float64 of everything at once would not fit for large sets."""
    means, stds = [], []
    for channel in range(inputs.shape[1]):
        values = inputs[:, channel]
        constant = bool(values.min() == values.max())
        std, mean = torch.std_mean(values.double(), correction=0)
        means.append(mean)
        stds.append(torch.ones_like(std) if constant else std)
    return torch.stack(means).to(inputs.dtype), torch.stack(stds).to(inputs.dtype)


def _parse(text: str, channels: int) -> tuple[Tensor, Tensor]:
    sides = text.split(":")
    many = "one number" if channels == 1 else f"1 or {channels} numbers"
    expected = f"`normalize` should be `channel`, `none` or `M1,..:S1,..` with {many} on each side"
    try:
        numbers = [[float(number) for number in side.split(",")] for side in sides]
    except ValueError as error:
        raise InputError(f"{expected}; found `{text}`.") from error
    if len(numbers) != 2 or any(len(side) not in {1, channels} for side in numbers):
        raise InputError(f"{expected}; found `{text}`.")
    if not all(math.isfinite(number) for side in numbers for number in side) or min(numbers[1]) <= 0:
        raise InputError(f"`normalize` should hold finite means and positive deviations; found `{text}`.")
    mean, std = (torch.tensor(side, dtype=torch.float32).expand(channels) for side in numbers)
    return mean, std
