"""FedAvg matched by taking the client's steps again: against the client itself, and by the decibels it brings."""

import pytest
import torch
from torch import nn

from seepage.attacks.matching import dlg, idlg, ig
from seepage.attacks.walk.distances import Squared
from seepage.attacks.walk.objective import make_objective
from seepage.attacks.walk.unrolling import Unrolled, better_order, unrolling_obstacle
from seepage.data.sources import load_dataset
from seepage.federated.aggregate import SummedClients
from seepage.federated.client import BatchNorm
from seepage.federated.fedavg import FedAvg, Optimizer
from seepage.metrics import match, psnr
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, Reconstruction, ThreatModel, UpdateRule


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observe(network: nn.Module, batch: PrivateBatch, rule: UpdateRule, view: ThreatModel | None = None) -> Observation:
    return (view or ThreatModel(batch_size=True, labels=True)).view(
        network=network, update=rule(network, batch, chance()), batch=batch, rule=rule, classes=10
    )


def digits(labels: list[int], *, double: bool = False) -> PrivateBatch:
    """The first examples of these classes."""
    dataset = load_dataset("digits")
    batch = dataset.batch(torch.tensor([int((dataset.labels == label).nonzero()[0]) for label in labels]))
    return PrivateBatch(inputs=batch.inputs.double() if double else batch.inputs, labels=batch.labels)


def net(spec: str = "mlp:100:sigmoid") -> nn.Module:
    return build_network(spec, input_shape=(1, 8, 8), classes=10, seed=0)


def decibels(found: Reconstruction, batch: PrivateBatch) -> float:
    assert found.inputs is not None, found.reason
    span = float(batch.inputs.max() - batch.inputs.min())
    return float(psnr(found.inputs[match(found.inputs, batch.inputs)], batch.inputs, data_range=span).mean())


RULES = [
    FedAvg(epochs=3, lr=0.1),
    FedAvg(epochs=3, lr=0.1, momentum=0.9, weight_decay=0.1),
    FedAvg(epochs=2, local_batch=2, lr=0.1, momentum=0.5, weight_decay=0.01, shuffle=False),
    FedAvg(epochs=2, local_batch=1, accumulate=2, lr=0.1, shuffle=False),
    FedAvg(epochs=2, local_batch=3, lr=0.1, shuffle=False, batch_norm=BatchNorm.TRAIN),
    FedAvg(epochs=2, lr=0.1, batch_norm=BatchNorm.EVAL),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("spec", ["mlp:20:sigmoid", "resnet20"])
def test_the_steps_of_the_true_batch_give_what_the_client_sent(rule: FedAvg, spec: str) -> None:
    batch = digits([0, 1, 2, 3, 4], double=True)  # in ascending order, as the server has the labels
    network = net(spec).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    observation = observe(network, batch, rule)
    objective = make_objective(observation, distance=Squared(), priors=())
    assert objective.residual(batch.inputs, batch.labels) < 1e-10
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.enable_grad():
        others = torch.stack([batch.inputs, batch.inputs.flip(0)])
        together, _ = objective(others, batch.labels.expand(2, 5))
        for start in range(2):
            alone, _ = objective(others[start : start + 1], batch.labels[None])
            torch.testing.assert_close(alone[0], together[start], rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("examples", [1, 2, 4])
@pytest.mark.parametrize("steps", [2, 4])
def test_digits_come_out_of_several_local_steps(examples: int, steps: int) -> None:
    batch = digits(list(range(examples)))
    observation = observe(net(), batch, FedAvg(epochs=steps, lr=0.1))
    found = idlg(starts=4)(observation, generator=chance())
    assert decibels(found, batch) > 60.0
    assert found.outcome is Outcome.APPROXIMATE


def test_ig_takes_the_steps_too_and_labels_may_be_walked_along() -> None:
    batch = digits([5, 3])
    rule = FedAvg(local_batch=1, lr=0.1)
    assert decibels(ig(iterations=500)(observe(net(), batch, rule), generator=chance()), batch) > 50.0
    unknown = observe(net(), batch, rule, ThreatModel(batch_size=True))
    assert decibels(dlg()(unknown, generator=chance()), batch) > 50.0


def test_which_example_was_in_which_local_batch_is_found_out() -> None:
    batch = digits([3, 1, 0, 2])
    observation = observe(net(), batch, FedAvg(local_batch=2, epochs=2, lr=0.1, momentum=0.5))
    assert decibels(idlg()(observation, generator=chance()), batch) > 60.0


def test_an_order_is_bettered_even_where_not_all_swaps_can_be_tried() -> None:
    rule, examples = FedAvg(local_batch=2, epochs=3, lr=0.1), 24
    steps = Unrolled(rule=rule, parameters={}, sent=(), kept=1.0, gain=1.0).shuffled(examples, chance())

    def distance(tried: Unrolled) -> float:
        return float((tried.places(examples) - torch.arange(examples).repeat(3)).abs().float().mean())

    better = better_order(steps, examples, distance, chance(1))
    assert distance(better) < 0.9 * distance(steps)
    for order in better.places(examples).reshape(3, examples):
        assert order.sort().values.equal(torch.arange(examples))
    one = FedAvg(local_batch=2, epochs=3, lr=0.1, shuffle=False)
    tied = Unrolled(rule=one, parameters={}, sent=(), kept=1.0, gain=1.0).shuffled(examples, chance())
    first, second, _ = better_order(tied, examples, distance, chance()).places(examples).reshape(3, examples)
    assert first.equal(second)


def test_labels_are_restored_first() -> None:
    batch = digits([1, 4])
    known = ThreatModel(batch_size=True)
    found = idlg()(observe(net(), batch, FedAvg(epochs=2, lr=0.01), known), generator=chance())
    assert decibels(found, batch) > 60.0
    assert "restored" in str(found.stats["labels"])


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (FedAvg(epochs=2, optimizer=Optimizer.ADAM), "only local steps of SGD"),
        (SummedClients(clients=2, of=FedAvg(epochs=2)), "only local steps of SGD"),
        (FedAvg(epochs=65), "65 local steps"),
    ],
)
def test_steps_that_cannot_be_taken_again_are_an_obstacle(rule: UpdateRule, reason: str) -> None:
    observation = observe(net(), digits([1, 2]), rule)
    assert [reason in str(obstacle) for obstacle in ig().obstacles(observation)] == [True]


def test_steps_are_counted_once_the_batch_size_is_known() -> None:
    observation = observe(net(), digits([1, 2]), FedAvg(epochs=33, local_batch=1), ThreatModel())
    assert unrolling_obstacle(observation) is None
    assert "66 local steps" in str(unrolling_obstacle(observation, 2))
