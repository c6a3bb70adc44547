"""Faint examples of a confident network: each direction is held to what rounding does to it, not to the faintest."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.certificate import agree
from seepage.attacks.disaggregation.directions import accept, round_either, round_inputs
from seepage.attacks.disaggregation.found import Found
from seepage.attacks.disaggregation.layerattack import LEAST_SHARE
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.spearpp import SPEARPlusPlus
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.linalg.nullspace import zero_mask
from seepage.linalg.rounding import refine_directions
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, ThreatModel


def confident(seed: int, *, scale: float) -> tuple[Observation, PrivateBatch]:
    """Twelve digits, half of them with the label that a network with large logits is sure of."""
    dataset = load_dataset("digits")
    network = build_network("mlp:200,100", input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    draw = torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=draw)[:12])
    with torch.no_grad():
        last.weight.mul_(scale)
        sure = network(batch.inputs).argmax(dim=1)
    batch = PrivateBatch(inputs=batch.inputs, labels=torch.where(torch.arange(12) % 2 == 0, sure, batch.labels))
    update = FedSGD()(network, batch, draw)
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=dataset.classes)
    return view, batch


def mixture_of(observation: Observation) -> Mixture:
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=LEAST_SHARE, generator=torch.Generator().manual_seed(0))
    assert mixture is not None
    return mixture


def true_errors(observation: Observation, batch: PrivateBatch) -> Tensor:
    """``dZ [b, m]`` of the first layer in float64: what moves its bias for one example alone."""
    network = observation.latest.network
    state = {name: value.detach().double() for name, value in network.named_parameters()}
    bias = next(name for name in state if name.endswith("bias"))
    errors = []
    for example, label in zip(batch.inputs.double(), batch.labels, strict=True):
        free = state[bias].requires_grad_()
        logits = functional_call(network, {**state, bias: free}, (example[None],))
        loss = cross_entropy(logits, label[None]) / len(batch)
        errors.append(torch.autograd.grad(loss, free)[0])  # type: ignore[no-untyped-call,unused-ignore]
    return torch.stack(errors)


@pytest.mark.parametrize("seed", range(3))
def test_true_zeros_lie_below_each_directions_own_tolerance(seed: int) -> None:
    observation, batch = confident(seed, scale=60.0)
    mixture, errors = mixture_of(observation), true_errors(observation, batch)
    assert mixture.batch_size == len(batch)
    directions = errors @ mixture.factors.left
    directions = directions / directions.norm(dim=1, keepdim=True)
    tols = mixture.zero_tols(directions)
    found = zero_mask(mixture.L, directions, zero_tol=tols)
    true = errors[:, mixture.awake] == 0
    assert float((found & true).sum() / true.sum()) > 0.999
    assert float((found & ~true).sum() / true.sum()) < 0.002
    assert bool((tols <= mixture.zero_tol).all())
    assert float(tols[errors.norm(dim=1).argmin()]) > 10 * float(tols[errors.norm(dim=1).argmax()])


@pytest.mark.parametrize(("seed", "scale"), [(1, 60.0), (0, 100.0)])
def test_the_faintest_examples_are_certified(seed: int, scale: float) -> None:
    observation, batch = confident(seed, scale=scale)
    result = SPEARPlusPlus()(observation, generator=torch.Generator().manual_seed(0))
    assert result.outcome is Outcome.EXACT, result.reason
    assert result.inputs is not None
    distance = torch.cdist(result.inputs.flatten(1), batch.inputs.flatten(1), p=torch.inf).min(dim=1)
    assert float(distance.values.max()) < 5e-3
    assert sorted(distance.indices.tolist()) == list(range(len(batch)))


def test_agreement_holds_each_row_to_its_own_tolerance() -> None:
    heights = torch.randn(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = torch.where(heights > 0, torch.ones_like(heights), 1e-4)
    assert agree(errors, heights, zero_tol=torch.tensor([1e-3, 1e-6])).holds.tolist() == [True, False]


def test_the_better_sign_of_a_guess_goes_on() -> None:
    observation, batch = confident(0, scale=1.0)
    mixture = mixture_of(observation)
    rough = batch.inputs.flatten(1).double() + 0.3 * torch.randn(
        12, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    guesses = rough @ mixture.factors.right.T
    flipped = torch.where(torch.arange(12)[:, None] % 2 == 0, guesses, -guesses)
    either, both = round_either(mixture, flipped), round_inputs(mixture, guesses)
    assert float((either * both).sum(dim=1).abs().min()) > 1 - 1e-4


@pytest.mark.parametrize("seed", range(1, 5))
def test_directions_are_refined_until_their_zeros_stay_the_same(seed: int) -> None:
    """A true one with many hidden, from a thousandth beside, was refused as no input's, for good."""
    draw = torch.Generator().manual_seed(0)
    batch = PrivateBatch(
        inputs=torch.randn(150, 1, 20, 20, generator=draw), labels=torch.randint(10, (150,), generator=draw)
    )
    network = build_network("mlp:600,100", input_shape=(1, 20, 20), classes=10, seed=0)
    update = FedSGD()(network, batch, draw)
    mixture = mixture_of(ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10))
    mixing = batch.inputs.flatten(1).double() @ mixture.factors.right.T / mixture.factors.singular
    true = normalize(torch.linalg.inv(mixing).T, dim=1)
    beside = torch.randn(true.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = Found.nothing(mixture.L)
    accept(mixture, found, normalize(true + 1.2e-3 * normalize(beside, dim=1), dim=1))
    ends = torch.cat([found.directions, found.refused])
    tols = mixture.zero_tols(ends)
    once_more = refine_directions(mixture.L, ends, zero_tol=tols, rounds=1)
    before, after = (zero_mask(mixture.L, each, zero_tol=tols).sum(dim=1) for each in (ends, once_more))
    assert len(found) > 75
    assert int((after > 1.02 * before).sum()) == 0
