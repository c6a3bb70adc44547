"""Conjugate gradients in whitened coordinates end where a Gram matrix for each direction does."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seepage.linalg.rounding import MANY_COLUMNS, least_directions, refine_directions, robust_null_directions
from seepage.linalg.whitened import Whitened


def planted(m: int, b: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``L [m, b]``, and ``[b, b]`` unit directions, each zero on about half of its rows."""
    draw = torch.Generator().manual_seed(seed)
    errors = torch.randn(m, b, generator=draw, dtype=torch.float64)
    errors *= torch.rand(m, b, generator=draw) < 0.5
    mixing = torch.randn(b, b, generator=draw, dtype=torch.float64)
    L = errors @ torch.linalg.inv(mixing)
    return normalize(L, dim=1), normalize(mixing.T, dim=1)


def test_whitened_rows_see_every_direction_alike() -> None:
    L, _ = planted(90, 20)
    whitened = Whitened.of(L)
    torch.testing.assert_close(whitened.rows.T @ whitened.rows, torch.eye(20, dtype=torch.float64))
    torch.testing.assert_close(whitened.rows @ whitened.root, L)


def test_descending_again_and_again_ends_at_the_least_direction() -> None:
    L, truth = planted(200, 20)
    draw = torch.Generator().manual_seed(1)
    weights = torch.rand(20, 200, generator=draw, dtype=torch.float64)
    starts = normalize(truth + 0.02 * torch.randn(20, 20, generator=draw, dtype=torch.float64), dim=1)
    weights *= (truth @ L.T).abs() < 1e-9  # only rows that vanish
    found, left = Whitened.of(L).descend(weights, starts)
    assert float(left.max()) < 1e-9
    best = least_directions(L, weights, starts)
    torch.testing.assert_close((found * best).sum(dim=1).abs(), torch.ones(20, dtype=torch.float64))


def test_no_direction_and_a_singular_matrix_are_no_error() -> None:
    L, truth = planted(60, 8)
    assert Whitened.of(L).descend(L.new_zeros(0, 60), truth[:0])[0].shape == (0, 8)
    L[:, 7] = L[:, 6]
    found, _ = Whitened.of(L).descend(torch.ones(3, 60, dtype=torch.float64), truth[:3])
    assert bool(found.isfinite().all())


def test_many_columns_are_rounded_and_refined_as_few_are() -> None:
    b = MANY_COLUMNS + 2
    L, truth = planted(6 * b, b)
    draw = torch.Generator().manual_seed(4)
    zero = (truth @ L.T).abs() < 1e-9
    believed = zero ^ (torch.rand(zero.shape, generator=draw) < 0.08)  # some rows wrongly
    rough = robust_null_directions(L, believed[:40])
    right = (rough * truth[:40]).sum(dim=1).abs() > 1 - 1e-6
    assert int(right.sum()) >= 38  # as many as with a Gram matrix for each
    near = normalize(truth[:6] + 1e-7 * torch.randn(6, b, generator=draw, dtype=torch.float64), dim=1)
    exact = refine_directions(L, near, zero_tol=1e-4)
    assert float((exact @ L.T).abs()[zero[:6]].max()) < 1e-12
