"""RLG, and labels between two states: what the single-gradient methods do not cover."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labelsbetween import restore_between
from seepage.attacks.rlg import RLG
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.types import GradientUpdate, Observation, Outcome, PrivateBatch, Round


def network(classes: int = 30, *, bias: bool = True, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, classes, bias=bias))


def observed(net: nn.Sequential, labels: Tensor, seed: int = 1) -> Observation:
    inputs = torch.randn(len(labels), 64, generator=torch.Generator().manual_seed(seed))
    update = FedSGD()(net, PrivateBatch(inputs=inputs, labels=labels), torch.Generator())
    one = Round(network=net, update=update)
    return Observation(rounds=(one,), input_shape=(64,), classes=net[-1].out_features)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_rlg_says_which_classes_are_there(seed: int, *, bias: bool) -> None:
    labels = torch.randint(30, (8,), generator=torch.Generator().manual_seed(seed))
    view = observed(network(bias=bias, seed=seed), labels, seed)
    assert not RLG().obstacles(view)
    found = RLG()(view, generator=torch.Generator())
    assert found.labels is not None
    assert found.labels.tolist() == torch.unique(labels).tolist()
    assert not bool(found.certified.any())


def test_rlg_calls_every_class_present_once_the_rank_is_full() -> None:
    labels = torch.tensor([0, 1] * 30)
    found = RLG()(observed(network(), labels), generator=torch.Generator())
    assert found.labels is not None
    assert len(found.labels) == 30


def trained_locally(net: nn.Sequential, x: Tensor, y: Tensor, *, rate: float, epochs: int) -> nn.Sequential:
    client = copy.deepcopy(net)
    optimizer = torch.optim.SGD(client.parameters(), lr=rate)
    for _ in range(epochs):
        for part, labels in zip(x.split(16), y.split(16), strict=True):
            optimizer.zero_grad()
            cross_entropy(client(part), labels).backward()
            optimizer.step()
    return client


@pytest.mark.parametrize("epochs", [1, 5])
def test_labels_of_a_client_that_took_several_steps(epochs: int) -> None:
    digits = load_dataset("digits", normalize="none")
    right = 0
    for seed in range(5):
        chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))[:64]
        batch = digits.batch(chosen)
        net = nn.Sequential(nn.Flatten(), network(10, seed=seed))
        after = trained_locally(net, batch.inputs, batch.labels, rate=0.01, epochs=epochs)
        found = restore_between(
            net,
            after,
            input_shape=digits.input_shape,
            classes=10,
            examples=64,
            travelled=0.01 * 4 * epochs,
        )
        assert found.labels is not None
        assert found.outcome is Outcome.APPROXIMATE
        right += int(found.labels.equal(batch.labels.sort().values))
    assert right >= 4


def test_states_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="after"):
        restore_between(network(), network(10), input_shape=(64,), classes=30, examples=4, travelled=0.1)
    with pytest.raises(InputError, match="travelled"):
        restore_between(network(), network(), input_shape=(64,), classes=30, examples=4, travelled=0.0)
    with pytest.raises(InputError, match="bias"):
        restore_between(
            network(bias=False), network(bias=False, seed=1), input_shape=(64,), classes=30, examples=4, travelled=0.1
        )


def test_a_client_that_did_not_move_tells_nothing() -> None:
    net = network()
    found = restore_between(net, net, input_shape=(64,), classes=30, examples=4, travelled=0.1)
    assert found.outcome is Outcome.FAILED


def test_an_update_without_the_bias_gradient_is_an_obstacle() -> None:
    view = observed(network(), torch.tensor([1, 2]))
    kept = GradientUpdate({name: value for name, value in view.latest.update.items() if name != "2.bias"})
    withheld = Observation(
        rounds=(Round(network=view.latest.network, update=kept),), input_shape=(64,), classes=view.classes
    )
    assert "withheld" in str(RLG().obstacles(withheld)[0])
