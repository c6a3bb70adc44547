"""Defenses that send fewer bits: signs, few levels, half precision."""

from dataclasses import dataclass

import torch

from seepage.federated.client import demand
from seepage.federated.noising import uniform
from seepage.federated.wording import write
from seepage.types import GradientUpdate

__all__ = ["Quantise", "RoundBF16", "RoundFP16", "Sign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Nothing but the sign of every entry: -1, 0 or 1 (signSGD, Bernstein et al., 2018)."""

    @property
    def name(self) -> str:
        """``sign``."""
        return "sign"

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The signs."""
        return GradientUpdate({name: value.sign() for name, value in update.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantise:
    """Every entry rounded at random to one of its two neighbours on a grid, without bias (QSGD, Alistarh et al., 2017).

    The grid of a tensor has ``2^(bits - 1) - 1`` equal steps from zero to its largest magnitude, on either side.

    Args:
        bits: of one entry, sign included; 2 to 16.
    """

    bits: int

    def __post_init__(self) -> None:
        demand("bits", self.bits, least=2, most=16)

    @property
    def name(self) -> str:
        """``quantise:bits=...``."""
        return write("quantise", self)

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:
        """The rounded update."""
        levels = 2 ** (self.bits - 1) - 1
        sent = {}
        for name, value in update.items():
            largest = value.abs().max() if value.numel() else value.sum()
            step = torch.where(largest > 0, largest / levels, 1.0)
            place = value.double() / step
            below = place.floor()
            up = uniform(value, generator) < place - below
            sent[name] = ((below + up).clamp(-levels, levels) * step).to(value.dtype)
        return GradientUpdate(sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFP16:
    """Rounded to half precision, and handed on in the dtype it had. Beyond 65504 it clamps."""

    @property
    def name(self) -> str:
        """``fp16``."""
        return "fp16"

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The rounded update."""
        most = torch.finfo(torch.float16).max
        return GradientUpdate(
            {name: value.clamp(-most, most).to(torch.float16).to(value.dtype) for name, value in update.items()}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundBF16:
    """Rounded to bfloat16, and handed on in the dtype it had."""

    @property
    def name(self) -> str:
        """``bf16``."""
        return "bf16"

    def __call__(self, update: GradientUpdate, generator: torch.Generator) -> GradientUpdate:  # noqa: ARG002
        """The rounded update."""
        return GradientUpdate({name: value.to(torch.bfloat16).to(value.dtype) for name, value in update.items()})
