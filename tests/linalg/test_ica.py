"""Unmixing of planted heavy-tailed sources, and the filters that make images heavy-tailed."""

import pytest
import torch
from torch import Tensor

from seepage.linalg.filters import FILTER_BANKS, FilterBank
from seepage.linalg.ica import Contrast, SoftSign, Tanh, unmix


def mixed(k: int, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mixtures ``[k, N]`` of Laplace sources, and the sources."""
    draw = torch.Generator().manual_seed(seed)
    uniform = torch.rand(k, samples, generator=draw, dtype=torch.float64) - 0.5
    sources = -uniform.sign() * (1 - 2 * uniform.abs()).clamp_min(1e-12).log()
    return torch.randn(k, k, generator=draw, dtype=torch.float64) @ sources, sources


@pytest.mark.parametrize("contrast", [Tanh(), SoftSign()])
@pytest.mark.parametrize("symmetric", [True, False])
def test_sources_are_unmixed_up_to_order_scale_and_sign(contrast: Contrast, symmetric: bool) -> None:
    S, sources = mixed(6, 20_000)
    generator = torch.Generator().manual_seed(1)
    found = unmix(S, contrast=contrast, generator=generator, symmetric=symmetric) @ S
    correlation = torch.corrcoef(torch.cat([found, sources]))[:6, 6:].abs()
    assert float(correlation.max(dim=1).values.min()) > 0.98
    assert sorted(correlation.argmax(dim=1).tolist()) == list(range(6))


def test_a_seed_decides_the_unmixing() -> None:
    S, _ = mixed(5, 2000)
    one, other = (unmix(S, contrast=Tanh(), generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, other)


def test_nothing_to_unmix_is_not_an_error() -> None:
    assert unmix(torch.ones(1, 50), contrast=Tanh(), generator=torch.Generator().manual_seed(0)).shape == (1, 1)


@pytest.mark.parametrize("bank", FILTER_BANKS, ids=lambda bank: bank.name)
@pytest.mark.parametrize("shape", [(3, 12, 10), (1, 8, 8), (2, 40)])
def test_filters_commute_with_mixing(bank: FilterBank, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(4, torch.Size(shape).numel(), generator=draw, dtype=torch.float64)
    mixing = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    filtered, of_mixed = bank(rows, shape), bank(mixing @ rows, shape)
    assert (filtered is None) == (of_mixed is None)
    if filtered is not None and of_mixed is not None:
        torch.testing.assert_close(mixing @ filtered, of_mixed)


def test_a_slope_is_the_difference_of_neighbours() -> None:
    bank = FilterBank(name="slope", stencils=(((-1.0, 1.0),),))
    answer = bank(torch.tensor([[1.0, 4.0, 9.0]]), (1, 1, 3))
    assert answer is not None
    torch.testing.assert_close(answer * 2**0.5, torch.tensor([[3.0, 5.0]]))


def test_an_input_smaller_than_every_stencil_has_no_filtered_version() -> None:
    bank = FilterBank(name="twist", stencils=(((1.0, -1.0), (-1.0, 1.0)),))
    assert bank(torch.ones(2, 5), (1, 5)) is None
