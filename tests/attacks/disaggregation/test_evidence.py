"""The certificate, fact by fact, and what it must refuse."""

import torch

from seepage.attacks.disaggregation.certificate import agree, undisturbed
from seepage.linalg.nullspace import zero_mask


def test_agreement_asks_for_every_unit() -> None:
    heights = torch.randn(3, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = torch.where(heights > 0, torch.ones_like(heights), 0.0)
    unexplained, silent = errors.clone(), errors.clone()
    unexplained[0, int((heights[0] < -0.5).nonzero()[0])] = 1.0
    silent[1, (heights[1] > 0.5).nonzero().flatten()[:2]] = 0.0
    assert agree(errors, heights, zero_tol=1e-6).holds.tolist() == [True, True, True]
    assert agree(unexplained, heights, zero_tol=1e-6).holds.tolist() == [False, True, True]
    assert agree(silent, heights, zero_tol=1e-6).holds.tolist() == [True, False, True]


def test_an_example_that_a_doubtful_direction_holds_a_part_of_is_disturbed() -> None:
    generator = torch.Generator().manual_seed(1)
    errors = torch.randn(300, 6, generator=generator, dtype=torch.float64)
    errors[torch.rand(300, 6, generator=generator) < 0.5] = 0.0
    directions = torch.eye(6, dtype=torch.float64)  # in the basis where L is dZ^T itself
    directions[5] = directions[5] - 0.02 * directions[1]
    doubtful = torch.tensor([False] * 5 + [True])
    zeros = zero_mask(errors, directions, zero_tol=1e-9)
    assert undisturbed(zeros, doubtful=doubtful).tolist() == [True, False, True, True, True, False]


def test_doubtful_directions_that_are_mixed_among_themselves_disturb_nobody_else() -> None:
    generator = torch.Generator().manual_seed(2)
    errors = torch.randn(300, 6, generator=generator, dtype=torch.float64)
    errors[torch.rand(300, 6, generator=generator) < 0.5] = 0.0
    directions = torch.eye(6, dtype=torch.float64)
    directions[4:, 4:] = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    zeros = zero_mask(errors, directions, zero_tol=1e-9)
    doubtful = torch.tensor([False] * 4 + [True] * 2)
    assert undisturbed(zeros, doubtful=doubtful).tolist() == [True] * 4 + [False] * 2


def test_nobody_is_disturbed_where_nothing_is_doubtful() -> None:
    assert bool(undisturbed(torch.zeros(3, 9, dtype=torch.bool), doubtful=torch.zeros(3, dtype=torch.bool)).all())
