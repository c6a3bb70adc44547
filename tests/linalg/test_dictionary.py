"""Sparse directions of planted dictionaries, with every loss and optimizer."""

import pytest
import torch
from torch import Tensor

from seepage.linalg.dictionary import (
    L1,
    L4,
    Huber,
    LogCosh,
    LogSum,
    SparsityLoss,
    small_share,
    sparse_directions,
    whiten,
)
from seepage.linalg.sphere import FixedPoint, RiemannianAdam, SphereOptimizer, Subgradient


def planted(m: int, b: int, seed: int, density: float = 0.5) -> tuple[Tensor, Tensor]:
    """White samples ``[m, b]`` whose coordinates in some basis are zero half of the time, and that basis ``[b, b]``."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randn(m, b, generator=draw, dtype=torch.float64) * (torch.rand(m, b, generator=draw) < density)
    samples = whiten(codes @ torch.randn(b, b, generator=draw, dtype=torch.float64))
    basis = torch.linalg.lstsq(samples, codes).solution.T
    return samples, basis / basis.norm(dim=1, keepdim=True)


def hits(ends: Tensor, basis: Tensor) -> int:
    return int(((ends @ basis.T).abs().max(dim=1).values > 0.97).sum())


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [
        (LogCosh(), RiemannianAdam()),
        (LogSum(), RiemannianAdam()),
        (Huber(), RiemannianAdam()),
        (L1(), RiemannianAdam(steps=200)),
        (L1(), Subgradient()),
        (L4(), FixedPoint()),
    ],
)
def test_every_loss_finds_planted_directions(loss: SparsityLoss, optimizer: SphereOptimizer) -> None:
    samples, basis = planted(800, 8, seed=1)
    awake = samples.norm(dim=1) > 0.5
    ends = sparse_directions(samples, samples[awake][:60], loss=loss, optimizer=optimizer)
    torch.testing.assert_close(ends.norm(dim=1), torch.ones(60, dtype=torch.float64))
    assert hits(ends, basis) >= 30


def test_annealing_finds_more_than_l1_where_it_is_hard() -> None:
    samples, basis = planted(1000, 70, seed=0)
    starts = samples[:100]
    annealed = hits(sparse_directions(samples, starts, optimizer=RiemannianAdam(steps=200)), basis)
    plain = hits(sparse_directions(samples, starts, loss=L1(), optimizer=RiemannianAdam(steps=200)), basis)
    assert annealed > plain
    assert annealed >= 40


def test_gaussian_samples_have_no_sparse_direction() -> None:
    draw = torch.Generator().manual_seed(0)
    samples = whiten(torch.randn(1000, 20, generator=draw, dtype=torch.float64))
    ends = sparse_directions(samples, samples[:50])
    assert float(small_share(samples, ends).max()) < 0.3


def test_the_share_of_small_entries_is_the_sparsity_of_a_column() -> None:
    samples, basis = planted(2000, 10, seed=3)
    share = small_share(samples, basis)
    assert bool(((share > 0.45) & (share < 0.65)).all())


def test_descents_follow_the_dtype_and_leave_the_starts_alone() -> None:
    samples, _ = planted(300, 5, seed=0)
    starts = samples[:10].clone()
    ends = sparse_directions(samples.float(), starts)
    assert ends.dtype == torch.float32
    assert torch.equal(starts, samples[:10])


def test_whitening_refuses_samples_that_span_too_little() -> None:
    with pytest.raises(ValueError, match="`samples` should span 4 dimensions"):
        whiten(torch.ones(10, 4, dtype=torch.float64))
