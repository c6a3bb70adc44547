"""Least squares by products alone."""

import torch
from torch import Tensor

from seepage.linalg.leastsquares import least_squares


def case(rows: int, columns: int, condition: float) -> tuple[Tensor, Tensor]:
    """A matrix of that condition, and a right-hand side outside of its range."""
    chance = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, columns, generator=chance, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, columns, generator=chance, dtype=torch.float64)).Q
    sizes = torch.logspace(0, -torch.tensor(condition).log10().item(), columns, dtype=torch.float64)
    return (left * sizes) @ right, torch.randn(rows, generator=chance, dtype=torch.float64)


def test_it_solves_what_a_dense_solver_solves() -> None:
    matrix, target = case(60, 20, 100.0)
    found = least_squares(lambda x: matrix @ x, lambda r: matrix.T @ r, target, steps=500, tol=1e-12)
    torch.testing.assert_close(found, torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0])


def test_unknowns_may_have_any_shape() -> None:
    matrix, target = case(40, 12, 10.0)
    found = least_squares(
        lambda x: matrix @ x.flatten(), lambda r: (matrix.T @ r).reshape(3, 4), target, steps=200, tol=1e-12
    )
    torch.testing.assert_close(found.flatten(), torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0])


def test_it_stops_at_its_tolerance_and_at_its_steps() -> None:
    matrix, target = case(60, 20, 100.0)
    asked = []

    def product(x: Tensor) -> Tensor:
        asked.append(1)
        return matrix @ x

    found = least_squares(product, lambda r: matrix.T @ r, target, steps=500, tol=0.1)
    slope = matrix.T @ (target - matrix @ found)
    assert float(slope.norm()) <= 0.1 * float((matrix.T @ target).norm())
    assert len(asked) < 20
    asked.clear()
    least_squares(product, lambda r: matrix.T @ r, target, steps=3, tol=1e-12)
    assert len(asked) == 3


def test_told_to_stop_it_returns_what_it_has() -> None:
    matrix, target = case(60, 20, 100.0)
    turns = iter([True, True, False])
    found = least_squares(
        lambda x: matrix @ x, lambda r: matrix.T @ r, target, steps=500, tol=1e-12, goes_on=lambda: next(turns)
    )
    twice = least_squares(lambda x: matrix @ x, lambda r: matrix.T @ r, target, steps=2, tol=1e-12)
    assert torch.equal(found, twice)
    assert float((matrix @ found - target).norm()) < float(target.norm())


def test_nothing_to_fit_moves_nothing() -> None:
    matrix, _ = case(30, 5, 10.0)
    found = least_squares(lambda x: matrix @ x, lambda r: matrix.T @ r, torch.zeros(30).double(), steps=5, tol=1e-3)
    assert not bool(found.any())
