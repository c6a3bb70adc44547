"""What every label attack rests on: the identity, the rounding, the estimate's own account of its error."""

import math

import pytest
import torch
from torch import Tensor, nn

from seepage.attacks.labels.auxiliary import AuxiliaryData
from seepage.attacks.labels.ilrg import ILRG
from seepage.attacks.labels.labelbaselines import IDLG, AllZeros, EvenCounts, SignRule, UniformProbabilities
from seepage.attacks.labels.labelcounts import counts_to_labels, estimate, on_simplex, round_counts
from seepage.attacks.labels.lastlayer import last_layer
from seepage.attacks.labels.noiseprior import NoisePrior
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.label_scores import exact_vector, l1_half, leacc, lnacc
from seepage.types import Attack, GradientUpdate, Observation, Obstacle, Outcome, PrivateBatch, ThreatModel

ESTIMATORS: list[Attack] = [ILRG(), ILRG(published_rounding=True), PooledEmbedding(), RestoreLabels()]
BASELINES: list[Attack] = [AllZeros(), EvenCounts(), UniformProbabilities(), IDLG(), SignRule()]


def network(classes: int = 10, seed: int = 0, last_bias: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, classes, bias=last_bias))


def batch(examples: int, classes: int = 10, seed: int = 0) -> PrivateBatch:
    generator = torch.Generator().manual_seed(seed)
    return PrivateBatch(
        inputs=torch.rand(examples, 20, generator=generator),
        labels=torch.randint(classes, (examples,), generator=generator),
    )


def observe(net: nn.Module, private: PrivateBatch, *, knows: bool = True, classes: int = 10) -> Observation:
    update = FedSGD()(net, private, torch.Generator())
    threat = ThreatModel(batch_size=knows)
    return threat.view(network=net, update=update, batch=private, rule=FedSGD(), classes=classes)


def restored(attack: Attack, observation: Observation) -> Tensor:
    assert not attack.obstacles(observation)
    labels = attack(observation, generator=torch.Generator().manual_seed(0)).labels
    assert labels is not None
    return labels


def test_counts_are_the_batch_size_times_mean_probability_less_bias_gradient() -> None:
    net, private = network(), batch(24)
    observation = observe(net, private)
    gb = observation.latest.update["2.bias"]
    with torch.no_grad():
        mean = torch.softmax(net(private.inputs), 1).mean(0)
    counts = torch.bincount(private.labels, minlength=10)
    torch.testing.assert_close(24 * (mean - gb), counts.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("counts", "examples", "expected"),
    [
        ([2.4, 2.4, 2.0, 1.0, 0.0, 0.0], 8, [3, 2, 2, 1, 0, 0]),  # the reference adds one to almost every class
        ([4.3, 3.6, 2.6, -2.5], 8, [3, 3, 2, 0]),  # the reference goes below zero
        ([9.2, 0.1, -0.4], 8, [8, 0, 0]),  # the reference sets what exceeds K to zero
        ([0.0, 0.0, 0.0], 2, [1, 1, 0]),
        ([1.0, 2.0, 3.0], 6, [1, 2, 3]),
    ],
)
def test_rounding_keeps_the_sum_and_never_goes_below_zero(
    counts: list[float], examples: int, expected: list[int]
) -> None:
    assert round_counts(torch.tensor(counts, dtype=torch.float64), examples).tolist() == expected


def test_simplex_projection_is_the_nearest_point() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        point = torch.randn(7, generator=generator, dtype=torch.float64) * 3
        projected = on_simplex(point, 5)
        assert float(projected.sum()) == pytest.approx(5)
        assert float(projected.min()) >= 0
        other = torch.rand(7, generator=generator, dtype=torch.float64)
        other *= 5 / other.sum()
        assert float((projected - point).norm()) <= float((other - point).norm()) + 1e-12


