"""SPEAR: exact on real batches, honest on the rest, and its theory as published."""

import math

import pytest
import torch
from torch import Tensor, nn

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR, expected_samples, failure_probability, zero_share_threshold
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match
from seepage.networks.zoo import build_network
from seepage.types import (
    INTERRUPTED,
    GradientUpdate,
    Observation,
    Outcome,
    PrivateBatch,
    Reconstruction,
    Round,
    ThreatModel,
)


def network_for(spec: str, source: str = "digits") -> nn.Module:
    dataset = load_dataset(source)
    return build_network(spec, input_shape=dataset.input_shape, classes=dataset.classes, seed=0)


def draw(source: str, count: int, seed: int = 0) -> PrivateBatch:
    dataset = load_dataset(source)
    return dataset.batch(torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count])


def observe(network: nn.Module, batch: PrivateBatch, change: dict[str, Tensor | None] | None = None) -> Observation:
    """The round as the server sees it; ``change`` replaces tensors of the update or takes them out."""
    update = dict(FedSGD()(network, batch, torch.Generator().manual_seed(0)))
    for name, value in (change or {}).items():
        if value is None:
            del update[name]
        else:
            update[name] = value
    classes = 10 if batch.inputs.shape[1] == 1 else 2
    knows = ThreatModel(batch_size=len(batch) < 4)  # which one to three examples of two classes need
    return knows.view(network=network, update=GradientUpdate(update), batch=batch, rule=FedSGD(), classes=classes)


def run(observation: Observation, attack: SPEAR | None = None) -> Reconstruction:
    return (attack or SPEAR())(observation, generator=torch.Generator().manual_seed(0))


def assert_exact(result: Reconstruction, batch: PrivateBatch) -> None:
    assert result.outcome is Outcome.EXACT, result.reason
    assert result.inputs is not None
    assert result.labels is not None
    places = match(result.inputs, batch.inputs)
    torch.testing.assert_close(result.inputs[places], batch.inputs, atol=1e-3, rtol=0)
    assert result.labels[places].equal(batch.labels)


@pytest.mark.parametrize(
    ("source", "spec", "b"),
    [*(("digits", "mlp:200,100", b) for b in (1, 2, 5, 10)), *(("photos", "mlp:200,100", b) for b in (1, 2))],
)
def test_a_batch_comes_out_exact_with_its_labels(source: str, spec: str, b: int) -> None:
    batch = draw(source, b)
    assert_exact(run(observe(network_for(spec, source), batch)), batch)


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}


def test_an_inner_layer_yields_its_inputs() -> None:
    network, batch = network_for("mlp:200,200,100"), draw("digits", 4)
    name = list(linear_layers(network))[1]
    result = run(observe(network, batch), SPEAR(layer=name))
    truth: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_pre_hook(lambda _, given: truth.append(given[0].detach()))
    with torch.no_grad():
        network(batch.inputs)
    handle.remove()
    assert result.layer == name
    assert result.inputs is not None
    assert result.inputs.shape == (4, 200)
    assert bool(result.certified.all())
    places = match(result.inputs, truth[0])
    torch.testing.assert_close(result.inputs[places], truth[0], atol=1e-3, rtol=0)


def test_units_that_no_example_wakes_do_no_harm() -> None:
    network, batch = network_for("mlp:200,100"), draw("digits", 6)
    first = next(iter(linear_layers(network).values()))
    with torch.no_grad():
        first.bias[:60] = -1e4
    assert_exact(run(observe(network, batch)), batch)


def test_a_spent_budget_of_samples_returns_what_there_is_with_a_reason() -> None:
    batch = draw("digits", 20)
    result = run(observe(network_for("mlp:200,100"), batch), SPEAR(budget=Budget(samples=500)))
    assert result.outcome is not Outcome.EXACT
    assert result.stats["stopped"] == "the budget ended"
    assert result.reason
    assert float(result.stats["samples"]) < 2000


def test_an_interruption_returns_what_there_is() -> None:
    observation = observe(network_for("mlp:200,100"), draw("digits", 14))
    result = SPEAR()(observation, generator=torch.Generator().manual_seed(0), progress=lambda *_: False)
    assert result.outcome is not Outcome.EXACT
    assert result.stats["stopped"] == INTERRUPTED
    assert result.reason


