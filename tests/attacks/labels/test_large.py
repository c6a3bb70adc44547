"""A large last layer is read from a sketch: same rank, same spaces, same labels as from all its singular values."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.exact.reading import read_pencil
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.lastlayer import LastLayer, usable
from seepage.types import GradientUpdate, Observation, Outcome, Round

CLASSES, WIDTH = 400, 300


def observed(examples: int, *, known: bool, spread: float = 1.0) -> tuple[Observation, Tensor]:
    """A last layer of random weights; the larger their spread, the fainter the examples."""
    generator = torch.Generator().manual_seed(examples)
    net = nn.Sequential(nn.Identity(), nn.Linear(WIDTH, CLASSES))
    with torch.no_grad():
        net[1].weight.copy_(spread * WIDTH**-0.5 * torch.randn(CLASSES, WIDTH, generator=generator))
        net[1].bias.zero_()
        inputs = torch.relu(torch.randn(examples, WIDTH, generator=generator) + 0.3)
        labels = torch.multinomial(torch.softmax(net(inputs), 1), 1, generator=generator)[:, 0]
    names, values = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(cross_entropy(net(inputs), labels), values)
    one = Round(
        network=net,
        update=GradientUpdate(dict(zip(names, gradients, strict=True))),
        batch_size=examples if known else None,
    )
    return Observation(rounds=(one,), input_shape=(WIDTH,), classes=CLASSES), labels


def all_singular_values(layer: LastLayer) -> tuple[Tensor, Tensor]:
    U, S, _ = torch.linalg.svd(torch.cat([layer.gW, layer.gb[:, None]], 1), full_matrices=False)
    return U, S


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("examples", "spread"), [(1, 1.0), (20, 1.0), (20, 4.0), (70, 1.0)])
def test_the_sketch_has_the_rank_and_the_spaces_of_the_whole(examples: int, spread: float, known: bool) -> None:
    layer = usable(observed(examples, known=known, spread=spread)[0])
    pencil = read_pencil(layer, reach=0.75)
    assert not isinstance(pencil, str)
    U, S = all_singular_values(layer)
    assert pencil.rank == examples
    torch.testing.assert_close(pencil.S, S[:examples], rtol=1e-5, atol=0.0)
    assert pencil.floor == pytest.approx(max(float(S[examples]), 0.3 * layer.eps * float(S[0])), rel=0.5)
    outside = pencil.U - U[:, :examples] @ (U[:, :examples].T @ pencil.U)
    assert float((outside.norm(dim=0) * pencil.S).max()) < float(S[examples])  # less than the rounding moves it


def test_labels_of_a_large_layer_are_certified() -> None:
    observation, labels = observed(40, known=True)
    result = ExactLabels()(observation, generator=torch.Generator().manual_seed(0))
    assert result.outcome is Outcome.EXACT
    assert result.labels is not None
    assert torch.equal(result.labels, labels.sort().values)


def test_a_batch_beyond_the_rank_is_refused_without_a_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, _ = observed(CLASSES, known=True)
    monkeypatch.setattr(torch.linalg, "svd", None)
    result = ExactLabels()(observation, generator=torch.Generator().manual_seed(0))
    assert f"{CLASSES} examples exceed the rank" in result.reason
