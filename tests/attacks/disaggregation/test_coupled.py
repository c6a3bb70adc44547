"""The coupled search of PRISM, and the errors that it expects."""

import pytest
import torch
from torch import nn

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.expectederrors import expected_errors
from seepage.attacks.prism import PRISM
from seepage.attacks.spearpp import SPEARPlusPlus
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.layers import AffineLayer, read_layers
from seepage.networks.zoo import build_network
from seepage.types import Attack, Observation, Outcome, PrivateBatch, Reconstruction, ThreatModel


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


ALL = torch.ones(120, dtype=torch.bool)


def observed(
    dataset: Dataset, batch_size: int, network: str, knows: ThreatModel | None = None
) -> tuple[Observation, PrivateBatch]:
    """What a server sees of one round, and the batch that only the test sees."""
    built = build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=0)
    draw = torch.Generator().manual_seed(0)
    batch = dataset.batch(torch.randperm(len(dataset), generator=draw)[:batch_size])
    server = knows or ThreatModel()
    update = FedSGD()(built, batch, draw)
    return server.view(network=built, update=update, batch=batch, rule=FedSGD(), classes=dataset.classes), batch


def layer_of(observation: Observation, name: str) -> AffineLayer:
    return read_layers(observation.latest.network, observation.input_shape).layer(name)


def run(attack: Attack, observation: Observation) -> Reconstruction:
    return attack(observation, generator=torch.Generator().manual_seed(0))


def assert_whole(result: Reconstruction, batch: PrivateBatch) -> None:
    assert result.outcome is Outcome.EXACT, result.reason
    assert result.inputs is not None
    nearest = torch.cdist(result.inputs.flatten(1), batch.inputs.flatten(1), p=torch.inf).min(dim=1)
    assert float(nearest.values.max()) <= 1e-3
    assert sorted(nearest.indices.tolist()) == list(range(len(batch)))


def test_six_units_an_example_without_an_image_prior(digits: Dataset) -> None:
    observation, batch = observed(digits, 32, "mlp:192,100")
    coupled = PRISM(filters=(), searches=())
    assert_whole(run(coupled, observation), batch)
    alone = run(SPEARPlusPlus(budget=Budget(samples=2000)), observation)
    assert alone.outcome is not Outcome.EXACT


def test_a_table_needs_no_neighbours(shared_data: object) -> None:
    dataset = load_dataset(f"{shared_data}/tabular/adult.test")
    observation, batch = observed(dataset, 32, "mlp:200,100")
    assert_whole(run(PRISM(), observation), batch)


def test_expected_errors_are_like_those_of_the_client(digits: Dataset) -> None:
    observation, batch = observed(digits, 20, "mlp:120,60")
    network = observation.latest.network
    seen: list[torch.Tensor] = []
    module = network.get_submodule("1")
    handle = module.register_forward_hook(lambda _, __, outputs: seen.append(outputs))
    loss = nn.functional.cross_entropy(network(batch.inputs), batch.labels, reduction="sum")
    handle.remove()
    (errors,) = torch.autograd.grad(loss, seen[0])
    expected = expected_errors(
        observation, layer_of(observation, "1"), awake=ALL, generator=torch.Generator().manual_seed(0)
    )
    assert expected is not None
    assert expected.square().mean(dim=1).sqrt() == pytest.approx(torch.ones(len(expected)), abs=1e-4)
    on = seen[0] > 0
    likeness = [
        max(float(nn.functional.cosine_similarity(row[mask], guess[mask], dim=0)) for guess in expected)
        for row, mask in zip(errors, on, strict=True)
    ]
    assert min(likeness) > 0.4
    assert all(parameter.grad is None for parameter in network.parameters())


def test_known_labels_narrow_the_classes(digits: Dataset) -> None:
    observation, batch = observed(digits, 4, "mlp:120,60", knows=ThreatModel(labels=True))
    few = torch.arange(120) < 5
    expected = expected_errors(
        observation, layer_of(observation, "1"), awake=few, generator=torch.Generator().manual_seed(0)
    )
    assert expected is not None
    assert expected.shape == (len(set(batch.labels.tolist())), 5)
    assert expected.square().mean(dim=1) == pytest.approx(torch.ones(len(expected)), abs=1e-4)


def test_a_layer_with_most_units_dead_comes_out(digits: Dataset) -> None:
    network = build_network("mlp:400,100", input_shape=digits.input_shape, classes=digits.classes, seed=0)
    with torch.no_grad():
        network.get_submodule("1").bias[:320] = -1e3
    batch = digits.batch(torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:12])
    update = FedSGD()(network, batch, torch.Generator())
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=digits.classes)
    assert_whole(run(PRISM(filters=(), searches=()), view), batch)


class Headless(nn.Module):
    """Logits of larger batches do not depend on the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 40), nn.Linear(40, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs.flatten(1)).relu()
        logits: torch.Tensor = self.last(hidden.detach() if len(inputs) > 8 else hidden)
        return logits


class Single(Headless):
    """Refuses larger batches."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 8:
            raise ValueError("one example at a time")
        return super().forward(inputs)


@pytest.mark.parametrize("kind", [Headless, Single])
def test_a_network_that_answers_nothing_gives_no_hint(digits: Dataset, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network, batch = kind(), digits.batch(torch.arange(4))
    update = FedSGD()(network, batch, torch.Generator())
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10)
    assert expected_errors(view, layer_of(view, "first"), awake=ALL, generator=torch.Generator().manual_seed(0)) is None


def test_frozen_networks_and_relus_in_place_are_expected_the_same(digits: Dataset) -> None:
    observation, _ = observed(digits, 4, "mlp:120,60")
    network = observation.latest.network
    plain = expected_errors(
        observation, layer_of(observation, "1"), awake=ALL, generator=torch.Generator().manual_seed(0)
    )
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    network.requires_grad_(False)
    again = expected_errors(
        observation, layer_of(observation, "1"), awake=ALL, generator=torch.Generator().manual_seed(0)
    )
    assert plain is not None
    assert again is not None
    torch.testing.assert_close(again, plain)


class Functional(Headless):
    """The layer is never called as a module."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.linear(inputs.flatten(1), self.first.weight, self.first.bias).relu()
        logits: torch.Tensor = self.last(hidden)
        return logits


def test_a_layer_that_is_called_as_a_function_is_no_error(digits: Dataset) -> None:
    torch.manual_seed(0)
    network, batch = Functional(), digits.batch(torch.arange(4))
    update = FedSGD()(network, batch, torch.Generator())
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10)
    assert run(PRISM(), view).outcome is not Outcome.FAILED
