"""Rank and factors: matrices of known rank, one promise a test."""

import pytest
import torch

from seepage.linalg.lowrank import low_rank_factors, numerical_rank


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def low_rank(rows: int, columns: int, rank: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    left = torch.randn(rows, rank, generator=generator(seed), dtype=torch.float64)
    right = torch.randn(rank, columns, generator=generator(seed + 1), dtype=torch.float64)
    return (left @ right).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(40, 200, 1), (40, 200, 17), (200, 60, 30), (300, 5000, 100)])
def test_the_rank_is_found_and_the_factors_give_the_matrix_back(
    rows: int, columns: int, rank: int, dtype: torch.dtype
) -> None:
    matrix = low_rank(rows, columns, rank, dtype)
    factors = low_rank_factors(matrix, generator=generator())
    assert factors is not None
    assert factors.rank == rank
    rebuilt = factors.left @ (factors.singular[:, None] * factors.right)
    torch.testing.assert_close(rebuilt, matrix.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(factors.left.T @ factors.left, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(factors.right @ factors.right.T, torch.eye(rank, dtype=torch.float64))


def test_a_full_rank_matrix_has_no_factors() -> None:
    assert low_rank_factors(torch.randn(30, 80, generator=generator()), generator=generator()) is None


def test_columns_that_cancel_exactly_are_no_second_drop() -> None:
    singular = torch.tensor([1.0, 0.1, 1e-3, 2e-8, 1e-8, 8e-9, 3e-17, 1e-17], dtype=torch.float64)
    assert numerical_rank(singular, torch.finfo(torch.float32).eps) == 3


def test_an_ill_conditioned_signal_keeps_its_rank() -> None:
    singular = torch.tensor([1.0, 1e-2, 1e-4, 1e-6, 6e-9, 5e-9], dtype=torch.float64)
    assert numerical_rank(singular, torch.finfo(torch.float32).eps) == 4


def test_zero_and_flat_spectra_have_no_rank() -> None:
    assert numerical_rank(torch.zeros(4, dtype=torch.float64), 1e-7) is None
    assert numerical_rank(torch.ones(4, dtype=torch.float64), 1e-7) is None
