"""Exact batches from layers that go into anything but a ReLU: later layers tell their inputs apart."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from seepage.attacks.auto import Auto
from seepage.attacks.budget import SPENT, Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_input_layer, find_layer
from seepage.attacks.exactify import Exactify
from seepage.attacks.prism import PRISM
from seepage.attacks.spear import SPEAR
from seepage.audit.preflight import inspect_network
from seepage.data.sources import load_dataset
from seepage.federated.dpsgd import DPSGD
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import (
    INTERRUPTED,
    Attack,
    GradientUpdate,
    Observation,
    Outcome,
    PrivateBatch,
    Reconstruction,
    ThreatModel,
    UpdateRule,
)

DIGITS = load_dataset("digits")
KNOWN = ThreatModel(batch_size=True)


def batch_of(size: int, seed: int = 1) -> PrivateBatch:
    return DIGITS.batch(torch.randperm(len(DIGITS), generator=torch.Generator().manual_seed(seed))[:size])


def observed(
    network: nn.Module, batch: PrivateBatch, rule: UpdateRule | None = None, knows: ThreatModel = KNOWN
) -> Observation:
    rule = FedSGD() if rule is None else rule
    update = rule(network, batch, torch.Generator().manual_seed(0))
    return knows.view(network=network, update=update, batch=batch, rule=rule, classes=10)


def built(text: str) -> nn.Module:
    return build_network(text, input_shape=DIGITS.input_shape, classes=10, seed=2)


def run(attack: Attack, observation: Observation) -> Reconstruction:
    return attack(observation, generator=torch.Generator().manual_seed(0))


def farthest(found: Reconstruction, batch: PrivateBatch) -> float:
    """Of the originals from the nearest reconstruction."""
    assert found.inputs is not None
    apart = torch.cdist(batch.inputs.flatten(1).double(), found.inputs.flatten(1).double(), p=torch.inf)
    return float(apart.min(dim=1).values.max())


def stack(activation: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 80), *([norm] if norm else []), activation, nn.Linear(80, 80), activation]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(80, 10))


class Residual(nn.Module):
    """Blocks around skips, written as functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(64, 80), nn.Linear(80, 80), nn.Linear(80, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = silu(self.first(inputs.flatten(1)))
        return self.last(hidden + torch.tanh(self.second(hidden)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "network",
    [
        *(stack(one) for one in (nn.GELU(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(), nn.ELU(), nn.Softplus())),
        stack(nn.GELU(), nn.LayerNorm(80)),
        stack(nn.GELU(), nn.BatchNorm1d(80)).eval(),
        stack(nn.GELU()).double(),
        Residual(),
    ],
    ids=["gelu", "sigmoid", "tanh", "leaky", "elu", "softplus", "layer norm", "batch norm", "double", "residual"],
)
def test_a_batch_comes_out_exact_with_its_labels(network: nn.Module) -> None:
    batch = batch_of(10)
    if next(network.parameters()).dtype == torch.float64:
        batch = PrivateBatch(inputs=batch.inputs.double(), labels=batch.labels)
    found = run(PRISM(budget=Budget(samples=5000)), observed(network, batch))
    assert found.outcome is Outcome.EXACT, found.reason
    assert farthest(found, batch) < 1e-3
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == sorted(batch.labels.tolist())


def test_auto_takes_it_and_says_why() -> None:
    batch = batch_of(6)
    found = run(Auto(), observed(built("mlp:60,60:gelu"), batch))
    assert found.outcome is Outcome.EXACT, found.reason
    assert found.stats["chosen"] == "prism"
    assert "later layers" in str(found.stats["because"])


def test_auto_prefers_the_inputs_of_the_network_to_those_of_an_inner_layer() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.Tanh(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 10))
    batch = batch_of(6)
    found = run(Auto(), observed(network, batch))
    assert found.layer == ""
    assert farthest(found, batch) < 1e-3


def test_one_example_needs_no_later_layer_and_one_too_many_ends_in_words() -> None:
    batch = batch_of(1)
    assert run(PRISM(), observed(built("mlp:40:sigmoid"), batch)).outcome is Outcome.EXACT
    many = observed(built("mlp:60:gelu"), batch_of(12), knows=ThreatModel())  # the output layer has ten units
    found = run(PRISM(budget=Budget(samples=500)), many)
    assert found.outcome is Outcome.FAILED
    assert "more than 12 inputs and outputs" in found.reason


def test_nothing_of_a_part_is_certified() -> None:
    """Without zeros only the whole batch is a proof: an update that holds more than its examples has none."""
    network, batch = built("mlp:60,60:gelu"), batch_of(6)
    plain = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    moved = {name: value.clone() for name, value in plain.items()}
    last = list(moved)[-1]
    moved[last] = moved[last] + 0.05 * moved[last].norm() * torch.randn(moved[last].shape) / 3
    view = KNOWN.view(network=network, update=GradientUpdate(moved), batch=batch, rule=FedSGD(), classes=10)
    found = run(PRISM(budget=Budget(samples=2000)), view)
    assert farthest(found, batch) < 1e-3
    assert not bool(found.certified.any())


@pytest.mark.parametrize("twin", [0.0, 1e-3, 1e-2])
def test_near_copies_are_not_certified(twin: float) -> None:
    batch = batch_of(6)
    inputs, labels = batch.inputs.clone(), batch.labels.clone()
    inputs[1] = inputs[0] + twin * torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(5))
    labels[1] = labels[0]
    batch = PrivateBatch(inputs=inputs, labels=labels)
    found = run(PRISM(budget=Budget(samples=2000)), observed(built("mlp:60,60:gelu"), batch))
    if found.inputs is None:  # layers disagree about how many examples there are
        assert found.outcome is Outcome.FAILED
        return
    originals = batch.inputs.flatten(1).double()
    apart = torch.cdist(found.inputs.flatten(1).double(), originals, p=torch.inf).min(dim=1).values
    assert bool((apart[found.certified] < 1e-3).all())


@pytest.mark.parametrize(
    ("network", "rule", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 10)), None, "convolution"),
        (stack(nn.GELU()), DPSGD(clip=1.0, noise=0.0), "plain gradient"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), None, "no linear layer comes later"),
    ],
)
def test_obstacles_say_what_is_in_the_way(network: nn.Module, rule: UpdateRule | None, words: str) -> None:
    observation = observed(network, batch_of(6), rule)
    obstacles = PRISM().obstacles(observation)
    assert any(words in one.reason for one in obstacles)
    assert isinstance(find_layer(observation), list)


