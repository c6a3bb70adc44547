"""Null directions of planted codes ``L = dZ^T Q^-1`` with Bernoulli(1/2) zeros, where the truth is known."""

import torch
from torch import Tensor

from seepage.linalg.nullspace import (
    merge_directions,
    pinned,
    sampled_null_directions,
    zero_mask,
)
from seepage.linalg.rounding import refine_directions, robust_null_directions


def planted(width: int, batch_size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """``L [m, b]`` with unit rows, true directions ``[b, b]``, and where they vanish ``[b, m]``."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randn(width, batch_size, generator=generator, dtype=torch.float64)
    off = torch.rand(width, batch_size, generator=generator) < 0.5
    mixing = torch.randn(batch_size, batch_size, generator=generator, dtype=torch.float64)
    rows = errors.masked_fill(off, 0.0) @ torch.linalg.inv(mixing)
    awake = rows.norm(dim=1) > 0
    directions = (mixing / mixing.norm(dim=0)).T
    return rows[awake] / rows[awake].norm(dim=1, keepdim=True), directions, off.T[:, awake]


def assert_same_directions(found: Tensor, true: Tensor) -> None:
    torch.testing.assert_close((found * true).sum(dim=1).abs(), torch.ones(len(true), dtype=torch.float64))


def test_sampled_directions_find_every_true_one() -> None:
    L, true, _ = planted(120, 6)
    drawn = sampled_null_directions(L, count=4000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(len(drawn), dtype=torch.float64))
    assert bool(((drawn @ true.T).abs() > 1 - 1e-9).any(dim=0).all())


def test_the_robust_direction_survives_rows_that_do_not_vanish() -> None:
    L, true, off = planted(300, 10)
    wrong = torch.rand(off.shape, generator=torch.Generator().manual_seed(2)) < 0.05
    assert_same_directions(robust_null_directions(L, off ^ wrong, rounds=30), true)


def test_refining_gives_machine_precision() -> None:
    L, true, off = planted(200, 8)
    noise = 1e-6 * torch.randn(true.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    refined = refine_directions(L, true + noise, zero_tol=1e-4)
    assert torch.equal(zero_mask(L, refined, zero_tol=1e-10), off)


def test_merging_keeps_parallel_directions_that_are_no_copies() -> None:
    one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    near = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    stacked = torch.stack([one, -one, near / near.norm()])
    assert merge_directions(stacked, stacked[:0], coherence=1 - 1e-9).tolist() == [True, False, True]
    assert merge_directions(stacked, -one[None], coherence=1 - 1e-9).tolist() == [False, False, True]


def test_true_directions_are_pinned_and_their_combinations_are_not() -> None:
    L, true, off = planted(200, 8)
    assert bool(pinned(L, off, rank_tol=1e-6).all())
    pairs = torch.stack([true[i] - c * true[j] for i, j, c in ((0, 1, 1.0), (2, 5, -0.3), (4, 6, 7.0))])
    assert not bool(pinned(L, zero_mask(L, pairs, zero_tol=1e-10), rank_tol=1e-6).any())


def test_a_combination_with_an_accidental_zero_is_not_pinned() -> None:
    L, true, off = planted(400, 8)
    generator = torch.Generator().manual_seed(4)
    both_on = (~off[0] & ~off[1]).nonzero().flatten()
    for row in both_on[torch.randperm(len(both_on), generator=generator)[:20]]:
        ratio = (L[row] @ true[0]) / (L[row] @ true[1])
        accident = (true[0] - ratio * true[1])[None]
        zeros = zero_mask(L, accident / accident.norm(), zero_tol=1e-10)
        assert bool(zeros[0, row])
        assert not bool(pinned(L, zeros, rank_tol=1e-6).any())


def test_two_examples_that_switch_on_the_same_units_are_not_pinned() -> None:
    L, _, off = planted(200, 8)
    shared = off[:1] & off[1:2]
    assert not bool(pinned(L, shared, rank_tol=1e-6).any())
