"""Units that one example alone switches on, counted by hand."""

import pytest
import torch
from torch import nn

from seepage.audit.scores.activity import held_as_rows, units_alone
from seepage.audit.scores.apart import tells_apart
from seepage.audit.scores.watched import layer_inputs
from seepage.data.sources import load_dataset
from seepage.networks.zoo import build_network


def test_units_that_only_one_example_switches_on_are_counted() -> None:
    first = nn.Linear(2, 3)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        first.bias.zero_()
    network = nn.Sequential(first, nn.ReLU(), nn.Linear(3, 2))
    inputs = torch.tensor([[1.0, -2.0], [-1.0, 2.0], [-1.0, -1.0]])
    assert units_alone(network, inputs) == [1, 2, 0]


def test_such_a_unit_gives_the_example_away() -> None:
    torch.manual_seed(0)
    network = build_network("mlp:200", input_shape=(1, 8, 8), classes=10, seed=0)
    inputs, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    counts = units_alone(network, inputs)
    assert counts is not None
    assert sum(counts) > 0
    nn.functional.cross_entropy(network(inputs), labels).backward()
    weight, bias = (one.grad for one in list(network.parameters())[:2])
    assert weight is not None
    assert bias is not None
    rows = (weight / bias[:, None])[bias != 0]  # [m, n]
    hits = [int(((rows - one.flatten()).abs().amax(dim=1) < 1e-3).sum()) for one in inputs]
    assert hits == counts


def test_where_no_such_layer_reads_the_input_nothing_is_counted() -> None:
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = build_network("lenet", input_shape=(3, 32, 32), classes=10, seed=0)
    assert units_alone(network, inputs) is None


def test_a_row_counts_only_as_long_as_it_is_the_example() -> None:
    network = build_network("mlp:200", input_shape=(1, 8, 8), classes=10, seed=0)
    chance = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(3, 1, 8, 8, generator=chance), torch.tensor([0, 1, 2])
    nn.functional.cross_entropy(network(inputs), labels).backward()
    sent = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    assert held_as_rows(network, inputs, sent) == [True] * 3
    assert (
        held_as_rows(network, inputs, {name: 0.1 * value.half().float() for name, value in sent.items()}) == [True] * 3
    )
    noised = {name: value + value.std() * torch.randn(value.shape, generator=chance) for name, value in sent.items()}
    assert held_as_rows(network, inputs, noised) == [False] * 3
    learnt = {name: torch.zeros_like(value) for name, value in sent.items()}
    assert held_as_rows(network, inputs, learnt) == [False] * 3
    assert held_as_rows(network, inputs, {"1.weight": sent["1.weight"]}) is None


def test_looking_at_a_network_leaves_its_running_statistics_alone() -> None:
    first = nn.Linear(64, 40)
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.BatchNorm1d(40), nn.Linear(40, 10)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert units_alone(network, inputs) is not None
    assert layer_inputs(network, "4", inputs).shape == (4, 40)
    for name, value in network.state_dict().items():
        assert value.equal(before[name]), name


@pytest.mark.parametrize(("scale", "widths", "apart"), [(1.0, 100, True), (1e-4, 100, False), (1.0, 2, True)])
def test_tiny_inputs_are_not_told_apart_and_those_at_a_narrow_layer_are(scale: float, widths: int, apart: bool) -> None:
    network = build_network(f"mlp:{widths}", input_shape=(1, 8, 8), classes=10, seed=0)
    inputs = load_dataset("digits").batch(torch.arange(4) * 31).inputs
    assert tells_apart(network, scale * inputs) is apart