@pytest.mark.parametrize("attack", ESTIMATORS + BASELINES, ids=lambda attack: attack.name)
@pytest.mark.parametrize("examples", [1, 10, 200])
def test_labels_are_sorted_int64_and_nothing_uncertified_is_called_exact(attack: Attack, examples: int) -> None:
    observation = observe(network(), batch(examples))
    result = attack(observation, generator=torch.Generator().manual_seed(0))
    assert result.inputs is None
    assert result.labels is not None
    assert result.labels.dtype == torch.int64
    assert torch.equal(result.labels, result.labels.sort().values)
    assert len(result.certified) == len(result.labels)
    assert result.stats["confidence"] in {"certified", "estimated", "guess"}
    if attack.name != "labels":
        assert result.outcome is Outcome.APPROXIMATE


@pytest.mark.parametrize("attack", ESTIMATORS, ids=lambda attack: attack.name)
def test_small_batches_of_an_untrained_network_are_restored_with_absent_classes(attack: Attack) -> None:
    private = batch(6)
    assert exact_vector(restored(attack, observe(network(), private)), private.labels, 10) == 1.0


def test_pooled_stands_a_vanishing_bias_gradient_that_breaks_class_wise_embeddings() -> None:
    net = network()
    labels = torch.arange(10).repeat(20)
    private = PrivateBatch(inputs=batch(200).inputs, labels=labels)
    observation = observe(net, private)
    pooled, ilrg = restored(PooledEmbedding(), observation), restored(ILRG(), observation)
    assert l1_half(pooled, labels, 10) < l1_half(ilrg, labels, 10)
    assert len(ilrg) == 200


def test_a_bias_gradient_of_exactly_zero_gives_labels_and_no_nan() -> None:
    observation = observe(network(), batch(30))
    tensors = dict(observation.latest.update)
    tensors["2.bias"] = tensors["2.bias"].clone()
    tensors["2.bias"][3] = 0.0
    for attack in ESTIMATORS[:3]:
        changed = with_update(observation, tensors)
        result = attack(changed, generator=torch.Generator())
        assert result.labels is not None
        assert not any(isinstance(value, float) and math.isnan(value) for value in result.stats.values())


def with_update(observation: Observation, tensors: dict[str, Tensor]) -> Observation:
    latest = observation.latest
    one = type(latest)(network=latest.network, update=GradientUpdate(tensors), batch_size=latest.batch_size)
    return Observation(rounds=(one,), input_shape=observation.input_shape, classes=observation.classes)


@pytest.mark.parametrize("attack", ESTIMATORS + BASELINES, ids=lambda attack: attack.name)
def test_zero_gradients_fail_with_a_reason(attack: Attack) -> None:
    observation = observe(network(), batch(4))
    nothing = with_update(observation, {name: torch.zeros_like(g) for name, g in observation.latest.update.items()})
    result = attack(nothing, generator=torch.Generator().manual_seed(0))
    assert result.outcome is Outcome.FAILED
    assert result.labels is None
    assert "zero" in result.reason


def test_missing_gradient_and_unknown_batch_size_are_obstacles() -> None:
    private = batch(4)
    observation = observe(network(), private)
    rest = {name: g for name, g in observation.latest.update.items() if name != "2.bias"}
    assert "withheld" in str(ILRG().obstacles(with_update(observation, rest))[0])
    unknown = ILRG().obstacles(observe(network(), private, knows=False))
    assert [obstacle.where for obstacle in unknown] == ["batch_size"]


def test_a_last_layer_used_twice_is_an_obstacle() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(20, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.fc(x)))

    private = batch(4, classes=20)
    reading = last_layer(observe(Twice(), private, classes=20))
    assert isinstance(reading, Obstacle)


def test_auxiliary_data_beat_uniform_probabilities_on_a_trained_network() -> None:
    net, private, aux = trained()
    observation = observe(net, private)
    attack = AuxiliaryData(inputs=aux.inputs, labels=aux.labels)
    got = restored(attack, observation)
    assert l1_half(got, private.labels, 10) < l1_half(restored(UniformProbabilities(), observation), private.labels, 10)


