"""Unmixing of planted heavy-tailed sources, and the filters that make images heavy-tailed."""

import pytest
import torch
from torch import Tensor

from seepage.linalg.filters import FILTER_BANKS, FilterBank
from seepage.linalg.ica import Contrast, ScaleMixture, SoftSign, Tanh, unmix


def mixed(k: int, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mixtures ``[k, N]`` of Laplace sources, and the sources."""
    draw = torch.Generator().manual_seed(seed)
    uniform = torch.rand(k, samples, generator=draw, dtype=torch.float64) - 0.5
    sources = -uniform.sign() * (1 - 2 * uniform.abs()).clamp_min(1e-12).log()
    return torch.randn(k, k, generator=draw, dtype=torch.float64) @ sources, sources


@pytest.mark.parametrize("contrast", [Tanh(), SoftSign()])
def test_sources_are_unmixed_up_to_order_scale_and_sign(contrast: Contrast) -> None:
    S, sources = mixed(6, 20_000)
    found = unmix(S, contrast=contrast, generator=torch.Generator().manual_seed(1)) @ S
    correlation = torch.corrcoef(torch.cat([found, sources]))[:6, 6:].abs()
    assert float(correlation.max(dim=1).values.min()) > 0.98
    assert sorted(correlation.argmax(dim=1).tolist()) == list(range(6))


def test_a_seed_decides_the_unmixing() -> None:
    S, _ = mixed(5, 2000)
    one, other = (unmix(S, contrast=Tanh(), generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, other)


def test_a_decomposition_that_fails_in_float32_is_done_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    svd = torch.linalg.svd

    def failing(A: Tensor, *, full_matrices: bool) -> tuple[Tensor, ...]:
        if A.dtype is torch.float32:
            raise torch.linalg.LinAlgError("linalg.svd: The algorithm failed to converge")
        return tuple(svd(A, full_matrices=full_matrices))

    S, sources = mixed(3, 4000)
    monkeypatch.setattr(torch.linalg, "svd", failing)
    weights = unmix(S.float(), contrast=SoftSign(), generator=torch.Generator().manual_seed(0))
    assert weights.dtype is torch.float32
    correlation = torch.corrcoef(torch.cat([weights.double() @ S, sources]))[:3, 3:].abs()
    assert float(correlation.max(dim=1).values.min()) > 0.98


def test_nothing_to_unmix_is_not_an_error() -> None:
    assert unmix(torch.ones(1, 50), contrast=Tanh(), generator=torch.Generator().manual_seed(0)).shape == (1, 1)


@pytest.mark.parametrize("bank", FILTER_BANKS, ids=lambda bank: bank.name)
@pytest.mark.parametrize("shape", [(3, 12, 10), (1, 8, 8), (2, 40)])
def test_filters_commute_with_mixing(bank: FilterBank, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(4, torch.Size(shape).numel(), generator=draw, dtype=torch.float64)
    mixing = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    filtered, of_mixed = bank(rows, shape), bank(mixing @ rows, shape)
    assert (filtered is None) == (of_mixed is None)
    if filtered is not None and of_mixed is not None:
        torch.testing.assert_close(torch.einsum("ij,j...->i...", mixing, filtered), of_mixed)


def test_a_slope_is_the_difference_of_neighbours() -> None:
    bank = FilterBank(name="slope", stencils=(((-1.0, 1.0),),))
    answer = bank(torch.tensor([[1.0, 4.0, 9.0]]), (1, 1, 3))
    assert answer is not None
    torch.testing.assert_close(answer.flatten() * 2**0.5, torch.tensor([3.0, 5.0]))


def test_an_input_smaller_than_every_stencil_has_no_filtered_version() -> None:
    bank = FilterBank(name="twist", stencils=(((1.0, -1.0), (-1.0, 1.0)),))
    assert bank(torch.ones(2, 5), (1, 5)) is None


def test_stencils_of_different_sizes_answer_for_the_same_pixels() -> None:
    bank = FilterBank(name="bends", stencils=(((-1.0, 2.0, -1.0),), ((-1.0,), (2.0,), (-1.0,))))
    image = torch.zeros(1, 5, 6)
    image[0, 2, 3] = 1.0
    answer = bank(image.reshape(1, -1), (1, 5, 6))
    assert answer is not None
    assert answer.shape == (1, 2, 1, 3, 4)
    peaks = answer.flatten(2).argmax(dim=2)
    assert peaks.tolist() == [[1 * 4 + 2] * 2]  # both where the dot is


def speckled(k: int, side: int, seed: int = 0) -> Tensor:
    """``[k, 1, 2, side, side]``: noise, loud in some parts of the picture and still in others, in both channels."""
    draw = torch.Generator().manual_seed(seed)
    loud = torch.rand(k, 1, 1, side // 4, side // 4, generator=draw) < 0.3
    scale = (0.1 + loud).repeat_interleave(4, dim=3).repeat_interleave(4, dim=4)
    return scale * torch.randn(k, 1, 2, side, side, generator=draw)


def likeness(contrast: Contrast, sources: Tensor, **options: int) -> Tensor:
    """Of each source, the cosine of its weights with the nearest of those unmixed."""
    k = len(sources)
    mixing = torch.linalg.qr(torch.randn(k, k, generator=torch.Generator().manual_seed(9))).Q
    S = torch.einsum("ij,j...->i...", mixing, sources)
    weights = unmix(S, contrast=contrast, generator=torch.Generator().manual_seed(1), **options)
    unit = weights / weights.norm(dim=1, keepdim=True)
    return (unit @ mixing).abs().max(dim=0).values


def test_samples_that_share_a_scale_tell_more_together() -> None:
    sources = speckled(40, 12)  # 7 samples a source
    together, alone = likeness(ScaleMixture(), sources), likeness(SoftSign(), sources)
    assert int((together > 0.9).sum()) >= 1.5 * int((alone > 0.9).sum()) > 0


def test_sources_free_to_be_correlated_are_nearer_to_the_truth() -> None:
    sources = speckled(12, 16, seed=3)
    free, bound = likeness(ScaleMixture(), sources), likeness(ScaleMixture(), sources, free_steps=0)
    assert float((1 - free).median()) < 0.5 * float((1 - bound).median())


def test_a_local_scale_changes_as_its_derivative_says() -> None:
    contrast, draw = ScaleMixture(), torch.Generator().manual_seed(2)
    sources = torch.randn(2, 1, 3, 6, 7, generator=draw, dtype=torch.float64)
    value, _ = contrast(sources)
    step = 1e-6
    moved = sources.clone()
    moved[1, 0, 2, 3, 3] += step
    own = (contrast(moved)[0] - value)[1, 0, 2, 3, 3] / step
    pooled = sources[1, 0, :, 2:5, 2:5].square().mean()
    y = sources[1, 0, 2, 3, 3]
    torch.testing.assert_close(own, 1 / (0.01 + pooled) - 2 * y**2 / 27 / (0.01 + pooled) ** 2, rtol=1e-4, atol=1e-6)


def test_of_a_signal_the_scale_is_shared_along_it_alone() -> None:
    contrast, draw = ScaleMixture(), torch.Generator().manual_seed(2)
    sources = torch.randn(1, 1, 1, 2, 1, 300, generator=draw, dtype=torch.float64).requires_grad_()
    value, slope = contrast(sources)
    own = [
        torch.autograd.grad(entry, sources, retain_graph=True)[0].flatten()[i]
        for i, entry in enumerate(value.flatten())
    ]
    torch.testing.assert_close(slope[0], torch.stack(own).mean(), rtol=0.01, atol=0)  # ends have a neighbour less


def test_signals_loud_in_parts_are_unmixed() -> None:
    draw = torch.Generator().manual_seed(0)
    loud = (torch.rand(8, 1, 1, 1, 1, 50, generator=draw) < 0.3).repeat_interleave(8, dim=5)
    sources = (0.1 + loud) * torch.randn(8, 1, 1, 1, 1, 400, generator=draw)
    assert float(likeness(ScaleMixture(), sources).min()) > 0.95
