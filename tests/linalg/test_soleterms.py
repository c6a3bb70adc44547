"""Terms of a sum of sparse rank-one matrices come back to the rounding, however faint, or none do."""

import pytest
import torch
from torch import Tensor

from seepage.linalg.soleterms import SoleTerms, sole_terms

EPS = torch.finfo(torch.float32).eps


def drawn(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """``(left [r, 60], right [r, 400])``, each entry there with that probability; the first term fainter than all."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(count, 60, generator=generator) * (torch.rand(count, 60, generator=generator) < share)
    right = torch.rand(count, 400, generator=generator) * (torch.rand(count, 400, generator=generator) < share)
    left[0] *= 1e-13
    return left, right


def found(matrix: Tensor, count: int) -> SoleTerms | None:
    generator = torch.Generator().manual_seed(0)
    return sole_terms(matrix.double(), count, eps=EPS, pairs=600, generator=generator)


@pytest.mark.parametrize("seed", range(4))
def test_every_term_comes_back_though_one_is_far_below_the_rounding_of_the_rest(seed: int) -> None:
    left, right = drawn(6, 0.3, seed)
    terms = found(left.T @ right, 6)
    assert terms is not None
    left, right = left.double(), right.double()
    lengths = left.norm(dim=1, keepdim=True)
    which = (terms.left @ (left / lengths).T).abs().argmax(1)
    assert sorted(which.tolist()) == list(range(6))
    sign = (terms.left * left[which]).sum(1, keepdim=True).sign()
    assert torch.allclose(terms.left * sign, (left / lengths)[which] * terms.seen, atol=1e-5)
    assert torch.allclose(terms.right * sign / lengths[which], right[which], atol=1e-5)


def test_dense_terms_are_not_found() -> None:
    left, right = drawn(6, 1.0, 0)
    assert found(left.T @ right, 6) is None


@pytest.mark.parametrize("count", [5, 7])
def test_another_number_of_terms_than_there_are_is_refused(count: int) -> None:
    left, right = drawn(6, 0.3, 1)
    left[0] *= 1e13
    assert found(left.T @ right, count) is None


def test_zeros_and_matrices_of_one_row_have_none() -> None:
    assert found(torch.zeros(5, 5), 1) is None
    assert found(torch.ones(1, 5), 1) is None
