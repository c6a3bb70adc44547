"""Updates: what they refuse, and what they share."""

import math

import pytest
import torch

from seepage.errors import InputError
from seepage.types import GradientUpdate


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 1234, 2999])
def test_one_entry_that_is_not_finite_is_found(value: float, dtype: torch.dtype, place: int) -> None:
    tensor = torch.linspace(-1, 1, 3000, dtype=dtype)
    tensor[place] = value
    with pytest.raises(InputError, match="`weight` should be finite"):
        GradientUpdate({"weight": tensor.reshape(50, 60)})


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="`weight` should be a floating-point tensor"):
        GradientUpdate({"weight": torch.ones(3, dtype=torch.int64)})


def test_tensors_are_cloned_once_and_shared_from_then_on() -> None:
    own = torch.ones(3)
    update = GradientUpdate({"weight": own, "bias": torch.zeros(0)})
    own.zero_()
    assert bool((update["weight"] == 1).all())
    assert GradientUpdate(update)["weight"] is update["weight"]
    part = update.only({"weight", "elsewhere"})
    assert list(part) == ["weight"]
    assert part["weight"] is update["weight"]
    assert list(update) == ["weight", "bias"]
