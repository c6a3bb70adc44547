"""Scores agree with independent oracles; NaN never scores well and never crashes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from seepage.errors import InputError
from seepage.metrics import exact_images, exact_numbers, match, psnr, ssim

BAD = [torch.nan, torch.inf, -torch.inf]


def pair(*shape: int, noise: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    originals = torch.rand(shape, generator=generator)
    return (originals + noise * torch.randn(shape, generator=generator)).clamp(0, 1), originals


@pytest.mark.parametrize("shape", [(4, 3, 16, 16), (4, 1, 8, 8), (4, 20)])
@pytest.mark.parametrize("data_range", [1.0, 2.5])
def test_psnr_agrees_with_skimage(shape: tuple[int, ...], data_range: float) -> None:
    found, originals = pair(*shape)
    expected = [
        peak_signal_noise_ratio(o.double().numpy(), r.double().numpy(), data_range=data_range)
        for r, o in zip(found, originals, strict=True)
    ]
    assert psnr(found, originals, data_range=data_range).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(40, 3, 16, 16), (2, 1, 28, 20), (2, 3, 11, 11), (2, 1, 8, 8), (2, 1, 3, 9)])
def test_ssim_agrees_with_skimage_on_mirrored_borders(shape: tuple[int, ...]) -> None:
    found, originals = pair(*shape)
    radius = min(5, (min(shape[2:]) - 1) // 2)
    expected = []
    for arrays in zip(originals.double().numpy(), found.double().numpy(), strict=True):
        border = ((0, 0), (radius, radius), (radius, radius))  # skimage leaves the outermost radius out of its mean
        padded = [np.pad(array, border, mode="reflect") for array in arrays]
        expected.append(
            structural_similarity(
                *padded,
                data_range=1.0,
                channel_axis=0,
                gaussian_weights=True,
                sigma=0.3 * radius,
                use_sample_covariance=False,
            )
        )
    values = ssim(found, originals)
    assert values is not None
    assert values.tolist() == pytest.approx(expected, abs=1e-4)


def test_identical_examples_score_perfectly() -> None:
    _, originals = pair(3, 3, 12, 12)
    assert psnr(originals, originals).isposinf().all()
    values = ssim(originals, originals)
    assert values is not None
    torch.testing.assert_close(values, torch.ones(3).double())
    assert exact_images(originals, originals).all()
    assert exact_numbers(originals, originals, data_range=1.0).all()


def test_ssim_is_for_images_only() -> None:
    assert ssim(torch.rand(3, 20), torch.rand(3, 20)) is None
    assert ssim(torch.rand(3, 1, 2, 9), torch.rand(3, 1, 2, 9)) is None


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["reconstruction", "original", "both"])
def test_no_score_is_good_where_a_value_is_not_finite(bad: float, where: str) -> None:
    _, originals = pair(3, 1, 12, 12)
    found, truth = originals.clone(), originals.clone()
    if where != "original":
        found[1, 0, 2, 2] = bad
    if where != "reconstruction":
        truth[1, 0, 2, 2] = bad
    assert psnr(found, truth).tolist() == [torch.inf, -torch.inf, torch.inf]
    assert exact_images(found, truth).tolist() == [True, False, True]
    assert exact_numbers(found, truth, data_range=1.0).tolist() == [True, False, True]
    values = ssim(found, truth)
    assert values is not None
    assert values.tolist() == pytest.approx([1, -1, 1])
    assert match(found, truth).tolist() == [0, -1, 2]


@pytest.mark.parametrize("huge", [1e30, 3e38, 1e300])
def test_huge_values_neither_crash_nor_score(huge: float) -> None:
    found = torch.full((2, 1, 12, 12), huge, dtype=torch.float64)
    originals = torch.rand(2, 1, 12, 12).double()
    assert (psnr(found, originals) < -500).all()
    assert not exact_images(found, originals).any()
    values = ssim(found, originals)
    assert values is not None
    assert (values < 0.1).all()
    assert sorted(match(found, originals).tolist()) == [0, 1]


def test_exact_images_means_the_same_eight_bits() -> None:
    originals = torch.tensor([[0.0, 128 / 255], [1.0, 3 / 255], [0.5, 0.5]])
    found = torch.tensor([[-0.5, 128.4 / 255], [7.0, 3.6 / 255], [0.5, 0.5]])
    assert exact_images(found, originals).tolist() == [True, False, True]


def test_exact_numbers_needs_the_decibels() -> None:
    originals = torch.zeros(2, 4)
    found = torch.tensor([[3e-5] * 4, [4e-5] * 4])
    assert exact_numbers(found, originals, data_range=1.0).tolist() == [True, False]
    assert exact_numbers(found, originals, data_range=1.0, least_psnr=80).tolist() == [True, True]


@pytest.mark.parametrize("shape", [(0, 3, 12, 12), (0, 5)])
def test_no_examples_give_no_scores(shape: tuple[int, ...]) -> None:
    empty = torch.zeros(shape)
    assert psnr(empty, empty).shape == (0,)
    assert exact_images(empty, empty).shape == (0,)
    assert exact_numbers(empty, empty, data_range=1.0).shape == (0,)
    assert match(empty, empty).shape == (0,)
    assert match(empty, torch.zeros(3, *shape[1:])).tolist() == [-1] * 3


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape of the originals, \[2, 4\]; found \[2, 3\]"):
        psnr(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(InputError, match="`data_range` should be positive"):
        psnr(torch.zeros(2, 3), torch.zeros(2, 3), data_range=0)
    with pytest.raises(InputError, match="examples of shape"):
        match(torch.zeros(2, 3), torch.zeros(2, 4))


@given(examples=st.integers(1, 5), found=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_match_has_the_least_total_squared_distance(examples: int, found: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    originals = torch.randn(examples, 2, 2, generator=generator)
    reconstructions = torch.randn(found, 2, 2, generator=generator)
    cost = (originals[:, None] - reconstructions[None]).square().sum((2, 3)).double()
    rows = match(reconstructions, originals)
    matched = [(left, int(right)) for left, right in enumerate(rows) if right >= 0]
    assert len(matched) == len({right for _, right in matched}) == min(examples, found)
    if examples <= found:
        options = ([*enumerate(p)] for p in itertools.permutations(range(found), examples))
    else:
        options = (
            [(left, right) for right, left in enumerate(p)] for p in itertools.permutations(range(examples), found)
        )
    best = min(sum(float(cost[pair]) for pair in option) for option in options)
    assert sum(float(cost[pair]) for pair in matched) == pytest.approx(best, rel=1e-5, abs=1e-6)


@given(st.permutations(range(8)))
def test_match_undoes_a_permutation_beside_diverged_reconstructions(order: list[int]) -> None:
    found, originals = pair(8, 1, 4, 4, noise=0.01)
    reconstructions = torch.cat([torch.full((2, 1, 4, 4), 1e30), found[order], torch.full((1, 1, 4, 4), torch.nan)])
    assert match(reconstructions, originals).tolist() == [order.index(k) + 2 for k in range(8)]
    lost = reconstructions.clone()
    lost[2 + order.index(0)] = 1e30
    assert match(lost[1:], originals).tolist()[1:] == [order.index(k) + 1 for k in range(1, 8)]


def test_a_wild_reconstruction_does_not_take_an_original_from_its_copy() -> None:
    originals = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = torch.tensor([[100.0, 0.0], [1.0, 0.0]])  # the least total would swap them
    assert match(found, originals).tolist() == [1, 0]
    assert match(found[:1], originals).tolist() == [0, -1]


def test_a_duplicated_example_leaves_one_trace() -> None:
    originals = torch.tensor([[0.0, 1.0], [5.0, 5.0], [0.0, 1.0], [0.0, 1.0], [9.0, 9.0]])
    assert match(torch.tensor([[5.0, 5.0], [0.0, 1.0]]), originals).tolist() == [1, 0, 1, 1, -1]


def test_match_leaves_its_arguments_alone() -> None:
    found, originals = pair(4, 3)
    before = found.clone(), originals.clone()
    match(found, originals)
    assert torch.equal(found, before[0])
    assert torch.equal(originals, before[1])
