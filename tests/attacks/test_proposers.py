"""SPEAR++, PRISM, Auto and Exactify: whole batches, exactly, and what they say when they cannot."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from seepage.attacks.auto import Auto, choose_attack
from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.portfolio import Turns
from seepage.attacks.disaggregation.solution import Solution, better
from seepage.attacks.exactify import Exactify
from seepage.attacks.prism import PRISM
from seepage.attacks.spear import SPEAR
from seepage.attacks.spearpp import SPEARPlusPlus
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import (
    INTERRUPTED,
    Attack,
    Observation,
    Outcome,
    PrivateBatch,
    Progress,
    Reconstruction,
    ThreatModel,
    go_on,
)

EXACT_TO = 1e-3


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def observed(dataset: Dataset, batch_size: int, network: str, seed: int = 0) -> tuple[Observation, PrivateBatch]:
    """What a server sees of one round, and the batch that only the test sees."""
    built = build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=draw)[:batch_size])
    update = FedSGD()(built, batch, draw)
    view = ThreatModel().view(network=built, update=update, batch=batch, rule=FedSGD(), classes=dataset.classes)
    return view, batch


def run(attack: Attack, observation: Observation, progress: Progress = go_on) -> Reconstruction:
    assert not attack.obstacles(observation)
    return attack(observation, generator=torch.Generator().manual_seed(0), progress=progress)


def assert_whole(result: Reconstruction, batch: PrivateBatch) -> None:
    """EXACT, and every example is there with its label."""
    assert result.outcome is Outcome.EXACT, result.reason
    assert result.inputs is not None
    assert result.labels is not None
    distance = torch.cdist(result.inputs.flatten(1), batch.inputs.flatten(1), p=torch.inf)
    nearest = distance.min(dim=1)
    assert float(nearest.values.max()) <= EXACT_TO
    assert sorted(nearest.indices.tolist()) == list(range(len(batch)))
    assert torch.equal(result.labels, batch.labels[nearest.indices])


@pytest.mark.parametrize("attack", [SPEARPlusPlus(), PRISM(), Auto()], ids=lambda attack: attack.name)
@pytest.mark.parametrize("network", ["mlp:300,100", "mlp:300,100,100,100"])
def test_a_batch_beyond_the_reach_of_sampling_is_whole(attack: Attack, network: str, digits: Dataset) -> None:
    observation, batch = observed(digits, 28, network)
    assert_whole(run(attack, observation), batch)


def test_prism_needs_fewer_units_than_the_search_on_zeros_alone(shared_data: object) -> None:
    dataset = load_dataset(f"{shared_data}/cifar10/cifar10_test.npz")
    observation, batch = observed(dataset, 40, "mlp:200,100")
    assert_whole(run(PRISM(), observation), batch)
    assert run(SPEARPlusPlus(budget=Budget(samples=4000)), observation).outcome is not Outcome.EXACT


def test_prism_sees_through_one_hidden_layer(shared_data: object) -> None:
    dataset = load_dataset(f"{shared_data}/cifar10/cifar10_test.npz")
    observation, batch = observed(dataset, 40, "mlp:400")
    assert_whole(run(PRISM(), observation), batch)


def test_an_inner_layer_yields_its_inputs_without_an_image_prior(digits: Dataset) -> None:
    observation, _ = observed(digits, 10, "mlp:100,200,50")
    layer = "3"
    for attack in (SPEARPlusPlus(layer=layer), PRISM(layer=layer), Auto(layer=layer)):
        result = run(attack, observation)
        assert result.layer == layer
        assert int(result.certified.sum()) == 10


def test_work_that_is_told_to_stop_keeps_what_it_has(digits: Dataset) -> None:
    observation, _ = observed(digits, 28, "mlp:300,100")
    attack = SPEARPlusPlus(starts=8)
    result = run(attack, observation, progress=lambda done, _total, _note: done == 0)
    assert result.stats["stopped"] == INTERRUPTED


def test_a_budget_of_starts_is_kept(digits: Dataset) -> None:
    observation, _ = observed(digits, 60, "mlp:64,32")
    result = run(SPEARPlusPlus(starts=50, budget=Budget(samples=200)), observation)
    assert result.outcome is not Outcome.EXACT
    assert int(result.stats["samples"]) <= 300


def test_the_choice_follows_batch_size_and_kind_of_input() -> None:
    assert choose_attack(4, 100, (3, 32, 32))[0] == "spear"
    assert choose_attack(8, 40, (105,))[0] == "prism"  # too few zeros for draws of them
    assert choose_attack(40, 400, (3, 32, 32))[0] == "prism"
    assert choose_attack(40, 200, (105,))[0] == "prism"
    assert choose_attack(40, 600, ())[0] == "spearpp"


def test_auto_says_what_it_chose_and_why(digits: Dataset) -> None:
    observation, batch = observed(digits, 12, "mlp:200,100")
    result = run(Auto(), observation)
    assert_whole(result, batch)
    assert result.stats["chosen"] == "prism"
    assert "derivatives" in str(result.stats["because"])


def test_where_no_layer_tells_inputs_apart_auto_matches_gradients_and_says_so(digits: Dataset) -> None:
    observation, batch = observed(digits, 2, "lenet:sigmoid")
    result = run(Auto(budget=Budget(samples=100)), observation)
    assert result.outcome is Outcome.APPROXIMATE
    assert not bool(result.certified.any())
    assert result.inputs is not None
    assert result.inputs.shape == batch.inputs.shape
    assert result.stats["chosen"] == "ig"
    assert "no layer tells its inputs apart" in str(result.stats["because"])


def test_auto_begins_at_the_solved_recursion_for_one_example(digits: Dataset) -> None:
    observation, batch = observed(digits, 1, "lenet:sigmoid")
    alone = replace(observation, rounds=(replace(observation.latest, batch_size=1),))
    result = run(Auto(budget=Budget(samples=3)), alone)
    assert result.stats["chosen"] == "solved-git+ig"
    assert result.inputs is not None
    assert float((result.inputs - batch.inputs).abs().max()) < 0.05


def test_auto_names_what_is_missing_for_matching_too() -> None:
    observation, _ = observed(load_dataset("photos"), 8, "lenet")  # both classes: nothing tells their number
    obstacles = Auto().obstacles(observation)
    assert any("convolution" in one.reason for one in obstacles)
    assert any("--knows batch-size" in one.reason for one in obstacles)


def test_auto_attacks_the_layer_that_was_asked_for_or_none(digits: Dataset) -> None:
    observation, _ = observed(digits, 2, "mlp:60:sigmoid")
    assert Auto(layer="3").obstacles(observation)
    assert not Auto(layer="1").obstacles(observation)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="`starts` should be at least 1"):
        SPEARPlusPlus(starts=0)
    with pytest.raises(ValueError, match="`samples` should be at least 1"):
        PRISM(samples=0)
    with pytest.raises(ValueError, match="a way to propose"):
        PRISM(filters=(), couplings=(), searches=())


def test_a_noisy_guess_becomes_exact(digits: Dataset, guessing: Callable[..., Attack]) -> None:
    observation, batch = observed(digits, 20, "mlp:200,100")
    assert_whole(run(Exactify(attack=guessing(batch, noise=0.7)), observation), batch)


def test_guesses_of_some_examples_are_enough(digits: Dataset, guessing: Callable[..., Attack]) -> None:
    observation, batch = observed(digits, 20, "mlp:200,100")
    assert_whole(run(Exactify(attack=guessing(batch, most=14)), observation), batch)


def test_what_no_layer_can_round_stays_as_it_was(digits: Dataset, guessing: Callable[..., Attack]) -> None:
    observation, batch = observed(digits, 6, "lenet:sigmoid")
    rough = guessing(batch)
    result = run(Exactify(attack=rough), observation)
    assert result.outcome is Outcome.APPROXIMATE
    assert result.inputs is not None
    guess = run(rough, observation).inputs
    assert guess is not None
    assert torch.equal(result.inputs, guess)
    assert "convolution" in str(result.stats["exactify"])


def test_a_failed_attack_stays_failed(digits: Dataset, plant: Callable[..., Attack]) -> None:
    observation, _ = observed(digits, 6, "mlp:100,100")
    assert run(Exactify(attack=plant()), observation).outcome is Outcome.FAILED


def test_an_exact_attack_is_left_alone(digits: Dataset) -> None:
    observation, batch = observed(digits, 6, "mlp:200,100")
    assert_whole(run(Exactify(attack=SPEAR()), observation), batch)


def test_the_arm_that_finds_most_goes_on() -> None:
    turns = Turns(arms=3)
    yields = {0: [10.0, 4.0, 0.0], 1: [6.0, 6.0, 0.0], 2: [1.0, 0.0]}
    order = []
    while not turns.idle:
        arm = turns.choose()
        order.append(arm)
        turns.learn(arm, yields[arm].pop(0))
    assert order == [0, 0, 1, 1, 1, 2, 0, 2]


def solution(certified: int, score: float = 0.5) -> Solution:
    """A batch of four, of which so many examples are proved."""
    return Solution(
        inputs=torch.zeros(4, 2, dtype=torch.float64),
        errors=torch.zeros(4, 3, dtype=torch.float64),
        score=torch.full((4,), score, dtype=torch.float64),
        evident=torch.arange(4) < certified,
        firm=torch.arange(4) < certified,
        lone=torch.ones(4, dtype=torch.bool),
        input_error=torch.zeros(4, dtype=torch.float64),
        tolerance=1e-3,
        error_tol=torch.full((4,), 1e-6, dtype=torch.float64),
        replayed="not asked",
    )


def test_an_error_that_is_not_a_number_is_rough() -> None:
    nan = float("nan")
    errors = torch.tensor([0.0, 1e-3, 2e-3, nan], dtype=torch.float64)
    sure = replace(solution(4), input_error=errors)
    assert sure.rough.tolist() == [False, False, True, True]
    assert sure.certified.tolist() == [True, True, False, False]
    assert replace(sure, tolerance=-1.0).rough.all()  # noised: not even an error of zero is small enough


def test_what_was_proved_is_not_given_up_for_a_later_choice_that_proves_less() -> None:
    many, few, closer = solution(3), solution(0, score=0.9), solution(3, score=0.9)
    assert better(many, few) is many
    assert better(few, many) is many
    assert better(many, closer) is closer
    assert better(many, None) is many
    assert better(None, few) is few
    assert better(None, None) is None
