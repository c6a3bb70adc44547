"""FedAvg against plain optimizer loops and sums worked out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.federated.client import BatchNorm
from seepage.federated.fedavg import FedAvg, Optimizer
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch, ThreatModel, Traces


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setting(count: int = 7, spec: str = "mlp:30,20") -> tuple[nn.Module, PrivateBatch]:
    digits = load_dataset("digits")
    batch = digits.batch(torch.arange(count) * 31)
    network = build_network(spec, input_shape=digits.input_shape, classes=10, seed=0).double()
    return network, PrivateBatch(inputs=batch.inputs.double(), labels=batch.labels)


def assert_update(rule: FedAvg, network: nn.Module, batch: PrivateBatch, trained: nn.Module) -> None:
    update = rule(network, batch, chance())
    ended = dict(trained.named_parameters())
    assert set(update) == set(ended)
    for name, value in network.named_parameters():
        torch.testing.assert_close(update[name], (value - ended[name]).detach(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.8, 0.05)])
def test_sgd_in_order_is_a_plain_optimizer_loop(momentum: float, weight_decay: float) -> None:
    network, batch = setting()
    trained = copy.deepcopy(network)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    for _ in range(2):
        for start in (0, 3, 6):  # the last local batch holds one example
            optimizer.zero_grad()
            cross_entropy(trained(batch.inputs[start : start + 3]), batch.labels[start : start + 3]).backward()
            optimizer.step()
    rule = FedAvg(epochs=2, local_batch=3, lr=0.1, momentum=momentum, weight_decay=weight_decay, shuffle=False)
    assert_update(rule, network, batch, trained)


def test_adam_is_a_plain_optimizer_loop() -> None:
    network, batch = setting()
    trained = copy.deepcopy(network)
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(trained(batch.inputs), batch.labels).backward()
        optimizer.step()
    rule = FedAvg(epochs=3, lr=0.01, weight_decay=0.1, optimizer=Optimizer.ADAM, shuffle=False)
    assert_update(rule, network, batch, trained)


def test_two_steps_of_momentum_worked_out_by_hand() -> None:
    network, batch = setting()
    lr, momentum = 0.1, 0.5
    first = FedSGD()(network, batch, chance())
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for name, value in moved.named_parameters():
            value.sub_(lr * first[name])
    second = FedSGD()(moved, batch, chance())
    update = FedAvg(epochs=2, lr=lr, momentum=momentum)(network, batch, chance())
    for name in first:
        torch.testing.assert_close(update[name], lr * ((1 + momentum) * first[name] + second[name]))


def test_accumulated_local_batches_make_one_step_of_their_mean() -> None:
    network, batch = setting(7)
    mean: dict[str, torch.Tensor] = {}
    for rows in (slice(0, 2), slice(2, 4)):
        part = FedSGD()(network, PrivateBatch(inputs=batch.inputs[rows], labels=batch.labels[rows]), chance())
        mean = {name: mean.get(name, 0) + value / 2 for name, value in part.items()}
    few = PrivateBatch(inputs=batch.inputs[:4], labels=batch.labels[:4])
    update = FedAvg(local_batch=2, accumulate=2, lr=0.1, shuffle=False)(network, few, chance())
    for name, value in mean.items():
        torch.testing.assert_close(update[name], 0.1 * value)
    assert FedAvg(local_batch=2, accumulate=3, epochs=2).steps(7) == 4  # local batches of 2, 2, 2 | 1, twice


def test_the_generator_decides_the_order_of_local_batches() -> None:
    network, batch = setting()
    rule = FedAvg(local_batch=2, lr=0.5)
    one, again, other = (
        rule(network, batch, chance(1)),
        rule(network, batch, chance(1)),
        rule(network, batch, chance(2)),
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "rule",
    [
        FedAvg(lr=0.3),
        FedAvg(lr=0.3, momentum=0.9),
        FedAvg(lr=0.3, weight_decay=0.2),
        FedAvg(lr=0.3, accumulate=4, weight_decay=0.2),
    ],
    ids=lambda rule: rule.name,
)
def test_the_estimate_of_one_step_is_the_gradient(rule: FedAvg) -> None:
    network, batch = setting()
    assert rule.is_gradient
    assert rule.traces is Traces.AT_START
    truth = FedSGD()(network, batch, chance())
    found = rule.as_gradient(rule(network, batch, chance()), network=network)
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.1)])
def test_the_estimate_of_many_tiny_steps_nears_the_gradient(momentum: float, weight_decay: float) -> None:
    network, batch = setting()
    rule = FedAvg(epochs=3, local_batch=2, lr=1e-6, momentum=momentum, weight_decay=weight_decay)
    assert not rule.is_gradient
    assert rule.traces is Traces.ALONG_THE_WAY
    whole = PrivateBatch(inputs=batch.inputs[:6], labels=batch.labels[:6])  # equal local batches: a plain mean
    truth = FedSGD()(network, whole, chance())
    found = rule.as_gradient(rule(network, whole, chance()), network=network, batch_size=6)
    # Momentum weighs early local batches more, so the mean is weighted unless each local batch is the whole one.
    if momentum == 0:
        for name in truth:
            torch.testing.assert_close(found[name], truth[name], rtol=1e-3, atol=1e-6)
    even = FedAvg(epochs=9, lr=1e-6, momentum=momentum, weight_decay=weight_decay)
    found = even.as_gradient(even(network, whole, chance()), network=network, batch_size=6)
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-3, atol=1e-6)


def test_without_momentum_the_divisor_is_lr_times_steps() -> None:
    network, batch = setting()
    rule = FedAvg(epochs=2, local_batch=3, lr=0.1)
    update = rule(network, batch, chance())
    found = rule.as_gradient(update, network=network, batch_size=7)
    for name in update:
        torch.testing.assert_close(found[name], update[name] / (0.1 * 6))


def test_the_estimate_of_adam_divides_by_lr_times_steps_and_promises_nothing() -> None:
    network, batch = setting()
    rule = FedAvg(epochs=2, lr=0.01, optimizer=Optimizer.ADAM)
    assert rule.traces is Traces.NONE
    assert not rule.is_gradient
    update = rule(network, batch, chance())
    found = rule.as_gradient(update, network=network, batch_size=7)
    for name in update:
        torch.testing.assert_close(found[name], update[name] / 0.02)


def test_the_server_sees_the_estimate_and_attacks_nothing_else() -> None:
    network, batch = setting()
    rule = FedAvg(lr=0.25)
    sent = rule(network, batch, chance())
    seen = ThreatModel().view(network=network, update=sent, batch=batch, rule=rule, classes=10)
    unknown = ThreatModel(rule=False).view(network=network, update=sent, batch=batch, rule=rule, classes=10)
    for name in sent:
        torch.testing.assert_close(seen.latest.update[name], sent[name] / 0.25)
        assert torch.equal(unknown.latest.update[name], sent[name])


def normed() -> tuple[nn.Module, PrivateBatch]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)).double()
    _, batch = setting(6)
    return network, batch


@pytest.mark.parametrize("sent", [True, False])
def test_statistics_are_sent_or_withheld_and_lead_to_those_of_a_real_client(sent: bool) -> None:
    network, batch = normed()
    for rule in (FedSGD(statistics=sent), FedAvg(statistics=sent)):
        update = rule(network, batch, chance())
        assert ("2.running_mean" in update) is sent
        view = ThreatModel().view(network=network, update=update, batch=batch, rule=rule, classes=10)
        assert set(view.latest.update) == {name for name, _ in network.named_parameters()}
        assert set(view.latest.statistics) == ({"2.running_mean", "2.running_var"} if sent else set())
        if sent:
            client = copy.deepcopy(network)
            client(batch.inputs)
            for name, value in view.latest.statistics.items():
                torch.testing.assert_close(network.get_buffer(name) - value, client.get_buffer(name))


def test_batch_norm_runs_in_the_mode_asked_for() -> None:
    network, batch = normed()
    evaluated = copy.deepcopy(network).eval()
    for rule, same in (
        (FedSGD(batch_norm=BatchNorm.EVAL), FedSGD()(evaluated, batch, chance())),
        (FedAvg(batch_norm=BatchNorm.EVAL, lr=0.1), FedAvg(lr=0.1)(evaluated, batch, chance())),
    ):
        update = rule(network, batch, chance())
        trained = (FedSGD() if isinstance(rule, FedSGD) else FedAvg(lr=0.1))(network, batch, chance())
        assert all(torch.equal(update[name], same[name]) for name in same)
        assert not torch.equal(update["1.weight"], trained["1.weight"])
        assert rule.traces is Traces.ALONG_THE_WAY
    assert network.training
    update = FedSGD(batch_norm=BatchNorm.TRAIN)(evaluated, batch, chance())
    assert torch.equal(update["1.weight"], FedSGD()(network, batch, chance())["1.weight"])
    assert not evaluated.training


def test_the_callers_network_and_the_global_chance_stay_as_they_were() -> None:
    network, batch = normed()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    FedAvg(epochs=2, local_batch=3, lr=0.5, statistics=True)(network, batch, chance())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_and_unused_parameters_are_not_sent() -> None:
    network, batch = setting()
    network.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    first, *trained = [name for name, _ in network.named_parameters() if name != "unused"]
    network.get_parameter(first).requires_grad_(requires_grad=False)
    assert set(FedAvg(weight_decay=0.1)(network, batch, chance())) == set(trained)


def test_a_diverging_client_is_said() -> None:
    network, batch = setting()
    with pytest.raises(InputError, match="should stay finite"):
        FedAvg(epochs=40, lr=1e308)(network, batch, chance())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("epochs", 10**9),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("local_batch", 0),
    ],
)
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"`{option}`"):
        FedAvg(**{option: value})  # type: ignore[arg-type]


def test_steps_beyond_any_client_are_refused_before_the_first() -> None:
    network, batch = setting()
    with pytest.raises(InputError, match="100,000 local steps at most; found"):
        FedAvg(epochs=100_000, local_batch=1)(network, batch, chance())


def test_a_local_batch_beyond_the_examples_is_all_of_them() -> None:
    network, batch = setting()
    whole, beyond = (FedAvg(local_batch=size)(network, batch, chance()) for size in (len(batch), 10**30))
    assert all(beyond[name].equal(value) for name, value in whole.items())
