"""Zeros that no single input explains are no example's."""

from dataclasses import replace

import torch
from torch.nn.functional import normalize

from seepage.attacks.auto import Auto
from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.found import Found, Kept
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.separable import separable_share
from seepage.data.sources import load_dataset
from seepage.federated.fedavg import FedAvg
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, ThreatModel


def of_two_classes(batch_size: int, width: int) -> tuple[Observation, PrivateBatch]:
    """One hidden layer and two classes: errors of one class are parallel but for the units that are off."""
    digits = load_dataset("digits")
    two = digits.labels < 2
    rows = two.nonzero().flatten()[torch.randperm(int(two.sum()), generator=torch.Generator().manual_seed(0))]
    batch = digits.batch(rows[:batch_size])
    network = build_network(f"mlp:{width}", input_shape=digits.input_shape, classes=2, seed=0)
    update = FedSGD()(network, batch, torch.Generator())
    return ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=2), batch


def mixture_of(observation: Observation) -> Mixture:
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=0.2, generator=torch.Generator().manual_seed(0))
    assert mixture is not None
    return mixture


def test_one_input_explains_the_zeros_of_an_example_and_none_those_of_a_difference() -> None:
    observation, batch = of_two_classes(8, 200)
    mixture = mixture_of(observation)
    mixing = batch.inputs.flatten(1).double() @ mixture.factors.right.T / mixture.factors.singular
    columns = torch.linalg.inv(mixing).T
    true = normalize(columns, dim=1)
    errors = columns @ mixture.factors.left.T  # of examples 0 and j, made equal where both are on
    likeness = [(errors[0] * errors[j]).sum() / errors[j].square().sum() for j in range(1, 8)]
    differences = normalize(
        torch.stack([columns[0] - share * columns[j] for j, share in enumerate(likeness, start=1)]), dim=1
    )
    assert float(separable_share(mixture, true).min()) > 0.98
    assert float(separable_share(mixture, differences).max()) < 0.92


def test_errors_that_are_parallel_hide_nobody() -> None:
    observation, batch = of_two_classes(8, 200)
    result = Auto()(observation, generator=torch.Generator().manual_seed(0))
    assert result.outcome is Outcome.EXACT, result.reason
    assert result.inputs is not None
    nearest = torch.cdist(result.inputs.flatten(1), batch.inputs.flatten(1), p=torch.inf).min(dim=1)
    assert float(nearest.values.max()) < 1e-3
    assert sorted(nearest.indices.tolist()) == list(range(8))


def test_no_direction_no_share() -> None:
    mixture = mixture_of(of_two_classes(4, 100)[0])
    assert separable_share(mixture, mixture.L.new_zeros(0, mixture.batch_size)).shape == (0,)


def test_nothing_is_asked_of_zeros_that_are_no_gates() -> None:
    digits = load_dataset("digits")
    batch = digits.batch(torch.arange(4))
    network = build_network("mlp:100", input_shape=digits.input_shape, classes=10, seed=0)
    dropping = torch.nn.Sequential(network, torch.nn.Dropout(0.3)).train()
    for sent, rule, gated in (
        (network, FedSGD(), True),
        (network, FedAvg(epochs=2), False),
        (dropping, FedSGD(), False),
    ):
        update = rule(sent, batch, torch.Generator())
        view = ThreatModel().view(network=sent, update=update, batch=batch, rule=rule, classes=10)
        layer = find_relu_layer(view)
        assert isinstance(layer, AttackedLayer)
        assert layer.gated is gated
        unknown = find_relu_layer(replace(view, rule=None))
        assert isinstance(unknown, AttackedLayer)
        assert not unknown.gated


def test_directions_set_aside_come_out_at_the_end_where_a_pruned_layer_makes_the_zeros() -> None:
    digits = load_dataset("digits")
    batch = digits.batch(torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:4])
    network = build_network("mlp:200,30", input_shape=digits.input_shape, classes=10, seed=0)
    second = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][1]
    with torch.no_grad():
        second.weight[second.weight.abs() < second.weight.abs().flatten().quantile(0.9)] = 0.0
    update = FedSGD()(network, batch, torch.Generator())
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10)
    result = Auto(budget=Budget(samples=3000))(view, generator=torch.Generator().manual_seed(0))
    assert result.inputs is not None
    assert int(result.stats["directions"]) < 4
    nearest = torch.cdist(batch.inputs.flatten(1), result.inputs.flatten(1), p=torch.inf).min(dim=1)
    assert float(nearest.values.max()) < 1e-3


def pinned(directions: torch.Tensor, zeros: int) -> Kept:
    count = len(directions)
    return Kept(
        directions=directions,
        zeros=torch.full((count,), zeros),
        leverage=torch.full((count,), 0.5),
        replayed=torch.zeros(count, dtype=torch.bool),
    )


def test_a_combination_of_what_is_found_passes_for_no_example() -> None:
    chance = torch.Generator().manual_seed(0)
    true = normalize(torch.randn(6, 6, generator=chance, dtype=torch.float64), dim=1)
    found = Found.nothing(true)
    apart = torch.full((1,), 1e-4, dtype=torch.float64)
    for direction in true[:4]:
        found.add(pinned(direction[None], 30), apart=apart)
    combination = true[0] - 0.8 * true[1] + 1e-5 * true[5]  # rounding left some of an example that is missing
    found.add(pinned((combination / combination.norm())[None], 50), apart=apart)
    assert len(found) == 4
    assert len(found.spare) == 1
    assert found.accepted == 5
    found.add(pinned(true[4:], 30), apart=apart.expand(2))
    assert bool((found.directions == true).all())
    pool = found.pool()
    assert pool.directions.shape == (7, 6)
    assert pool.zeros.tolist() == [30] * 6 + [50]
