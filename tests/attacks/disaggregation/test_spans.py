"""Examples by what they leave in later layers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.found import Found
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.spans import Spans, read_spans
from seepage.attacks.disaggregation.spansearch import SpanSearch
from seepage.attacks.disaggregation.tail import Tail
from seepage.attacks.prism import PRISM
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.dpsgd import DPSGD
from seepage.federated.rules import FedSGD
from seepage.networks.layers import AffineLayer, read_layers
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, ThreatModel, UpdateRule

B = 12
Case = tuple[Observation, PrivateBatch]


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return load_dataset("photos")


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def observed(dataset: Dataset, network: nn.Module, rule: UpdateRule | None = None, batch_size: int = B) -> Case:
    """What a server sees of one round, and the batch that only the test sees."""
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance())[:batch_size])
    client = rule or FedSGD()
    update = client(network, batch, chance())
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=client, classes=dataset.classes)
    return view, batch


def built(dataset: Dataset, text: str) -> nn.Module:
    return build_network(text, input_shape=dataset.input_shape, classes=dataset.classes, seed=3)


def mixture_of(observation: Observation) -> Mixture:
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=0.2, generator=chance())
    assert mixture is not None
    return mixture


def spans_of(observation: Observation) -> Spans | None:
    return read_spans(observation, mixture_of(observation), chance())


def test_activations_of_examples_lie_in_the_spans_and_those_of_others_do_not(photos: Dataset) -> None:
    observation, batch = observed(photos, built(photos, "mlp:24,60,60"))
    mixture, spans = mixture_of(observation), spans_of(observation)
    assert spans is not None
    assert spans.bases[0].shape == (B, 24)
    outputs = mixture.preactivations(batch.inputs.flatten(1).double())
    inside = torch.stack([spans.outside(row).norm() for row in outputs])
    assert float(inside.max()) < 1e-4
    blends = torch.stack([spans.outside(row).norm() for row in 0.5 * (outputs + outputs.roll(1, dims=0))])
    assert float(blends.median()) > 1e-2  # not all: two that switch on the same units have a line between them


def later(network: nn.Module, photos: Dataset, name: str) -> list[AffineLayer]:
    return [read_layers(network, photos.input_shape).layer(name)]


def test_the_tail_is_the_network_and_its_errors_are_those_of_autograd(photos: Dataset) -> None:
    network = built(photos, "mlp:24,60,60")
    observation, batch = observed(photos, network)
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    tail = Tail(observation, layer, later(network, photos, "5"))
    outputs = batch.inputs.flatten(1).double() @ layer.weight.double().T + layer.bias.double()
    logits, (activation,) = tail(outputs[0])
    torch.testing.assert_close(logits.float(), network(batch.inputs[:1])[0], atol=1e-5, rtol=1e-5)
    assert activation.shape == (60,)
    for label, error in enumerate(tail.errors(outputs[0])):
        z = outputs[:1].float().requires_grad_()
        loss = cross_entropy(network[2:](z), torch.tensor([label]))  # type: ignore[index]
        (expected,) = torch.autograd.grad(loss, z)
        torch.testing.assert_close(error.float(), expected[0], atol=1e-6, rtol=1e-4)


def nearest(inputs: Tensor | None, batch: PrivateBatch) -> float:
    assert inputs is not None
    found = torch.cdist(inputs.flatten(1), batch.inputs.flatten(1), p=torch.inf).min(dim=1)
    assert sorted(found.indices.tolist()) == list(range(len(batch)))
    return float(found.values.max())


def test_two_units_an_example_are_enough_and_zeros_alone_are_not() -> None:
    digits = load_dataset("digits")
    observation, batch = observed(digits, built(digits, "mlp:24,60,60"))
    result = PRISM()(observation, generator=chance())
    assert result.outcome is Outcome.EXACT, result.reason
    assert nearest(result.inputs, batch) < 1e-3
    assert result.labels is not None
    assert sorted(result.labels.tolist()) == sorted(batch.labels.tolist())
    alone = PRISM(spans=False)(observation, generator=chance())
    assert alone.outcome is not Outcome.EXACT


@pytest.mark.parametrize(
    ("network", "rule"),
    [
        ("mlp:40", None),  # nothing behind the layer is wider than the batch
        ("mlp:40,10,60", None),
        ("mlp:40,60", DPSGD(clip=1.0, noise=0.0)),  # no plain gradient
    ],
)
def test_without_later_layers_that_hold_the_batch_there_are_none(
    photos: Dataset, network: str, rule: UpdateRule | None
) -> None:
    observation, _ = observed(photos, built(photos, network), rule)
    assert spans_of(observation) is None


def test_activations_in_place_leave_what_is_given_alone(photos: Dataset) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(photos.inputs[0].numel(), 24), nn.ReLU(inplace=True))
    network.extend([nn.Linear(24, 60), nn.ReLU(inplace=True), nn.Linear(60, 2)])
    observation, _ = observed(photos, network)
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    outputs = torch.randn(24, generator=chance(), dtype=torch.float64)
    before = outputs.clone()
    tail = Tail(observation, layer, later(network, photos, "3"))
    assert tail.errors(outputs).shape == (2, 24)
    assert bool((outputs == before).all())


def test_without_guesses_nothing_is_proposed(photos: Dataset) -> None:
    observation, _ = observed(photos, built(photos, "mlp:24,60,60"))
    mixture, spans = mixture_of(observation), spans_of(observation)
    assert spans is not None
    search = SpanSearch(spans=lambda: spans, guess=lambda _, found, __: found.directions[:0])
    assert len(search(mixture, Found.nothing(mixture.L), chance(), effort=1).directions) == 0


class Noisy(nn.Module):
    """Random behind the layer: no two runs agree."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(size, 40), nn.Linear(40, 60), nn.Linear(60, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(self.dropout(torch.relu(self.second(torch.relu(self.first(x.flatten(1)))))))
        return out


def test_a_network_that_cannot_be_replayed_is_attacked_without_them(photos: Dataset) -> None:
    network = Noisy(photos.inputs[0].numel()).train()
    observation, _ = observed(photos, network)
    result = PRISM()(observation, generator=chance())
    assert result.outcome is not Outcome.EXACT
