"""Without a replay, zeros and rank certify exactly where the client's rule promises what they rest on."""

import dataclasses

import pytest
import torch

from seepage.attacks.budget import Budget
from seepage.attacks.spear import SPEAR
from seepage.audit.catalogue import build_defense, build_rule
from seepage.data.sources import load_dataset
from seepage.networks.layers import read_layers
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, Reconstruction, ThreatModel


def observe(
    rule: str, *defenses: str, count: int = 4, spec: str = "mlp:200,150", dtype: torch.dtype = torch.float64
) -> tuple[Observation, PrivateBatch]:
    digits = load_dataset("digits")
    drawn = digits.batch(torch.arange(count) * 131)
    batch = PrivateBatch(inputs=drawn.inputs.to(dtype), labels=drawn.labels)
    network = build_network(spec, input_shape=digits.input_shape, classes=10, seed=0).to(dtype)
    chance = torch.Generator().manual_seed(0)
    made = build_rule(rule)
    update = made(network, batch, chance)
    for text in defenses:
        update = build_defense(text)(update, chance)
    return ThreatModel().view(network=network, update=update, batch=batch, rule=made, classes=10), batch


def invert(seen: Observation, *, inner: bool = False) -> Reconstruction:
    layers = read_layers(seen.latest.network, seen.input_shape).layers
    attack = SPEAR(layer=layers[1].name if inner else None, budget=Budget(samples=30_000))
    return attack(seen, generator=torch.Generator().manual_seed(0))


def assert_certified_inputs_are_true(result: Reconstruction, batch: PrivateBatch) -> None:
    assert result.inputs is not None
    rows = result.inputs[result.certified].flatten(1)
    assert len(rows)
    assert float(torch.cdist(rows, batch.inputs.flatten(1), p=torch.inf).min(dim=1).values.max()) < 1e-3


@pytest.mark.parametrize(
    "rule", ["dpsgd:clip=0.5,noise=0", "fedavg:epochs=2,lr=0.001", "sum:2,of=dpsgd:clip=1,noise=0"]
)
def test_a_sum_of_gradients_of_single_examples_is_certified_at_the_first_layer(rule: str) -> None:
    seen, batch = observe(rule)
    result = invert(seen)
    assert_certified_inputs_are_true(result, batch)
    assert "plain gradient" in str(result.stats["replay"])
    assert result.labels is None  # labels come from the replay alone


def test_one_local_step_on_the_whole_batch_is_replayed() -> None:
    seen, batch = observe("fedavg:lr=0.05,momentum=0.9,weight_decay=0.01")
    result = invert(seen)
    assert result.outcome is Outcome.EXACT, result.reason
    assert result.labels is not None
    assert result.labels.sort().values.equal(batch.labels.sort().values)


def test_momentum_and_weight_decay_of_many_steps_leave_the_inputs_in_place() -> None:
    seen, batch = observe("fedavg:epochs=4,lr=0.0005,momentum=0.9,weight_decay=0.1")
    assert_certified_inputs_are_true(invert(seen), batch)


def test_an_inner_layer_is_certified_at_the_state_sent_out_only() -> None:
    plain = invert(observe("fedsgd")[0], inner=True)
    clipped = invert(observe("dpsgd:clip=0.5,noise=0")[0], inner=True)
    assert bool(plain.certified.all())
    assert bool(clipped.certified.all())
    moved = invert(observe("fedavg:epochs=2,lr=1e-7")[0], inner=True)
    assert not bool(moved.certified.any())
    assert moved.outcome is not Outcome.EXACT


def test_the_same_update_is_not_certified_where_the_rule_promises_nothing_or_is_unknown() -> None:
    seen, _ = observe("dpsgd:clip=0.5,noise=0")
    assert invert(seen).outcome is Outcome.EXACT
    for rule, word in ((build_rule("dpsgd:noise=0.1"), "no sum of gradients"), (None, "without knowing")):
        result = invert(dataclasses.replace(seen, rule=rule))
        assert result.outcome is Outcome.APPROXIMATE
        assert not bool(result.certified.any())
        assert word in result.reason


def test_the_sign_of_one_examples_gradient_is_not_taken_for_the_gradient() -> None:
    # Its rank is one again, its zeros are the true ones, and nothing is pinned: only a replay could tell.
    for rule, inner in (("fedsgd", True), ("fedavg:epochs=2,lr=1e-6", False)):
        result = invert(observe(rule, "sign", count=1)[0], inner=inner)
        assert not bool(result.certified.any())
    result = invert(observe("fedsgd", "sign", count=1)[0])
    assert not bool(result.certified.any())


