"""The closed first step of GIT: labels and last-layer inputs are read from gradients, and mapped to inputs."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from seepage.attacks.inverters.blueprint import InverterKind, draw_blueprint
from seepage.attacks.inverters.embeddingmap import EmbeddingMap
from seepage.attacks.inverters.pairs import Pair
from seepage.data.sources import load_dataset
from seepage.networks.zoo import build_network

SHAPE = (1, 8, 8)


def net() -> nn.Module:
    return build_network("mlp:48:sigmoid", input_shape=SHAPE, classes=10, seed=0)


def pairs(network: nn.Module, first: int, count: int, examples: int) -> list[Pair]:
    dataset = load_dataset("digits").batch(torch.arange(first, first + count * examples))
    inputs = dataset.inputs.reshape(count, examples, *SHAPE)
    labels = dataset.labels.reshape(count, examples)
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def loss(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(network, values, (x,)), y)

    return [(torch.vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, labels), inputs, labels)]


def fitted(network: nn.Module, examples: int) -> EmbeddingMap:
    blueprint = draw_blueprint(network, kind=InverterKind.COARSE_GIT, input_shape=SHAPE, examples=examples)
    assert EmbeddingMap.fits(blueprint)
    found = EmbeddingMap(blueprint)
    with torch.no_grad():
        predictions = network(load_dataset("digits").inputs[:1000]).softmax(dim=1).mean(dim=0)
        training, held_out = (pairs(network, at, count // examples, examples) for at, count in ((0, 1000), (1000, 100)))
        found.fit(training, held_out, predictions)
    return found


@pytest.mark.parametrize("examples", [1, 2, 4])
def test_labels_are_read_and_inputs_mapped(examples: int) -> None:
    network = net()
    ((gradients, inputs, labels),) = pairs(network, 1200, 50, examples)
    module = fitted(network, examples)
    assert module.labels(gradients).equal(labels.sort(dim=1).values)
    found, _ = module(gradients)
    order = labels.argsort(dim=1, stable=True)
    truth = torch.stack([one[places] for one, places in zip(inputs, order, strict=True)])
    mean = load_dataset("digits").inputs[:1000].mean(dim=0)
    error, blind = (found - truth).square().mean(), (mean - truth).square().mean()
    assert float(error) < 0.6 * float(blind)


def test_one_example_is_mapped_from_what_the_layer_was_given() -> None:
    network = net()
    ((gradients, inputs, _),) = pairs(network, 1200, 20, 1)
    module = fitted(network, 1)
    assert isinstance(network, nn.Sequential)
    before = network[:-2](inputs[:, 0]).detach()  # what entered the sigmoid
    _, rows = module(gradients)
    torch.testing.assert_close(rows[:, 0] * module.deviation + module.mean, before, atol=1e-3, rtol=1e-3)
