"""Null directions of planted factors ``dZ^T = L Q`` with Bernoulli(1/2) zeros."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seepage.linalg.nullspace import (
    MOST_LEVERAGE,
    largest_leverage,
    merge_directions,
    sampled_null_directions,
    zero_mask,
)
from seepage.linalg.rounding import refine_directions, robust_null_directions

TOL = 1e-9
RANK_TOL = 1e-5


def planted(m: int, b: int, seed: int = 0, pattern: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``L [m, b]`` with unit rows, the true directions ``[b, b]``, and where they vanish ``[b, m]``."""
    draw = torch.Generator().manual_seed(seed)
    errors = torch.randn(m, b, generator=draw, dtype=torch.float64)
    if pattern is None:
        pattern = torch.rand(m, b, generator=draw) < 0.5
    errors = errors * pattern
    kept = pattern.any(dim=1)
    Q = torch.linalg.qr(torch.randn(b, b, generator=draw, dtype=torch.float64)).Q
    Q = Q @ torch.diag(0.5 + torch.rand(b, generator=draw, dtype=torch.float64))
    L = errors[kept] @ torch.linalg.inv(Q)
    return L / L.norm(dim=1, keepdim=True), (Q / Q.norm(dim=0)).T, ~pattern[kept].T


def normalized(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def assert_same_directions(found: Tensor, wanted: Tensor, tol: float) -> None:
    cosine = (found * wanted).sum(dim=1).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=tol, rtol=0)


@settings(max_examples=20, deadline=None)
@given(b=st.integers(2, 12), seed=st.integers(0, 99))
def test_sampled_directions_annihilate_as_many_rows_as_were_drawn(b: int, seed: int) -> None:
    L = normalized(torch.randn(60, b, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    found = sampled_null_directions(L, count=50, generator=torch.Generator().manual_seed(seed))
    assert 0 < len(found) <= 50
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found), dtype=torch.float64))
    smallest = (found @ L.T).abs().sort(dim=1).values[:, : b - 1]
    assert float(smallest.max()) < 1e-8


def test_sampled_directions_meet_the_true_ones() -> None:
    L, truth, _ = planted(100, 5)
    found = sampled_null_directions(L, count=2000, generator=torch.Generator().manual_seed(0))
    cosine = (found @ truth.T).abs().max(dim=0).values
    assert bool((cosine > 1 - 1e-9).all())


def test_one_example_has_one_direction() -> None:
    found = sampled_null_directions(torch.ones(9, 1), count=5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, torch.ones(1, 1))


def test_singular_sets_of_rows_are_left_out() -> None:
    found = sampled_null_directions(torch.ones(9, 4), count=5, generator=torch.Generator().manual_seed(0))
    assert found.shape == (0, 4)


@settings(max_examples=20, deadline=None)
@given(b=st.integers(1, 10), seed=st.integers(0, 99))
def test_the_mask_shows_the_planted_zeros(b: int, seed: int) -> None:
    L, truth, zeros = planted(80, b, seed)
    assert zero_mask(L, truth, zero_tol=TOL).equal(zeros)


def test_the_robust_kernel_ignores_outliers() -> None:
    L, truth, zeros = planted(200, 6)
    draw = torch.Generator().manual_seed(3)
    believed = zeros | (torch.rand(zeros.shape, generator=draw) < 0.1)
    assert bool((believed & ~zeros).any(dim=1).all())
    assert_same_directions(robust_null_directions(L, believed), truth, 1e-9)


def test_refinement_rounds_to_machine_precision() -> None:
    L, truth, _ = planted(200, 6)
    draw = torch.Generator().manual_seed(3)
    rough = normalized(truth + 1e-6 * torch.randn(truth.shape, generator=draw, dtype=torch.float64))
    assert_same_directions(refine_directions(L, rough, zero_tol=1e-4), truth, 1e-14)