def test_attacks_on_zeros_still_refuse_and_a_layer_can_be_named() -> None:
    observation = observed(built("mlp:60,60:gelu"), batch_of(6))
    assert "no zeros" in str(SPEAR().obstacles(observation)[0])
    named = find_input_layer(observation, "1")
    assert isinstance(named, AttackedLayer)
    assert not named.relu
    assert not named.gated
    inner = find_input_layer(observation, "3")
    assert isinstance(inner, list)
    assert "does not read the network's input" in inner[0].reason


def test_a_network_that_calls_one_module_twice_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(60, 60)
    hidden = [nn.Linear(64, 60), nn.GELU(), shared, nn.GELU(), shared, nn.GELU(), nn.Linear(60, 60), nn.GELU()]
    network, batch = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(60, 10)), batch_of(6)
    before = {name: (value, value.detach().clone()) for name, value in network.named_parameters()}
    found = run(PRISM(budget=Budget(samples=2000)), observed(network, batch))
    assert found.outcome is Outcome.EXACT, found.reason
    after = dict(network.named_parameters())
    assert all(after[name] is kept and torch.equal(kept, value) for name, (kept, value) in before.items())


class Fitting:
    """Lets so many steps of the fit pass, then says no, or only that time has passed."""

    def __init__(self, steps: int, *, stops: bool) -> None:
        self.steps, self.stops = steps, stops
        self.seconds, self.asked = 0.0, 0

    def __call__(self, done: int, total: int | None, note: str) -> bool:  # noqa: ARG002
        if "fitted" in note:
            self.asked += 1
        over = self.asked > self.steps
        self.seconds = 1e6 if over else 0.0
        return not (over and self.stops)


@pytest.mark.parametrize("steps", [0, 40])
@pytest.mark.parametrize("stops", [True, False], ids=["interrupted", "budget"])
def test_a_fit_ends_when_it_is_told_to_or_the_budget_is_spent(
    steps: int, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, watch = batch_of(10), Fitting(steps, stops=stops)
    monkeypatch.setattr(time, "monotonic", lambda: watch.seconds)
    attack = Auto(budget=Budget(seconds=1e3))
    view = observed(built("mlp:60,60:gelu"), batch)
    found = attack(view, generator=torch.Generator().manual_seed(0), progress=watch)
    assert watch.asked == steps + 1
    assert found.outcome is Outcome.APPROXIMATE
    assert found.stats["stopped"] == (INTERRUPTED if stops else SPENT)
    assert "cut short" in found.reason
    assert "too rough" not in found.reason
    assert not bool(found.certified.any())
    assert farthest(found, batch) < 1e-3


def test_a_single_example_is_fitted_in_few_steps() -> None:
    asked = 0

    def count(done: int, total: int | None, note: str) -> bool:
        nonlocal asked
        asked += "fitted" in note
        return True

    view = observed(built("mlp:40,40:gelu"), batch_of(1))
    found = PRISM()(view, generator=torch.Generator().manual_seed(0), progress=count)
    assert found.outcome is Outcome.EXACT
    assert found.reason == "Stopped because the certificate holds; the one example is certified."
    assert 0 < asked < 33 * 6 * 3  # fits, rounds of each, steps of one unknown and a look before


@pytest.mark.parametrize("network", ["mlp:30,60:gelu", "mlp:24,60,60"])
def test_a_rough_reconstruction_becomes_exact_at_two_units_an_example(
    network: str, guessing: Callable[..., Attack]
) -> None:
    batch = batch_of(12)
    found = run(Exactify(attack=guessing(batch, noise=1.0)), observed(built(network), batch))
    assert found.outcome is Outcome.EXACT, found.reason
    assert farthest(found, batch) < 1e-3


def test_inspection_names_the_layer_and_how_many_examples_it_holds() -> None:
    found = inspect_network(built("mlp:60,50:gelu"), input_shape=DIGITS.input_shape, classes=10)
    assert found.attackable is None
    assert found.spanned is not None
    assert (found.spanned.name, found.span_limit) == ("1", 50)
    zeros = inspect_network(built("mlp:60,50"), input_shape=DIGITS.input_shape, classes=10)
    assert zeros.spanned is None
    assert zeros.span_limit == 0
