"""How exact attacks end where inputs, updates or the user leave them little: with the right sentence."""

from collections.abc import Callable

import pytest
import torch

from seepage.attacks.auto import Auto
from seepage.attacks.budget import SPENT, Budget
from seepage.attacks.exactify import Exactify
from seepage.attacks.prism import PRISM
from seepage.attacks.spear import SPEAR
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import (
    INTERRUPTED,
    Attack,
    GradientUpdate,
    Observation,
    Outcome,
    PrivateBatch,
    ThreatModel,
)

DIGITS = load_dataset("digits")
SHORT = Budget(samples=300)


def batch_of(size: int) -> PrivateBatch:
    return DIGITS.batch(torch.randperm(len(DIGITS), generator=chance())[:size])


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def observed(text: str, batch: PrivateBatch, *, factor: float = 1.0, announced: bool = True) -> Observation:
    network = build_network(text, input_shape=DIGITS.input_shape, classes=10, seed=2)
    plain = FedSGD()(network, batch, chance())
    update = GradientUpdate({name: factor * value for name, value in plain.items()})
    knows = ThreatModel(batch_size=announced)
    return knows.view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10)


def constant(size: int) -> PrivateBatch:
    """Images of one grey each: together they span one dimension."""
    greys = torch.randn(size, 1, 1, 1, generator=chance())
    return PrivateBatch(inputs=greys.expand(-1, *DIGITS.input_shape).clone(), labels=torch.arange(size))


@pytest.mark.parametrize("network", ["mlp:40,40", "mlp:40,40:gelu"])
def test_inputs_that_depend_on_one_another_are_named(network: str) -> None:
    found = PRISM(budget=SHORT)(observed(network, constant(6)), generator=chance())
    assert found.outcome is Outcome.FAILED
    assert "announced 6 examples and the gradient has rank 1" in found.reason
    assert "too large" not in found.reason


@pytest.mark.parametrize("attack", [SPEAR(), Auto()])
def test_the_one_direction_of_a_gradient_of_rank_one_is_asked_once(attack: SPEAR | Auto) -> None:
    """It was drawn again, some ten million times a second, for the ten minutes of the budget."""
    found = attack(observed("mlp:40,40", constant(6)), generator=chance())
    assert found.outcome is Outcome.FAILED
    assert float(found.stats["samples"]) <= 256
    assert "has rank 1, and too few units are off for the one direction" in found.reason


@pytest.mark.parametrize("network", ["mlp:40,40", "mlp:40,40:gelu"])
@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e20, 1e30])
def test_updates_of_any_size_break_nothing(network: str, factor: float) -> None:
    batch = batch_of(4)
    found = PRISM(budget=SHORT)(observed(network, batch, factor=factor), generator=chance())
    assert found.outcome is not Outcome.EXACT
    assert found.reason
    if found.inputs is not None:
        apart = torch.cdist(found.inputs.flatten(1), batch.inputs.flatten(1)).min(dim=1).values
        assert bool((apart[found.certified] < 1e-3).all())


def test_a_budget_of_nothing_is_named_as_the_cause() -> None:
    found = Auto(budget=Budget(samples=1))(observed("mlp:40,40:gelu", batch_of(12)), generator=chance())
    assert found.outcome is Outcome.FAILED
    assert found.reason.startswith("Stopped because the budget ended. No start came nearer")
    assert "the budget may be too small" in found.reason


def test_what_is_left_of_a_budget_comes_in_tenths_and_is_never_nothing() -> None:
    both = Budget(samples=100, seconds=2.0)
    assert both.share_left(0, 0.0) == 1.0
    assert both.share_left(30, 0.1) == 0.7
    assert both.share_left(30, 1.0) == 0.5
    assert both.share_left(10_000, 50.0) == 0.1
    assert both.part(0.1) == Budget(samples=10, seconds=0.2)
    assert Budget(samples=1).part(0.1) == Budget(samples=1)
    assert Budget().part(Budget().share_left(9, 9.0)) == Budget()


def test_matching_has_what_spans_left_of_the_budget_and_its_control_no_more() -> None:
    attack = Auto(budget=Budget(samples=60))
    found = attack(observed("mlp:16,16:gelu", batch_of(14)), generator=chance())
    assert found.stats["chosen"] == "ig"
    assert found.stats["budget_share"] == 0.1
    assert found.stats["iterations"] == 6
    assert "in the 10% of the budget that was left" in str(found.stats["because"])
    assert attack.by_the_way_of(found.stats) == Auto(budget=Budget(samples=6), inverts=False)


def test_what_was_tried_in_vain_is_not_said_to_be_impossible() -> None:
    """Nothing tells matching the batch size, which spans do not need."""
    view = observed("mlp:40,40:gelu", batch_of(12), announced=False)
    found = Auto(budget=Budget(samples=1))(view, generator=chance())
    assert found.stats["stopped"] == SPENT
    assert found.stats["chosen"] == "prism"
    assert found.inputs is not None
    assert "batch size" in found.reason


def test_nothing_is_rounded_after_an_interruption(guessing: Callable[..., Attack]) -> None:
    batch = batch_of(4)
    rough = guessing(batch, stopped=INTERRUPTED)
    found = Exactify(attack=rough)(observed("mlp:40,40", batch), generator=chance())
    assert found.stats == {"stopped": INTERRUPTED}
    assert not bool(found.certified.any())


def test_exact_inputs_of_any_size_find_their_places(guessing: Callable[..., Attack]) -> None:
    batch = batch_of(4)
    huge = PrivateBatch(inputs=1e20 * batch.inputs, labels=batch.labels)
    view = observed("mlp:40,40", huge, factor=7.0)
    found = Exactify(attack=guessing(huge, noise=0.2))(view, generator=chance())
    assert found.outcome is Outcome.APPROXIMATE
    assert int(found.certified.sum()) == found.stats["exactify_directions"]


def test_rounding_says_at_which_layer_and_what_is_still_in_doubt(guessing: Callable[..., Attack]) -> None:
    batch = batch_of(4)
    view = observed("mlp:40,40", batch, factor=7.0)
    found = Exactify(attack=guessing(batch, noise=0.2))(view, generator=chance())
    assert found.outcome is Outcome.APPROXIMATE
    assert "It is near. Rounded at layer 1: 4 of 4 became exact." in found.reason
    assert "explain 7.0000 of the loss" in found.reason
