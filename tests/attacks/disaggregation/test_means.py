"""Examples whose errors are parallel leave one trace; their mean is pinned and replays, and may not be certified."""

from itertools import product

import pytest
import torch
from torch import Tensor

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.replay import Replay, lone
from seepage.attacks.prism import PRISM
from seepage.audit.catalogue import build_rule
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import Outcome, PrivateBatch, Reconstruction, ThreatModel, UpdateRule

KNOWN, UNKNOWN = ThreatModel(batch_size=True), ThreatModel()


def batch_of(
    size: int, *, classes: int, twin: float | None = None, seed: int = 0, data: str = "digits"
) -> PrivateBatch:
    """The second example is the first plus noise of ``twin``, if given."""
    dataset, chance = load_dataset(data), torch.Generator().manual_seed(seed)
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance)[:size])
    inputs, labels = batch.inputs.clone(), batch.labels % classes
    if twin is not None:
        inputs[1] = inputs[0] + twin * torch.randn(inputs[0].shape, generator=chance)
        labels[1] = labels[0]
    return PrivateBatch(inputs=inputs, labels=labels)


def attacked(
    batch: PrivateBatch,
    network: str,
    *,
    classes: int,
    knows: ThreatModel,
    seed: int = 0,
    rule: UpdateRule | None = None,
) -> tuple[Reconstruction, Tensor]:
    """What PRISM makes of it, and how far each example is from the nearest original, ``[k]``."""
    rule = FedSGD() if rule is None else rule
    built = build_network(network, input_shape=tuple(batch.inputs.shape[1:]), classes=classes, seed=seed)
    update = rule(built, batch, torch.Generator().manual_seed(seed))
    seen = knows.view(network=built, update=update, batch=batch, rule=rule, classes=classes)
    found = PRISM(budget=Budget(samples=3000))(seen, generator=torch.Generator().manual_seed(0))
    assert found.inputs is not None
    originals = batch.inputs.flatten(1).double()
    distance = torch.cdist(found.inputs.flatten(1).double(), originals, p=torch.inf).min(dim=1).values
    return found, distance


@pytest.mark.parametrize(("knows", "classes"), [*product((KNOWN, UNKNOWN), (2, 3, 10))])
def test_near_copies_are_never_certified_as_one_example(knows: ThreatModel, classes: int) -> None:
    certified = 0
    for twin, seed in product((0.0, 1e-2), (0, 1)):
        batch = batch_of(6, classes=classes, twin=twin, seed=seed)
        found, distance = attacked(batch, "mlp:60,60", classes=classes, knows=knows, seed=seed)
        assert bool((distance[found.certified] < 1e-3).all())
        assert found.outcome is not Outcome.EXACT or int(found.certified.sum()) == 6
        certified += int(found.certified.sum())
    assert certified >= 8  # the others of these batches do come out


def test_the_reason_tells_of_copies() -> None:
    found, distance = attacked(batch_of(6, classes=10, twin=0.0), "mlp:60,60", classes=10, knows=UNKNOWN)
    assert bool((distance < 1e-4).all())  # the copy came out as well
    assert int(found.certified.sum()) == 4 == len(found.certified) - 1
    assert "may each stand for several" in found.reason


@pytest.mark.parametrize("seed", range(3))
def test_two_inputs_of_two_classes_that_switch_on_the_same_units_are_no_example(seed: int) -> None:
    """Eight units tell photos apart so badly that their means come out, with a share of the loss that is right."""
    batch = batch_of(2, classes=2, twin=0.05, seed=seed, data="photos")
    found, distance = attacked(batch, "mlp:8", classes=2, knows=UNKNOWN, seed=seed)
    assert not bool(found.certified.any())
    if len(distance) == 1:
        assert float(distance) > 1e-2


def test_of_two_classes_a_lone_example_is_certified_where_the_client_says_that_it_is_one() -> None:
    batch = batch_of(1, classes=2)
    said, _ = attacked(batch, "mlp:60,60", classes=2, knows=KNOWN)
    unsaid, distance = attacked(batch, "mlp:60,60", classes=2, knows=UNKNOWN)
    assert said.outcome is Outcome.EXACT
    assert unsaid.outcome is Outcome.APPROXIMATE
    assert float(distance) < 1e-4


def test_without_replay_the_rank_has_to_count_every_example() -> None:
    rule = build_rule("dpsgd:clip=1,noise=0")
    batch = batch_of(6, classes=2)
    said, distance = attacked(batch, "mlp:100,60", classes=2, knows=KNOWN, rule=rule)
    assert bool(said.certified.all())
    assert bool((distance < 1e-3).all())
    unsaid, _ = attacked(batch, "mlp:100,60", classes=2, knows=UNKNOWN, rule=rule)
    assert not bool(unsaid.certified.any())
    doubled = batch_of(6, classes=10, twin=0.0)
    found, _ = attacked(doubled, "mlp:100,60", classes=10, knows=KNOWN, rule=rule)
    assert not bool(found.certified.any())


def replayed(*weights: float) -> Replay:
    some = torch.tensor(weights, dtype=torch.float64)
    none = torch.zeros_like(some)
    return Replay(labels=none.long(), weights=some, residual=none, elsewhere=none, update_residual=0.0)


@pytest.mark.parametrize(
    ("weights", "rank", "announced", "expected"),
    [
        ((1 / 3, 1 / 3, 1 / 3), 3, 3, (True, True, True)),
        ((1 / 3, 1 / 3, 1 / 3), 3, None, (True, True, True)),
        ((0.25, 0.25, 0.5), 3, 4, (True, True, False)),
        ((0.25, 0.25, 0.5), 3, None, (True, True, False)),
        ((1 / 3, 2 / 3), 2, None, (True, False)),
        ((0.25, 0.5), 5, None, (False, False)),  # a part of the batch, which has five traces at least
        ((0.2, 0.2, 0.13), 5, 5, (True, True, True)),
        ((0.2, 0.2, 0.13), 4, 5, (True, True, False)),  # two of opposite labels
        ((1.0, 1.0, 1.0), 3, None, (False, False, False)),  # losses summed up
        ((0.2, float("nan"), -0.2), 3, 5, (True, False, False)),
    ],
)
def test_shares_of_the_loss_tell_examples_from_means(
    weights: tuple[float, ...], rank: int, announced: int | None, expected: tuple[bool, ...]
) -> None:
    sure = torch.ones(len(weights), dtype=torch.bool)
    assert lone(replayed(*weights), sure=sure, rank=rank, announced=announced).tolist() == list(expected)
