"""A generator of its own for each batch and purpose: what one draws never moves another."""

from typing import Literal, get_args

import numpy as np
import torch

__all__ = ["Purpose", "chance"]

Purpose = Literal["data", "client", "attack"]


def chance(seed: int, index: int, purpose: Purpose) -> torch.Generator:
    """All chance of one purpose in batch ``index`` of a run with this seed."""
    key = (index, get_args(Purpose).index(purpose))
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
