"""Rows of the update that hold one example are read, and nothing else is."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.rows import read_rows, with_rows
from seepage.attacks.prism import PRISM
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.linalg.lowrank import low_rank_factors
from seepage.networks.zoo import build_network
from seepage.types import INTERRUPTED, Observation, Outcome, PrivateBatch, Reconstruction, ThreatModel


def seen(network: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Observation, AttackedLayer]:
    batch, rule = PrivateBatch(inputs=inputs, labels=labels), FedSGD()
    update = rule(network, batch, torch.Generator().manual_seed(0))
    observation = ThreatModel().view(network=network, update=update, batch=batch, rule=rule, classes=10)
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    return observation, layer


def digits(spec: str, batch_size: int, seed: int) -> tuple[Observation, AttackedLayer, Tensor]:
    dataset = load_dataset("digits")
    network = build_network(spec, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:batch_size])
    return *seen(network, batch.inputs, batch.labels), batch.inputs.flatten(1).double()


def read(observation: Observation, layer: AttackedLayer) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    return read_rows(observation, layer, low_rank_factors(layer.weight_gradient, generator=chance), generator=chance)


def distances(rows: Tensor, truth: Tensor) -> Tensor:
    """Of each row from the nearest example, as a share of that example's length."""
    apart = torch.cdist(rows, truth).min(dim=1)
    return apart.values / truth.norm(dim=1)[apart.indices]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("spec", ["mlp:96,100", "mlp:64"])
def test_every_row_that_is_read_is_an_example_and_none_is_read_twice(spec: str, seed: int) -> None:
    observation, layer, truth = digits(spec, 32, seed)
    rows = read(observation, layer)
    assert bool((distances(rows, truth) < 1e-4).all())
    assert len(torch.cdist(rows, truth).argmin(dim=1).unique()) == len(rows)


def sparse_network(inputs: int, units: int) -> nn.Sequential:
    """Few units are on for each input: a large negative bias."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 30), nn.ReLU(), nn.Linear(30, 10))
    first = network[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.bias.fill_(-0.7)
    return network


def test_what_is_read_is_taken_out_and_uncovers_the_next() -> None:
    inputs = torch.randn(16, 20, generator=torch.Generator().manual_seed(1))
    network = sparse_network(20, 64)
    observation, layer = seen(network, inputs, torch.arange(16) % 10)
    on = (inputs @ layer.weight.T + layer.bias) > 0  # [b, m]
    alone = int(on[:, on.sum(dim=0) == 1].any(dim=1).sum())
    rows = read(observation, layer)
    assert float(distances(rows, inputs.double()).max()) < 1e-3
    assert len(rows) > alone


def test_a_gradient_without_a_clear_rank_is_read_as_well() -> None:
    observation, layer, truth = digits("mlp:96,100", 32, 0)
    rows = read_rows(observation, layer, None, generator=torch.Generator().manual_seed(0))
    assert len(rows) > 0
    assert float(distances(rows, truth).max()) < 1e-4


def test_nothing_is_read_at_an_inner_layer_or_where_every_error_lies_in_the_span() -> None:
    observation, layer, _ = digits("mlp:96,100", 32, 0)
    inner = find_relu_layer(observation, "3")
    assert isinstance(inner, AttackedLayer)
    assert len(read(observation, inner)) == 0
    observation, layer, _ = digits("mlp:40,100", 32, 0)
    assert len(read(observation, layer)) == 0


@pytest.mark.parametrize("size", [1e-6, 1e-20])
def test_nothing_is_read_where_errors_do_not_depend_on_inputs(size: float) -> None:
    """Beside the biases of the network such inputs are nothing: any row has the error of an example."""
    inputs = size * torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    network = build_network("mlp:40,40", input_shape=(64,), classes=10, seed=2)
    observation, layer = seen(network, inputs, torch.arange(5))
    assert len(read(observation, layer)) == 0


def test_certified_examples_stay_and_rows_take_the_places_of_others() -> None:
    observation, layer, truth = digits("mlp:96,100", 32, 0)
    chance = torch.Generator().manual_seed(0)
    factors = low_rank_factors(layer.weight_gradient, generator=chance)
    rows = read_rows(observation, layer, factors, generator=chance)
    guesses = torch.zeros(32, 1, 8, 8)
    guesses[3] = rows[0].reshape(1, 8, 8).float()
    certified = torch.arange(32) == 3
    before = Reconstruction(outcome=Outcome.APPROXIMATE, inputs=guesses, certified=certified, reason="In part.")
    after = with_rows(before, observation, layer, factors, generator=chance)
    assert after.inputs is not None
    assert torch.equal(after.certified, certified)
    assert torch.equal(after.inputs[3], guesses[3])
    assert after.stats["rows"] == len(rows) - 1
    there = distances(after.inputs.flatten(1).double(), truth) < 1e-4
    assert int(there.sum()) == len(rows)


def test_what_is_whole_or_interrupted_stays_as_it_is() -> None:
    observation, layer, _ = digits("mlp:96,100", 32, 0)
    for stats in ({}, {"stopped": INTERRUPTED}):
        outcome = Outcome.FAILED if stats else Outcome.EXACT
        inputs = None if stats else torch.zeros(32, 1, 8, 8)
        certified = torch.zeros(0 if stats else 32, dtype=torch.bool)
        found = Reconstruction(outcome=outcome, inputs=inputs, certified=~certified, reason="So.", stats=dict(stats))
        assert with_rows(found, observation, layer, None, generator=torch.Generator().manual_seed(0)) is found


def test_a_search_hands_out_the_rows_that_it_did_not_find_and_certifies_none() -> None:
    observation, _, truth = digits("mlp:96,100", 32, 0)
    found = PRISM(budget=Budget(samples=500))(observation, generator=torch.Generator().manual_seed(0))
    assert found.outcome is Outcome.APPROXIMATE
    assert found.inputs is not None
    assert "uncertified" in found.reason
    assert int((distances(found.inputs.flatten(1).double(), truth) < 1e-4).sum()) >= found.stats["rows"]
    assert not bool(found.certified.any())


def test_of_two_classes_nothing_is_read() -> None:
    """All inputs that switch on the same units have one error then: 26 means of photos passed for examples."""
    photos = load_dataset("photos")
    network = build_network("mlp:60", input_shape=photos.input_shape, classes=2, seed=1)
    batch = photos.batch(torch.arange(40))
    observation, layer = seen(network, batch.inputs, batch.labels)
    assert len(read(replace(observation, classes=2), layer)) == 0
