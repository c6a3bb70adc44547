"""Small nonlinear least squares, many starts at once."""

import pytest
import torch
from torch import Tensor

from seepage.linalg.levenberg import levenberg_marquardt


def rosenbrock(p: Tensor) -> Tensor:
    return torch.stack([10 * (p[1] - p[0].square()), 1 - p[0]])


def test_every_start_comes_to_the_minimum() -> None:
    starts = 2 * torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points, lengths, _ = levenberg_marquardt(rosenbrock, starts, steps=200, tol=1e-9)
    torch.testing.assert_close(points, torch.ones_like(points), atol=1e-7, rtol=0)
    assert float(lengths.max()) < 1e-9


def test_the_chunk_changes_nothing_and_starts_do_not_touch_each_other() -> None:
    starts = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together, _, _ = levenberg_marquardt(rosenbrock, starts, steps=5, tol=1e-9, chunk=2)
    for start, point in zip(starts, together, strict=True):
        alone, _, _ = levenberg_marquardt(rosenbrock, start[None], steps=5, tol=1e-9)
        torch.testing.assert_close(alone[0], point)


def test_without_a_zero_it_ends_at_the_least_and_says_how_far_it_is() -> None:
    starts = torch.tensor([[3.0], [-2.0]], dtype=torch.float64)
    points, lengths, _ = levenberg_marquardt(lambda p: torch.cat([p, p - 2]), starts, steps=50, tol=1e-9)
    torch.testing.assert_close(points, torch.ones_like(points))
    torch.testing.assert_close(lengths, torch.full((2,), 2**0.5, dtype=torch.float64))


@pytest.mark.parametrize("start", [float("nan"), float("inf")])
def test_what_is_no_number_stays_where_it_is_and_harms_nobody(start: float) -> None:
    starts = torch.tensor([[start, 1.0], [0.5, 0.5]], dtype=torch.float64)
    points, lengths, _ = levenberg_marquardt(rosenbrock, starts, steps=200, tol=1e-9)
    assert not bool(lengths[0].isfinite())
    assert float(points[0, 1]) == 1.0
    torch.testing.assert_close(points[1], torch.ones(2, dtype=torch.float64), atol=1e-7, rtol=0)


def two_valleys(p: Tensor) -> Tensor:
    """Rosenbrock's, with a zero where the third coordinate is negative and high above zero where it is positive."""
    return torch.cat([rosenbrock(p[:2]), torch.where(p[2:] > 0, 30.0, 0.0)])


def test_starts_that_lead_nowhere_are_given_up_and_the_others_come_to_the_same_end() -> None:
    vain, well = [-1.0, 2.0, 1.0], [0.8, 0.6, -1.0]
    starts = torch.tensor([vain, vain, vain, well], dtype=torch.float64)
    patient = levenberg_marquardt(two_valleys, starts, steps=40, tol=1e-9)
    points, lengths, jacobians = levenberg_marquardt(two_valleys, starts, steps=40, tol=1e-9, halving=True)
    torch.testing.assert_close(points[3], patient[0][3])
    assert float(lengths[3]) < 1e-9
    assert bool((lengths[:3] >= 30).all())
    assert jacobians - 4 * 2 < (patient[2] - 4 * 2) // 2  # the first two steps are free


def test_no_step_is_begun_beyond_the_jacobians_granted() -> None:
    starts = 2 * torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *_, jacobians = levenberg_marquardt(rosenbrock, starts, steps=200, tol=1e-9, jacobians=20)
    assert 20 <= jacobians < 20 + len(starts)


def test_no_start_is_no_error() -> None:
    points, lengths, jacobians = levenberg_marquardt(rosenbrock, torch.zeros(0, 2), steps=5, tol=1e-9)
    assert (points.shape, lengths.shape, jacobians) == ((0, 2), (0,), 0)