def trained() -> tuple[nn.Module, PrivateBatch, PrivateBatch]:
    net = network()
    generator = torch.Generator().manual_seed(5)
    centres = torch.rand(10, 20, generator=generator)

    def draw(labels: Tensor) -> PrivateBatch:
        inputs = centres[labels] + 0.3 * torch.randn(len(labels), 20, generator=generator)
        return PrivateBatch(inputs=inputs, labels=labels)

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        part = draw(torch.randint(10, (64,), generator=generator))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(part.inputs), part.labels).backward()
        optimizer.step()
    skewed = torch.cat([torch.zeros(120), torch.full((60,), 4), torch.randint(10, (20,), generator=generator)])
    return net, draw(skewed.long()), draw(torch.arange(10).repeat(50))


def test_auxiliary_data_of_another_shape_are_an_obstacle() -> None:
    attack = AuxiliaryData(inputs=torch.zeros(3, 7))
    assert [o.where for o in attack.obstacles(observe(network(), batch(4)))] == ["auxiliary inputs"]
    with pytest.raises(InputError):
        AuxiliaryData(inputs=torch.zeros(3, 7), labels=torch.zeros(2, dtype=torch.int64))


def test_scores_of_known_cases() -> None:
    true = torch.tensor([0, 0, 1, 2])
    assert exact_vector(torch.tensor([2, 1, 0, 0]), true, 5) == 1.0
    wrong = torch.tensor([0, 1, 1, 2])
    assert (leacc(wrong, true, 5), lnacc(wrong, true, 5), l1_half(wrong, true, 5)) == (1.0, 0.6, 0.25)
    nothing = torch.zeros(0, dtype=torch.int64)
    assert (leacc(nothing, true, 5), l1_half(nothing, true, 5)) == (0.4, 0.5)
    assert l1_half(torch.tensor([-1, 0, 1, 2]), true, 5) == 0.125


def test_counts_and_labels_are_the_same_thing() -> None:
    assert counts_to_labels(torch.tensor([2, 0, 1])).tolist() == [0, 0, 2]


def test_a_layer_without_bias_is_estimated_from_its_weights_gradient() -> None:
    right = dict.fromkeys(("ilrg", "pooled", "noise-prior", "uniform", "labels"), 0.0)
    for seed in range(6):
        private = batch(6, seed=seed)
        observation = observe(network(seed=seed, last_bias=False), private)
        for attack in (ILRG(), PooledEmbedding(), NoisePrior(), UniformProbabilities(), RestoreLabels()):
            right[attack.name] += l1_half(restored(attack, observation), private.labels, 10) / 6
    assert max(right.values()) <= 0.1, right


def test_a_layer_without_bias_that_is_no_module_is_an_obstacle() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(20, 32)
            self.weight = nn.Parameter(torch.rand(10, 32) - 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(torch.relu(self.first(x)), self.weight)

    observation = observe(Functional(), batch(4))
    if isinstance(last_layer(observation), Obstacle):
        pytest.skip("such a layer is not read at all")
    assert "no module" in str(PooledEmbedding().obstacles(observation)[0])


def test_a_bias_gradient_in_the_subnormal_range_breaks_nothing() -> None:
    observation = observe(network(), batch(30))
    tensors = dict(observation.latest.update)
    tensors["2.bias"] = tensors["2.bias"].clone()
    tensors["2.bias"][3] = 1e-44
    result = ILRG()(with_update(observation, tensors), generator=torch.Generator())
    assert result.labels is not None
    assert len(result.labels) == 30


def test_counts_that_are_not_finite_are_a_failure_with_a_reason() -> None:
    nowhere = estimate(torch.tensor([1.0, float("nan"), 2.0]), 3, method="pooled")
    assert nowhere.outcome is Outcome.FAILED
    assert "no counts of classes fit" in nowhere.reason
