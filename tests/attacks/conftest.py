"""What tests of attacks share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seepage.types import Attack, Outcome, PrivateBatch, Reconstruction

Guessing = Callable[..., Attack]


@pytest.fixture(scope="session")
def guessing(plant: Callable[..., Attack]) -> Guessing:
    """Makes attacks that guess right up to noise: ``guessing(batch)``, ``noise`` in deviations, ``most`` of them."""

    def make(batch: PrivateBatch, *, noise: float = 0.5, most: int | None = None, stopped: str = "") -> Attack:
        draw = torch.Generator().manual_seed(5)
        rough: Tensor = batch.inputs + noise * batch.inputs.std() * torch.randn(batch.inputs.shape, generator=draw)
        result = Reconstruction(
            outcome=Outcome.APPROXIMATE,
            inputs=rough[:most],
            certified=torch.zeros(len(rough[:most]), dtype=torch.bool),
            reason="It is near.",
            stats={"stopped": stopped} if stopped else {},
        )
        return plant(returns=lambda: result)

    return make