def test_of_duplicates_the_distinct_ones_are_found_and_none_is_wrong() -> None:
    some = draw("digits", 5)
    twice = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    batch = PrivateBatch(inputs=some.inputs[twice], labels=some.labels[twice])
    result = run(observe(network_for("mlp:200,100"), batch))
    assert result.inputs is not None
    assert len(result.inputs) == 5
    places = match(result.inputs, some.inputs)
    once = torch.zeros(5, dtype=torch.bool).index_fill(0, places[2:], value=True)
    assert result.certified.equal(once), result.reason  # what occurs twice may be the mean of near-copies
    torch.testing.assert_close(result.inputs[places], some.inputs, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("m", "tau"), [(200, 0.290), (1000, 0.405), (2000, 0.433)])
def test_the_threshold_is_the_published_one(m: int, tau: float) -> None:
    assert zero_share_threshold(m, 1e-9) == pytest.approx(tau, abs=0.0051)


TABLE = {
    200: (1.8e3, 8.9e4, 4.9e6, 3.1e8, 2.3e10),
    400: (1.6e3, 6.9e4, 3.0e6, 1.3e8, 6.4e9),
    2000: (1.5e3, 5.7e4, 2.1e6, 7.4e7, 2.6e9),
}


@pytest.mark.parametrize(("m", "expected"), TABLE.items())
def test_expected_samples_are_the_published_ones(m: int, expected: tuple[float, ...]) -> None:
    for b, samples in zip((10, 15, 20, 25, 30), expected, strict=True):
        assert expected_samples(b, m) == pytest.approx(samples, rel=0.1)


def test_expected_samples_are_infinite_where_too_few_units_are_off() -> None:
    assert math.isinf(expected_samples(12, 20))


def test_failure_falls_with_the_width_and_grows_with_the_batch() -> None:
    assert failure_probability(10, 40) > failure_probability(10, 60) > failure_probability(10, 100)
    assert failure_probability(5, 40) < failure_probability(10, 40) <= 1


def obstacles(observation: Observation) -> str:
    return " ".join(str(obstacle) for obstacle in SPEAR().obstacles(observation))


def test_a_gelu_network_is_an_obstacle() -> None:
    assert "ReLU" in obstacles(observe(network_for("mlp:50,50:gelu"), draw("digits", 3)))


def test_a_network_of_convolutions_is_an_obstacle() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 6), nn.Flatten())
    assert "convolution" in obstacles(observe(network, draw("digits", 3)))


@pytest.mark.parametrize(
    ("part", "made", "said"),
    [
        ("bias", None, "holds no gradient"),
        ("weight", None, "holds no gradient"),
        ("weight", torch.zeros(50, 64), "all zero"),
        ("bias", torch.zeros(50), "all zero"),
        ("weight", torch.ones(64, 50), "should have shape"),
    ],
)
def test_an_update_without_what_is_needed_is_an_obstacle(part: str, made: Tensor | None, said: str) -> None:
    network = network_for("mlp:50")
    name = next(iter(linear_layers(network)))
    observation = observe(network, draw("digits", 3), {f"{name}.{part}": made})
    assert said in obstacles(observation)
    with pytest.raises(ValueError, match="obstacles"):
        run(observation)


def test_full_rank_noise_fails_with_a_reason() -> None:
    network = network_for("mlp:50")
    name = next(iter(linear_layers(network)))
    noise = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    result = run(observe(network, draw("digits", 3), {f"{name}.weight": noise}))
    assert result.outcome is Outcome.FAILED
    assert "no rank below" in result.reason


def test_a_known_batch_size_that_disagrees_is_said() -> None:
    network, batch = network_for("mlp:200,100"), draw("digits", 4)
    seen = observe(network, batch)
    latest = Round(network=network, update=seen.latest.update, batch_size=5)
    result = run(Observation(rounds=(latest,), input_shape=seen.input_shape, classes=10, rule=FedSGD()))
    assert result.outcome is Outcome.APPROXIMATE
    assert "announced 5" in result.reason


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_false_rejection_outside_the_open_interval_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="false_rejection"):
        SPEAR(false_rejection=share)
