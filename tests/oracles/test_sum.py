"""A sum of clients against one that is added up by hand."""

import pytest
import torch
from torch import nn

from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.aggregate import SummedClients
from seepage.federated.dpsgd import DPSGD
from seepage.federated.fedavg import FedAvg, Optimizer
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch, Traces, UpdateRule


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setting(count: int) -> tuple[nn.Module, PrivateBatch]:
    digits = load_dataset("digits")
    batch = digits.batch(torch.arange(count) * 31)
    network = build_network("mlp:30", input_shape=digits.input_shape, classes=10, seed=0).double()
    return network, PrivateBatch(inputs=batch.inputs.double(), labels=batch.labels)


@pytest.mark.parametrize("of", [FedSGD(), FedAvg(epochs=2, lr=0.3, shuffle=False), DPSGD(clip=0.7, noise=0.0)])
def test_the_sum_is_the_one_added_up_by_hand(of: UpdateRule) -> None:
    network, batch = setting(7)
    parts = [slice(0, 3), slice(3, 5), slice(5, 7)]  # as equal as can be, in order
    wanted: dict[str, torch.Tensor] = {}
    for part in parts:
        one = PrivateBatch(inputs=batch.inputs[part], labels=batch.labels[part])
        for name, value in of(network, one, chance()).items():
            wanted[name] = wanted.get(name, torch.zeros_like(value)) + len(one) / 7 * value
    found = SummedClients(clients=3, of=of)(network, batch, chance())
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("clients", [1, 2, 3, 7])
def test_a_sum_of_gradients_is_the_gradient_of_all_examples(clients: int) -> None:
    network, batch = setting(7)
    rule = SummedClients(clients=clients)
    assert rule.is_gradient
    plain, found = FedSGD()(network, batch, chance()), rule(network, batch, chance())
    for name in plain:
        torch.testing.assert_close(found[name], plain[name])


def test_the_estimate_is_that_of_one_client() -> None:
    network, batch = setting(6)
    rule = SummedClients(clients=2, of=FedAvg(local_batch=1, lr=0.1))
    update = rule(network, batch, chance())
    found = rule.as_gradient(update, network=network, batch_size=6)
    for name in update:
        torch.testing.assert_close(found[name], update[name] / (0.1 * 3))


def test_it_promises_no_more_than_its_clients() -> None:
    assert SummedClients().traces is Traces.ALONG_THE_WAY
    assert SummedClients(of=DPSGD(noise=1.0)).traces is Traces.NONE
    assert SummedClients(of=FedAvg(optimizer=Optimizer.ADAM)).traces is Traces.NONE
    assert not SummedClients(of=FedAvg(epochs=2)).is_gradient


def test_more_clients_than_examples_are_refused() -> None:
    network, batch = setting(3)
    with pytest.raises(InputError, match="`clients`"):
        SummedClients(clients=4)(network, batch, chance())
    with pytest.raises(InputError, match="`clients`"):
        SummedClients(clients=0)