@pytest.mark.parametrize(
    ("rule", "defenses"), [("fedavg:lr=0.001", []), ("fedsgd", ["noise:2e-5,relative=true"])], ids=["weights", "noise"]
)
def test_what_came_out_too_rough_is_found_and_not_certified(rule: str, defenses: list[str]) -> None:
    # A large number in a table has more digits than a pixel: the same rows, said to be no image.
    seen, batch = observe(rule, *defenses, dtype=torch.float32)
    seen = dataclasses.replace(seen, input_shape=(64,))
    result = invert(seen)
    assert result.outcome is Outcome.APPROXIMATE
    assert not bool(result.certified.any())
    assert "too rough" in result.reason
    assert result.inputs is not None
    found = result.inputs.flatten(1)
    assert float(torch.cdist(found, batch.inputs.flatten(1), p=torch.inf).min(dim=1).values.max()) < 1e-2
    precise = invert(observe("fedavg:lr=0.001")[0])
    assert precise.outcome is Outcome.EXACT


def test_a_reason_does_not_deny_what_it_counts_as_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SPEAR, "patience", 0)
    result = invert(observe("fedavg:epochs=4,lr=0.01", spec="mlp:400")[0])
    assert 0 < int(result.certified.sum()) < 4
    assert "certifies the whole batch; " in result.reason
    assert "could be certified" not in result.reason


def test_inputs_that_depend_on_one_another_are_not_called_a_changed_update() -> None:
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(11, 12, generator=chance)
    inputs[:, :2] = 0  # two constant columns of a table: 11 examples in 10 dimensions
    batch = PrivateBatch(inputs=inputs, labels=torch.randint(3, (11,), generator=chance))
    network = build_network("mlp:200,100", input_shape=(12,), classes=3, seed=0)
    made = build_rule("fedsgd")
    seen = ThreatModel().view(network=network, update=made(network, batch, chance), batch=batch, rule=made, classes=3)
    result = SPEAR(budget=Budget(samples=20_000))(seen, generator=torch.Generator().manual_seed(0))
    assert not bool(result.certified.any())
    assert "more examples than the 10 dimensions (of 12) that its inputs span" in result.reason


@pytest.mark.parametrize("rule", ["fedsgd", "dpsgd:clip=0.5,noise=0", "fedavg:epochs=2,lr=0.01"])
@pytest.mark.parametrize("seed", [0, 2])
def test_a_bias_gradient_that_was_cut_certifies_nothing(rule: str, seed: int) -> None:
    # Digits in [0, 1] have so many zeros that top-k at a half cuts nothing but entries of the bias gradient: the rank
    # and all zeros stay as they were, and every input comes out a few grey levels too dark or too bright.
    digits = load_dataset("digits", normalize="none")
    batch = digits.batch(torch.arange(4) * 131 + seed)
    network = build_network("mlp:200,100", input_shape=digits.input_shape, classes=10, seed=seed)
    made, chance = build_rule(rule), torch.Generator().manual_seed(0)
    sent = made(network, batch, chance)
    for text, certified in (("topk:0.5", False), ("topk:0.9", True)):
        update = build_defense(text)(sent, chance)
        seen = ThreatModel().view(network=network, update=update, batch=batch, rule=made, classes=10)
        result = invert(seen)
        assert bool(result.certified.any()) is certified, text
        if certified:
            assert_certified_inputs_are_true(result, batch)
        else:
            assert "bias gradient does not fit" in str(result.stats["replay"])


@pytest.mark.parametrize("pattern", ["1", "1.bias", "*.weight", "*"])
def test_dropped_tensors_are_an_obstacle_or_another_layer_is_attacked(pattern: str) -> None:
    names = [layer.name for layer in read_layers(observe("fedsgd")[0].latest.network, (1, 8, 8)).layers]
    assert names[0] == "1"
    seen, _ = observe("fedsgd", f"drop:{pattern}")
    told = SPEAR(layer="1").obstacles(seen)
    assert [word in str(told[0]) for word in ("holds no gradient", "withheld")] == [True, True]
    if pattern.startswith("1"):
        assert not SPEAR().obstacles(seen)  # the next layer still shows its inputs
        assert invert(seen).layer == names[1]
    else:
        assert SPEAR().obstacles(seen)