def test_merging_drops_copies_of_either_sign() -> None:
    one = normalized(torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    fresh = merge_directions(torch.cat([one, -one[:2], one[3:]]), one[1:2], coherence=1 - 1e-9)
    assert fresh.tolist() == [True, False, True, True, False, False, False]


def test_merging_keeps_nearly_parallel_directions_that_are_no_copies() -> None:
    one = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    near = normalized(torch.tensor([[1.0, 1e-3, 0.0], [1.0, 0.0, 1e-3]], dtype=torch.float64))
    assert merge_directions(near, one, coherence=1 - 1e-9).tolist() == [True, True]


@settings(max_examples=20, deadline=None)
@given(b=st.integers(2, 10), seed=st.integers(0, 99))
def test_true_columns_are_pinned(b: int, seed: int) -> None:
    L, _, zeros = planted(200, b, seed)
    assert bool(pinned(L, zeros, rank_tol=RANK_TOL).all())


def pinned(L: Tensor, zeros: Tensor, *, rank_tol: float) -> Tensor:
    return largest_leverage(L, zeros, rank_tol=rank_tol) <= MOST_LEVERAGE


def combined(L: Tensor, truth: Tensor, parts: list[int], seed: int = 0, accidents: int = 0) -> Tensor:
    """Zeros ``[1, m]`` of a combination of true columns that vanishes by accident on ``accidents`` more rows."""
    values = truth[parts] @ L.T  # [t, m]
    weights = torch.randn(len(parts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if accidents:
        rows = (values != 0).logical_and(values.abs() > 1e-6).all(dim=0).nonzero().flatten()[:accidents]
        weights = torch.linalg.svd(values[:, rows].T, full_matrices=True).Vh[-1]
    return zero_mask(L, normalized((weights @ truth[parts])[None]), zero_tol=TOL)


@settings(max_examples=30, deadline=None)
@given(b=st.integers(4, 9), t=st.integers(2, 3), accidental=st.booleans(), seed=st.integers(0, 99))
def test_a_combination_of_examples_is_not_pinned(b: int, t: int, accidental: bool, seed: int) -> None:
    L, truth, _ = planted(200, b, seed)
    zeros = combined(L, truth, list(range(t)), seed, accidents=t - 1 if accidental else 0)
    assert not bool(pinned(L, zeros, rank_tol=RANK_TOL).any())


def test_a_pair_that_shares_almost_all_of_its_pattern_is_not_pinned() -> None:
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        pattern = torch.rand(200, 6, generator=draw) < 0.5
        pattern[:, 1] = pattern[:, 0]
        pattern[seed, 1] = ~pattern[seed, 0]
        L, truth, _ = planted(200, 6, seed, pattern)
        for accidents in (0, 1):
            zeros = combined(L, truth, [0, 1], seed, accidents)
            assert not bool(pinned(L, zeros, rank_tol=RANK_TOL).any())


def test_too_few_zeros_do_not_pin() -> None:
    L, _, zeros = planted(200, 6)
    few = zeros & (zeros.cumsum(dim=1) <= 5)
    assert not bool(pinned(L, few, rank_tol=RANK_TOL).any())


def test_zeros_that_two_examples_share_pin_neither() -> None:
    L, _, zeros = planted(200, 8)
    assert not bool(pinned(L, zeros[:1] & zeros[1:2], rank_tol=RANK_TOL).any())


def test_a_difference_with_one_accidental_zero_is_not_pinned_wherever_the_accident_is() -> None:
    L, truth, zeros = planted(400, 8)
    both_on = (~zeros[0] & ~zeros[1]).nonzero().flatten()
    for row in both_on[torch.randperm(len(both_on), generator=torch.Generator().manual_seed(4))[:20]]:
        ratio = (L[row] @ truth[0]) / (L[row] @ truth[1])
        accident = zero_mask(L, normalized((truth[0] - ratio * truth[1])[None]), zero_tol=TOL)
        assert bool(accident[0, row])
        assert not bool(pinned(L, accident, rank_tol=RANK_TOL).any())


def test_refined_directions_vanish_on_the_planted_rows_and_nowhere_else() -> None:
    L, truth, zeros = planted(200, 8)
    draw = torch.Generator().manual_seed(3)
    rough = normalized(truth + 1e-6 * torch.randn(truth.shape, generator=draw, dtype=torch.float64))
    assert zero_mask(L, refine_directions(L, rough, zero_tol=1e-4), zero_tol=TOL).equal(zeros)
