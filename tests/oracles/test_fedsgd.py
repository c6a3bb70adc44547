"""FedSGD against the two other ways to compute it."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch


def test_the_update_is_the_mean_of_the_gradients_of_single_examples() -> None:
    digits = load_dataset("digits")
    batch = digits.batch(torch.arange(5))
    network = build_network("mlp:30", input_shape=digits.input_shape, classes=digits.classes, seed=0)
    update = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    for name, parameter in network.named_parameters():
        total = torch.zeros_like(parameter)
        for image, label in zip(batch.inputs, batch.labels, strict=True):
            loss = cross_entropy(network(image[None]), label[None])
            total += torch.autograd.grad(loss, parameter)[0]
        torch.testing.assert_close(update[name], total / 5)


def test_the_callers_network_stays_as_it_was() -> None:
    network = build_network("resnet18", input_shape=(3, 16, 16), classes=4, seed=0).train()
    before = copy.deepcopy(network.state_dict())
    batch = PrivateBatch(inputs=torch.randn(2, 3, 16, 16), labels=torch.tensor([0, 3]))
    update = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    assert set(update) == {name for name, _ in network.named_parameters()}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_nobody_trains_is_refused() -> None:
    network = build_network("mlp:8", input_shape=(1, 2, 2), classes=3, seed=0).requires_grad_(False)
    batch = PrivateBatch(inputs=torch.rand(2, 1, 2, 2), labels=torch.tensor([0, 1]))
    with pytest.raises(InputError, match="a parameter that is trained; found none"):
        FedSGD()(network, batch, torch.Generator())
