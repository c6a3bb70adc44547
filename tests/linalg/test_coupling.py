"""Coupled descent: directions from the zeros and the heights of inputs that are not known either."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seepage.linalg.coupling import Coupling
from seepage.linalg.dictionary import sparse_directions

B, M = 40, 200


def mixed(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """``U``, ``H`` and the true directions ``[b, b]`` of a batch of noise at five units an example."""
    chance = torch.Generator().manual_seed(seed)
    inputs = torch.randn(B, B, generator=chance, dtype=torch.float64)
    weight = torch.randn(M, B, generator=chance, dtype=torch.float64)
    heights = weight @ inputs.T
    errors = torch.randn(M, B, generator=chance, dtype=torch.float64) * (heights > 0)
    left, singular, right = torch.linalg.svd(errors @ inputs, full_matrices=False)
    directions = torch.linalg.inv(inputs @ right.T / singular)  # columns q: errors = left q
    rows = weight @ right.T * singular
    H = rows / rows.norm(dim=1).square().mean().sqrt()
    return (left * M**0.5).float(), H.float(), normalize(directions.T, dim=1).float()


def reached(ends: Tensor, directions: Tensor) -> set[int]:
    likeness = (ends @ directions.T).abs()
    return set(likeness.argmax(dim=1)[likeness.amax(dim=1) > 0.98].tolist())


def test_runs_end_at_examples_that_the_search_on_zeros_alone_misses() -> None:
    U, H, directions = mixed()
    alone, coupled = reached(sparse_directions(U, U), directions), reached(Coupling()(U, H, U), directions)
    assert len(coupled) >= 2 * len(alone)
    assert len(coupled) >= B // 2


def test_runs_keep_off_what_is_known() -> None:
    U, H, directions = mixed()
    first = reached(Coupling()(U, H, U), directions)
    known, others = sorted(first)[::2], set(sorted(first)[1::2])
    again = reached(Coupling()(U, H, U, known=directions[known]), directions)
    assert not again & set(known)
    assert again & others
