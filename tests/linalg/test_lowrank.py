"""Numerical rank and two-sided factors on matrices of known rank."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seepage.linalg.lowrank import LowRank, low_rank_factors, numerical_rank


def planted(m: int, n: int, rank: int, *, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """``[m, n]`` of the given rank, computed in ``dtype`` as a gradient is: a product of two factors."""
    draw = torch.Generator().manual_seed(seed)
    left = torch.randn(m, rank, generator=draw, dtype=torch.float64).to(dtype)
    return left @ torch.randn(rank, n, generator=draw, dtype=torch.float64).to(dtype)


def factor(matrix: Tensor, start_rank: int = 64) -> LowRank | None:
    return low_rank_factors(matrix, generator=torch.Generator().manual_seed(1), start_rank=start_rank)


def assert_rank_is(matrix: Tensor, rank: int) -> None:
    found = factor(matrix)
    assert found is not None
    assert found.rank == rank


def assert_factors_rebuild(matrix: Tensor, rel: float) -> None:
    found = factor(matrix)
    assert found is not None
    rebuilt = found.left @ torch.diag(found.singular) @ found.right
    assert float((rebuilt - matrix.double()).norm() / matrix.double().norm()) < rel


def assert_factors_are_orthonormal(matrix: Tensor) -> None:
    found = factor(matrix)
    assert found is not None
    eye = torch.eye(found.rank, dtype=torch.float64)
    torch.testing.assert_close(found.left.T @ found.left, eye, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.right @ found.right.T, eye, atol=1e-10, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    rank=st.integers(1, 30),
    wide=st.integers(40, 300),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_the_planted_rank_is_found(rank: int, wide: int, dtype: torch.dtype, seed: int) -> None:
    matrix = planted(40, wide, rank, dtype=dtype, seed=seed)
    assert_rank_is(matrix, rank)
    assert_factors_are_orthonormal(matrix)
    assert_factors_rebuild(matrix, 1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rank_is_found_at_wide_sizes(dtype: torch.dtype) -> None:
    assert_rank_is(planted(100, 50_000, 12, dtype=dtype), 12)


def test_a_sketch_that_is_too_narrow_grows() -> None:
    found = factor(planted(80, 200, 30, dtype=torch.float32), start_rank=4)
    assert found is not None
    assert found.rank == 30


def test_equal_columns_are_not_taken_for_a_second_drop() -> None:
    matrix = planted(60, 64, 8, dtype=torch.float32)
    matrix[:, 20:40] = matrix[:, :1]
    matrix[:, 40:] = 0
    assert_rank_is(matrix, 8)


def test_exact_cancellation_is_not_taken_for_a_second_drop() -> None:
    eps = torch.finfo(torch.float32).eps
    singular = torch.tensor([1.0, 0.3, 0.1, eps, 0.5 * eps, 0.2 * eps, 1e-20, 0.0], dtype=torch.float64)
    assert numerical_rank(singular, eps) == 3


@pytest.mark.parametrize("faintest", [1e-1, 1e-3])
def test_a_faint_example_counts(faintest: float) -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(60, 6, generator=draw), torch.randn(6, 200, generator=draw)
    left[:, 5] *= faintest
    assert_rank_is(left @ right, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_rank_noise_has_no_rank(dtype: torch.dtype) -> None:
    assert factor(torch.randn(40, 100, generator=torch.Generator().manual_seed(0), dtype=dtype)) is None


def test_a_zero_matrix_has_no_rank() -> None:
    assert factor(torch.zeros(10, 20)) is None


def test_the_factors_of_a_seed_are_the_same() -> None:
    matrix = planted(40, 90, 5, dtype=torch.float32)
    one, other = factor(matrix), factor(matrix)
    assert one is not None
    assert other is not None
    assert torch.equal(one.left, other.left)


def test_the_sketch_adds_nothing_to_rounding() -> None:
    draw = torch.Generator().manual_seed(3)
    left = torch.randn(300, 8, generator=draw, dtype=torch.float64) * torch.logspace(0, -3, 8, dtype=torch.float64)
    exact = left @ torch.randn(8, 4000, generator=draw, dtype=torch.float64)
    sigma = 1e-7
    found = factor((exact + sigma * torch.randn(300, 4000, generator=draw, dtype=torch.float64)).float(), start_rank=16)
    assert found is not None
    assert found.rank == 8
    coordinates = found.left.T @ left  # [8, 8]: columns of left in the basis found
    off = (found.left @ coordinates - left).square().mean(dim=0).sqrt()
    least = sigma * (coordinates / found.singular[:, None]).norm(dim=0)
    assert bool((off < 2 * least).all())
