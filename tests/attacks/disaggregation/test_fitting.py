"""Batches without zeros, fitted to the whole update: how near they come, and how far they say they may be."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_layer
from seepage.attacks.disaggregation.fitting import fitted
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.proving import prove
from seepage.attacks.disaggregation.solution import Solution
from seepage.attacks.prism import PRISM
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, ThreatModel

DIGITS = load_dataset("digits")
B = 10


def chance(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(size: int = B) -> PrivateBatch:
    return DIGITS.batch(torch.randperm(len(DIGITS), generator=chance())[:size])


def built(text: str = "mlp:40,40:gelu") -> nn.Module:
    return build_network(text, input_shape=DIGITS.input_shape, classes=10, seed=3)


def sure(batch: PrivateBatch) -> nn.Module:
    """A network that is sure of the labels of half of the batch: 1e-4 of their errors and less is left."""
    network = built()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        logits = network(batch.inputs[: B // 2])
        nn.functional.cross_entropy(logits, batch.labels[: B // 2]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.zero_grad()
    return network


def observed(network: nn.Module, batch: PrivateBatch, *, announced: bool = True) -> tuple[Observation, Mixture]:
    client = FedSGD()
    update = client(network, batch, chance())
    knows = ThreatModel(batch_size=announced)
    view = knows.view(network=network, update=update, batch=batch, rule=client, classes=10)
    layer = find_layer(view)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=0.2, generator=chance())
    assert mixture is not None
    return view, mixture


def closed(mixture: Mixture, inputs: Tensor) -> Solution:
    """A solution that claims ``inputs [b, n]``."""
    factors = mixture.factors
    mixing = factors.singular[:, None] * torch.linalg.inv(inputs @ factors.right.T)
    yes = torch.ones(len(inputs), dtype=torch.bool)
    return Solution(
        inputs=inputs,
        errors=(factors.left @ mixing).T,
        score=torch.ones(len(inputs)),
        evident=yes,
        firm=~yes,
        lone=yes,
        input_error=torch.zeros(len(inputs), dtype=torch.float64),
        tolerance=3e-4,
        error_tol=mixture.zero_tols(normalize(mixing.T, dim=1)),
        replayed="not asked",
    )


def near(mixture: Mixture, truth: Tensor, size: float) -> Solution:
    """A solution whose inputs are off by ``size`` of their lengths."""
    points = truth @ mixture.factors.right.T
    draw = torch.randn(points.shape, generator=chance(), dtype=points.dtype)
    moved = points + size * points.norm(dim=1, keepdim=True) * normalize(draw, dim=1)
    return closed(mixture, moved @ mixture.factors.right)


def apart(solution: Solution, truth: Tensor) -> Tensor:
    """``[b]`` relative."""
    return (solution.inputs - truth).norm(dim=1) / truth.norm(dim=1)


@pytest.mark.parametrize("text", ["mlp:40,40:gelu", "mlp:40,40:sigmoid", "mlp:40,40:tanh", "mlp:12,40:gelu"])
def test_inputs_off_by_a_thousandth_come_to_rounding_and_say_how_near(text: str) -> None:
    batch = batch_of()
    view, mixture = observed(built(text), batch)
    truth = batch.inputs.flatten(1).double()
    before = near(mixture, truth, 1e-3)
    after = fitted(view, mixture, before, chance())
    assert float(apart(after, truth).max()) < 0.03 * float(apart(before, truth).max())
    assert bool((apart(after, truth) <= after.input_error).all())
    assert bool(prove(view, mixture, after, chance()).certified.all())


def test_a_fit_that_is_cut_short_keeps_the_nearest_inputs_and_proves_nothing() -> None:
    batch = batch_of()
    view, mixture = observed(built(), batch)
    truth = batch.inputs.flatten(1).double()
    before, asked = near(mixture, truth, 1e-3), 0

    def goes_on() -> bool:
        nonlocal asked
        asked += 1
        return asked <= 90  # within the first steps of the fit, which takes some hundreds

    after = fitted(view, mixture, before, chance(), goes_on=goes_on)
    assert asked == 91
    assert float(apart(after, truth).max()) < 0.5 * float(apart(before, truth).max())
    assert not bool(after.evident.any())
    assert "cut short" in str(after.replayed)
    assert not bool(prove(view, mixture, after, chance()).certified.any())


def test_faint_examples_say_how_faint_they_are() -> None:
    batch = batch_of()
    network = sure(batch)
    view, mixture = observed(network, batch)
    truth = batch.inputs.flatten(1).double()
    after = fitted(view, mixture, near(mixture, truth, 1e-6), chance())
    size = after.errors.norm(dim=1)
    assert float(size.max() / size.min()) > 1e3
    assert bool((apart(after, truth) <= after.input_error).all())
    assert bool((after.input_error[: B // 2] > 10 * after.input_error[B // 2 :].max()).any())


def test_float64_updates_are_fitted_to_float64() -> None:
    batch = batch_of()
    exact = PrivateBatch(inputs=batch.inputs.double(), labels=batch.labels)
    view, mixture = observed(built().double(), exact)
    after = fitted(view, mixture, near(mixture, exact.inputs.flatten(1), 1e-3), chance())
    assert float(apart(after, exact.inputs.flatten(1)).max()) < 1e-11


@pytest.mark.parametrize("faint", [False, True])
def test_a_batch_with_a_stranger_is_not_evident(faint: bool) -> None:
    batch = batch_of()
    view, mixture = observed(sure(batch) if faint else built(), batch)
    truth = batch.inputs.flatten(1).double()
    truth[0] = truth[0] + 0.1 * truth[1]  # of all its errors only those of 0 and 1 notice
    after = prove(view, mixture, fitted(view, mixture, closed(mixture, truth), chance()), chance())
    off = apart(after, batch.inputs.flatten(1).double()) > 3e-4
    assert not bool((after.certified & off).any())


def test_labels_that_are_not_the_clients_leave_nothing_evident() -> None:
    batch = batch_of()
    _, mixture = observed(built(), batch)
    swapped = PrivateBatch(inputs=batch.inputs, labels=batch.labels.roll(1))
    other, _ = observed(built(), swapped)
    solution = near(mixture, batch.inputs.flatten(1).double(), 1e-4)
    assert not bool(prove(other, mixture, fitted(other, mixture, solution, chance()), chance()).certified.any())


@pytest.mark.parametrize("announced", [True, False])
def test_copies_are_weighed_as_often_as_they_occur(announced: bool) -> None:
    batch = batch_of(6)
    rows = torch.tensor([0, 1, 2, 3, 4, 5, 5])
    twice = PrivateBatch(inputs=batch.inputs[rows], labels=batch.labels[rows])
    view, _ = observed(built(), twice, announced=announced)
    found = PRISM(budget=Budget(seconds=20.0))(view, generator=chance())
    assert found.outcome is Outcome.APPROXIMATE
    assert found.inputs is not None
    assert int(found.certified.sum()) == 5
    assert float(torch.cdist(batch.inputs.flatten(1), found.inputs.flatten(1)).min(dim=1).values.max()) < 1e-3
