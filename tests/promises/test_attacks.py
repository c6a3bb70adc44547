"""What every attack of the catalogue promises, whatever its method: add an attack there and it is asked here."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from seepage.attacks.budget import Budget
from seepage.audit.catalogue import ATTACKS, build_attack
from seepage.data.sources import Dataset, load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import match
from seepage.networks.zoo import build_network
from seepage.types import GradientUpdate, Observation, Outcome, PrivateBatch, Reconstruction, Round, ThreatModel

NAMES = sorted(ATTACKS)
SMALL = Budget(samples=40_000, seconds=4.0)
# Gradient matching certifies nothing however long it walks: a few steps break the same promises as many.
MATCHING = ("dlg", "idlg", "ig")
STEPS = {name: Budget(samples=20) for name in MATCHING}
TO_THE_END = Budget(samples=40_000)
EXACT_TO = 1e-3  # of the spread of the inputs: well below one step of 8 bits


@dataclass(frozen=True, kw_only=True)
class Case:
    """An observation, and the truth that only the test sees."""

    observation: Observation
    batch: PrivateBatch


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return load_dataset("photos")


def case(
    dataset: Dataset, indices: list[int], *, network: str | nn.Module = "mlp:100,50", dtype: torch.dtype = torch.float32
) -> Case:
    if isinstance(network, str):
        network = build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=1)
    network = network.to(dtype)
    drawn = dataset.batch(torch.tensor(indices))
    batch = PrivateBatch(inputs=drawn.inputs.to(dtype), labels=drawn.labels)
    rule = FedSGD()
    update = rule(network, batch, torch.Generator().manual_seed(0))
    view = ThreatModel(batch_size=True).view(
        network=network, update=update, batch=batch, rule=rule, classes=dataset.classes
    )
    return Case(observation=view, batch=batch)


def settled(name: str, dataset: Dataset, *, order: list[int] | None = None, dtype: torch.dtype = torch.float32) -> Case:
    """A case that the attack finishes: gradient matching agrees with itself only where it arrives."""
    indices, network = [3, 50, 111, 700, 801], "mlp:100,50"
    if name in MATCHING:
        indices, network = [3, 50], "mlp:60:sigmoid"
    order = [place for place in order or range(len(indices)) if place < len(indices)]
    return case(dataset, [indices[place] for place in order], network=network, dtype=dtype)


def tampered(plain: Case, change: dict[str, Tensor]) -> Case:
    """The same round with other tensors in the update."""
    latest = plain.observation.latest
    update = GradientUpdate({**latest.update, **change})
    observed = Observation(
        rounds=(Round(network=latest.network, update=update, batch_size=latest.batch_size),),
        input_shape=plain.observation.input_shape,
        classes=plain.observation.classes,
        rule=plain.observation.rule,
    )
    return Case(observation=observed, batch=plain.batch)


def attacked(name: str, one: Case, seed: int = 0, *, to_the_end: bool = False) -> Reconstruction | None:
    """What the attack returns, ``None`` if it lists obstacles."""
    attack = build_attack(name, budget=TO_THE_END if to_the_end else STEPS.get(name, SMALL))
    if attack.obstacles(one.observation):
        return None
    return attack(one.observation, generator=torch.Generator().manual_seed(seed))


def assert_certified_means_exact(result: Reconstruction, batch: PrivateBatch) -> None:
    """Every certified input is one of the batch, and every certified label was there as often as certified."""
    if result.inputs is not None and result.layer == "":
        truth = batch.inputs.double().flatten(1)
        rows = result.inputs[result.certified].double().flatten(1)
        spread = float(truth.max() - truth.min())
        distance = torch.cdist(rows, truth, p=torch.inf)  # [k, b]
        assert bool((distance.min(dim=1).values <= EXACT_TO * spread).all())
        if result.labels is not None:
            near = distance <= EXACT_TO * spread
            said = result.labels[result.certified]
            same = said[:, None] == batch.labels[None]
            assert bool((same & near).any(dim=1)[said >= 0].all())
    elif result.inputs is None and result.labels is not None and result.certified.shape == result.labels.shape:
        said = result.labels[result.certified]
        counts = torch.bincount(batch.labels, minlength=int(said.max()) + 1 if len(said) else 1)
        assert bool((torch.bincount(said, minlength=len(counts)) <= counts).all())
    if result.outcome is Outcome.EXACT and result.inputs is not None:
        assert bool(result.certified.all())
        distinct = torch.unique(batch.inputs.flatten(1), dim=0)
        assert len(result.inputs) == len(distinct)


def assert_same(one: Reconstruction | None, other: Reconstruction | None) -> None:
    if one is None or other is None:
        assert one is other
        return
    assert one.outcome == other.outcome
    assert one.certified.equal(other.certified)
    for field in ("inputs", "labels"):
        a, b = getattr(one, field), getattr(other, field)
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_everything(name: str, digits: Dataset) -> None:
    one, whole = case(digits, [3, 50, 111, 700, 801]), name not in MATCHING
    assert_same(attacked(name, one, seed=5, to_the_end=whole), attacked(name, one, seed=5, to_the_end=whole))


@pytest.mark.parametrize("name", NAMES)
def test_the_observation_is_untouched(name: str, digits: Dataset) -> None:
    one = case(digits, [3, 50, 111, 700, 801])
    latest = one.observation.latest
    state = {key: value.clone() for key, value in latest.network.state_dict().items()}
    update = {key: value.clone() for key, value in latest.update.items()}
    training = latest.network.training
    attacked(name, one)
    assert all(torch.equal(value, state[key]) for key, value in latest.network.state_dict().items())
    assert all(torch.equal(value, update[key]) for key, value in latest.update.items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in latest.network.parameters())
    assert latest.network.training == training


@pytest.mark.parametrize("name", NAMES)
def test_the_global_random_state_is_untouched(name: str, digits: Dataset) -> None:
    one = case(digits, [3, 50, 111])
    before = torch.get_rng_state()
    attacked(name, one)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_batch_changes_only_the_order(name: str, digits: Dataset) -> None:
    one, other = settled(name, digits), settled(name, digits, order=[3, 0, 4, 2, 1])
    first, second = attacked(name, one, to_the_end=True), attacked(name, other, to_the_end=True)
    if first is None or second is None:
        assert first is second
        return
    assert first.outcome == second.outcome
    if first.labels is not None and second.labels is not None:
        assert first.labels.sort().values.equal(second.labels.sort().values)
    if first.inputs is not None and second.inputs is not None:
        places = match(first.inputs, second.inputs)
        torch.testing.assert_close(first.inputs[places], second.inputs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_float64_agree(name: str, digits: Dataset) -> None:
    first = attacked(name, settled(name, digits), to_the_end=True)
    second = attacked(name, settled(name, digits, dtype=torch.float64), to_the_end=True)
    if first is None or second is None:
        assert first is second
        return
    assert first.outcome == second.outcome
    if first.inputs is not None and second.inputs is not None:
        assert first.inputs.dtype == torch.float32
        assert second.inputs.dtype == torch.float64
        places = match(first.inputs.double(), second.inputs)
        torch.testing.assert_close(first.inputs.double()[places], second.inputs, atol=1e-3, rtol=0)


def hard_cases(digits: Dataset, photos: Dataset) -> Iterator[tuple[str, Case]]:
    """Audits in which something is wrong, small enough for a test."""
    draw = torch.Generator().manual_seed(7)

    def some(dataset: Dataset, count: int) -> list[int]:
        return torch.randperm(len(dataset), generator=draw)[:count].tolist()

    def net(dataset: Dataset, spec: str) -> nn.Module:
        return build_network(spec, input_shape=dataset.input_shape, classes=dataset.classes, seed=2)

    for turn in range(4):
        yield f"similar crops {turn}", case(photos, some(photos, 12), network="mlp:64,32")
        yield f"batch too large for the width {turn}", case(digits, some(digits, 14), network="mlp:16,16")
        yield f"batch nearly as large as the width {turn}", case(digits, some(digits, 10), network="mlp:24,16")
        twice = some(digits, 5)
        yield f"duplicates {turn}", case(digits, [*twice, twice[0], twice[0], twice[1]])
        plain = case(digits, some(digits, 6))
        update = plain.observation.latest.update
        names = list(update)
        top = {key: torch.where(g.abs() >= g.abs().flatten().quantile(0.9), g, 0) for key, g in update.items()}
        yield f"top-k cleared {turn}", tampered(plain, top)
        for size in (1e-6, 1e-2):
            noised = {
                key: g + size * g.square().mean().sqrt() * torch.randn(g.shape, generator=draw)
                for key, g in update.items()
            }
            yield f"noised {size} {turn}", tampered(plain, noised)
        constant = {key: torch.full_like(update[key], 0.01) for key in names}
        yield f"constant {turn}", tampered(plain, constant)
        asleep = net(digits, "mlp:100,50")
        first = next(module for module in asleep.modules() if isinstance(module, nn.Linear))
        with torch.no_grad():
            first.weight[turn].zero_()
            first.bias[turn] = 0
            first.bias[10:20] = -1e3
        yield f"all-zero unit {turn}", case(digits, some(digits, 6), network=asleep)


@pytest.mark.parametrize("name", NAMES)
def test_certified_means_exact_however_hard_the_case(name: str, digits: Dataset, photos: Dataset) -> None:
    for what, one in hard_cases(digits, photos):
        result = attacked(name, one)
        if result is None:
            continue
        try:
            assert_certified_means_exact(result, one.batch)
        except AssertionError as error:
            raise AssertionError(f"{name} certified a wrong example: {what}") from error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", ["mlp:100,50", "mlp:100,50:gelu", "lenet:sigmoid"])
def test_no_obstacles_means_no_exception(name: str, network: str, photos: Dataset) -> None:
    small = load_dataset("photos", size=32)
    one = case(small, [0, 30, 61, 100], network=network)
    result = attacked(name, one)
    if result is not None:
        assert_certified_means_exact(result, one.batch)
        assert result.reason or result.outcome is Outcome.EXACT
