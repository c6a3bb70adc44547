"""Gradient matching: its parts by their properties, DLG and IG by the decibels they reach."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from seepage.attacks.budget import Budget
from seepage.attacks.gradientmatching import GradientMatching
from seepage.attacks.matching import dlg, idlg, ig, refined
from seepage.attacks.walk.descents import LBFGS, Adam
from seepage.attacks.walk.distances import Cosine, Squared
from seepage.attacks.walk.objective import make_objective, twice_differentiable
from seepage.attacks.walk.priors import BatchStatistics, Bounds, Candidate, InputNorm, TotalVariation
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match, psnr
from seepage.networks.zoo import build_network
from seepage.types import (
    INTERRUPTED,
    GradientUpdate,
    Observation,
    Obstacle,
    Outcome,
    PrivateBatch,
    Progress,
    Reconstruction,
    Round,
    ThreatModel,
    go_on,
)


def observe(network: nn.Module, batch: PrivateBatch, *, labels: bool = True, classes: int = 10) -> Observation:
    update = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    view = ThreatModel(batch_size=True, labels=labels)
    return view.view(network=network, update=update, batch=batch, rule=FedSGD(), classes=classes)


def digits(indices: list[int], network: str = "mlp:200", *, labels: bool = True) -> tuple[Observation, PrivateBatch]:
    dataset = load_dataset("digits")
    batch = dataset.batch(torch.tensor(indices))
    built = build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=0)
    return observe(built, batch, labels=labels), batch


def noise(shape: tuple[int, ...], examples: int = 2) -> PrivateBatch:
    draw = torch.Generator().manual_seed(3)
    return PrivateBatch(inputs=torch.rand(examples, *shape, generator=draw), labels=torch.arange(examples))


def decibels(found: Reconstruction, batch: PrivateBatch) -> float:
    assert found.inputs is not None
    span = float(batch.inputs.max() - batch.inputs.min())
    ordered = found.inputs[match(found.inputs, batch.inputs)]
    return float(psnr(ordered, batch.inputs, data_range=span).mean())


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors(seed: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=draw), torch.randn(7, generator=draw)]


@pytest.mark.parametrize("distance", [Squared(), Cosine(), Cosine(per_layer=True)])
def test_distances_vanish_where_gradients_agree_and_only_there(distance: Squared | Cosine) -> None:
    assert float(distance(vectors(0), vectors(0))) < 1e-12
    assert float(distance(vectors(1), vectors(0))) > 0.1


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_cosine_knows_no_length_and_is_finite_at_zero(per_layer: bool) -> None:
    distance, target = Cosine(per_layer=per_layer), vectors(0)
    assert float(distance([1e-6 * part for part in target], target)) < 1e-10
    zero = [torch.zeros_like(part, requires_grad=True) for part in target]
    for slope in torch.autograd.grad(distance(zero, target), zero):
        assert bool(slope.isfinite().all())


def test_the_squared_distance_of_sending_nothing_is_one() -> None:
    assert float(Squared()([torch.zeros_like(part) for part in vectors(0)], vectors(0))) == pytest.approx(1.0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_total_variation_takes_any_number_of_channels(channels: int) -> None:
    prior = TotalVariation(weight=2.0)
    flat = torch.full((2, channels, 4, 6), 0.3)
    assert float(prior(Candidate(inputs=flat))) == 0.0
    ramp = torch.arange(6.0).expand(2, channels, 4, 6)
    assert float(prior(Candidate(inputs=ramp))) == pytest.approx(2.0)


def test_the_other_priors_say_what_they_should() -> None:
    inputs = torch.tensor([[-1.0, 0.5], [0.5, 2.0]])
    bounds = (torch.zeros(1), torch.ones(1))
    assert float(InputNorm(weight=1.0)(Candidate(inputs=inputs))) == pytest.approx(float(inputs.square().mean()))
    assert float(Bounds(weight=1.0)(Candidate(inputs=inputs, bounds=bounds))) == pytest.approx(0.5)
    assert float(Bounds(weight=1.0)(Candidate(inputs=inputs))) == 0.0


@pytest.mark.parametrize("training", [False, True])
def test_batch_statistics_are_small_for_the_data_they_come_from(training: bool) -> None:
    batch = noise((3, 8, 8), examples=8)
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0), nn.Flatten(), nn.Linear(192, 10))
    network(batch.inputs)
    observation = observe(network.train(training), batch)
    objective = make_objective(observation, distance=Squared(), priors=(BatchStatistics(weight=1.0),))
    with torch.enable_grad():
        _, own = objective(batch.inputs[None], batch.labels[None])
        _, other = objective(3 + batch.inputs[None], batch.labels[None])
    assert float(own) < 1e-4
    assert float(other) > 1.0


@pytest.mark.parametrize("network", ["mlp:20", "lenet:sigmoid", "resnet18", "vit"])
def test_several_starts_at_once_are_the_same_as_one_by_one(network: str) -> None:
    shape = (3, 8, 8)
    built = build_network(network, input_shape=shape, classes=10, seed=0)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    observation = observe(built, noise(shape))
    objective = make_objective(
        observation, distance=Cosine(), priors=(BatchStatistics(weight=0.1), TotalVariation(weight=0.1))
    )
    inputs = torch.rand(3, 2, *shape, generator=chance(), requires_grad=True)
    labels = observation.latest.labels
    assert labels is not None
    with twice_differentiable():
        together = torch.stack(objective(inputs, labels.expand(3, 2)))
        (slope,) = torch.autograd.grad(together[0].sum(), inputs)
        for start in range(3):
            alone = torch.stack(objective(inputs[start : start + 1], labels[None]))
            torch.testing.assert_close(alone[:, 0], together[:, start], rtol=1e-3, atol=1e-5)
    assert bool(slope.isfinite().all())  # attention and batch norm included
    assert float(slope.abs().max()) > 0
    assert all(
        torch.equal(value, before[name]) or name.endswith("num_batches_tracked") or "running" in name
        for name, value in built.state_dict().items()
    )


def test_the_true_batch_has_no_residual() -> None:
    observation, batch = digits([0, 1, 2])
    assert make_objective(observation, distance=Squared(), priors=()).residual(batch.inputs, batch.labels) < 1e-6


@pytest.mark.parametrize("indices", [[0], [0, 1, 2, 3]])
def test_ig_reaches_76_decibels_with_labels_given(indices: list[int]) -> None:
    observation, batch = digits(indices)
    found = ig()(observation, generator=chance())
    assert found.outcome is Outcome.APPROXIMATE
    assert decibels(found, batch) > 76
    assert float(found.stats["residual"]) < 1e-3


def test_dlg_finds_labels_as_well() -> None:
    observation, batch = digits([5], labels=False)
    found = dlg()(observation, generator=chance())
    assert decibels(found, batch) > 100
    assert found.labels is not None
    assert found.labels.equal(batch.labels)
    assert found.stats["labels"] == "walked along"


def test_idlg_restores_labels_first() -> None:
    observation, batch = digits([5, 6], labels=False)
    found = idlg()(observation, generator=chance())
    assert decibels(found, batch) > 100
    assert "restored" in str(found.stats["labels"])


def test_several_starts_do_not_end_worse_than_the_first() -> None:
    observation, _ = digits([0, 1, 2, 3, 4, 5])
    one = ig(iterations=150)(observation, generator=chance())
    four = ig(iterations=150, starts=4)(observation, generator=chance())
    assert float(four.stats["loss"]) <= 1.01 * float(one.stats["loss"])


@pytest.mark.parametrize("attack", [dlg(), ig()])
def test_an_interruption_keeps_the_best_so_far(attack: GradientMatching) -> None:
    observation, _ = digits([0, 1])
    found = attack(observation, generator=chance(), progress=lambda done, *_: done < 20)
    assert found.outcome is Outcome.APPROXIMATE
    assert found.inputs is not None
    assert found.stats["stopped"] == INTERRUPTED
    assert int(found.stats["iterations"]) <= 25


def test_a_budget_counts_iterations() -> None:
    observation, _ = digits([0, 1])
    found = ig(budget=Budget(samples=30))(observation, generator=chance())
    assert found.stats["iterations"] == 30
    assert "budget" in found.reason


def test_an_update_of_zeros_fails_with_a_reason() -> None:
    observation, _ = digits([0, 1])
    latest = observation.latest
    zeros = GradientUpdate({name: torch.zeros_like(value) for name, value in latest.update.items()})
    silent = Observation(
        rounds=(Round(network=latest.network, update=zeros, batch_size=2, labels=latest.labels),),
        input_shape=observation.input_shape,
        classes=10,
    )
    found = ig()(silent, generator=chance())
    assert found.outcome is Outcome.FAILED
    assert "zero" in found.reason


def test_a_frozen_copy_of_the_network_does_not_matter() -> None:
    seen, _ = digits([0])
    seen.latest.network.requires_grad_(False)
    found = dlg(starts=1, budget=Budget(samples=2))(seen, generator=chance())
    assert found.inputs is not None


def test_half_precision_is_matched_in_single_and_tiny_updates_divide_nothing_by_zero() -> None:
    seen, _ = digits([0])
    for change in (lambda value: value.half(), lambda value: 1e-36 * value):
        update = GradientUpdate({name: change(value) for name, value in seen.latest.update.items()})
        own = replace(seen, rounds=(replace(seen.latest, update=update),))
        assert make_objective(own, distance=Cosine(), priors=()).target[0].dtype == torch.float32
        assert ig(iterations=3)(own, generator=chance()).reason


def test_divergence_is_a_failure_with_a_reason() -> None:
    observation, _ = digits([0, 1])
    attack = GradientMatching(optimizer=Adam(step=1e30, iterations=10))
    found = attack(observation, generator=chance())
    assert found.outcome is Outcome.FAILED
    assert found.inputs is None
    assert "No start" in found.reason


def test_what_cannot_run_lists_obstacles() -> None:
    observation, _ = digits([0, 1], network="lenet")
    latest = observation.latest
    foreign = Observation(
        rounds=(Round(network=latest.network, update=GradientUpdate({"other": torch.ones(3)}), batch_size=2),),
        input_shape=observation.input_shape,
        classes=10,
    )
    assert [obstacle.where for obstacle in ig().obstacles(foreign)] == ["update"]
    assert not ig().obstacles(observation)


def test_a_decaying_step_ends_where_it_should() -> None:
    walk = Adam(iterations=100, step=0.1, last_step=1e-4, hold=0.3)
    assert walk.rate_at(0) == walk.rate_at(30) == 1.0
    assert walk.rate_at(100) == pytest.approx(1e-3)
    assert LBFGS().rate_at(7) == 1.0


@dataclass(frozen=True)
class Given:
    """An attack that has its reconstruction already."""

    inputs: Tensor
    labels: Tensor | None = None
    name: str = "given"

    def obstacles(self, observation: Observation) -> list[Obstacle]:  # noqa: ARG002
        return []

    def __call__(
        self,
        observation: Observation,  # noqa: ARG002
        *,
        generator: torch.Generator,  # noqa: ARG002
        progress: Progress = go_on,  # noqa: ARG002
    ) -> Reconstruction:
        none = torch.zeros(len(self.inputs), dtype=torch.bool)
        return Reconstruction(outcome=Outcome.APPROXIMATE, inputs=self.inputs, labels=self.labels, certified=none)


def test_a_start_is_refined_to_the_truth_or_kept() -> None:
    observation, batch = digits([0, 1, 2])
    noisy = batch.inputs + 0.3 * torch.randn(batch.inputs.shape, generator=chance())
    found = refined(Given(inputs=noisy, labels=batch.labels))(observation, generator=chance())
    assert decibels(found, batch) > 100
    assert found.stats["start"] == "given"
    kept = refined(Given(inputs=batch.inputs, labels=batch.labels))(observation, generator=chance())
    assert decibels(kept, batch) > 100


def test_labels_of_the_start_decide_their_order_and_begin_the_walk() -> None:
    observation, batch = digits([4, 2, 7])
    start = Given(inputs=batch.inputs, labels=batch.labels)
    found = ig(iterations=1, step=1e-6, start=start)(observation, generator=chance())
    assert found.labels is not None
    assert found.labels.equal(batch.labels)
    walked, _ = digits([4, 2, 7], labels=False)
    found = dlg(start=start, starts=1)(walked, generator=chance())
    assert decibels(found, batch) > 80
