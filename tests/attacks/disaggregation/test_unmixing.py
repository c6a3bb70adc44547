"""Unmixing turn by turn: what it looks at, where it goes on, and who goes after it."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation import disaggregate
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.found import Found, Kept, Proposals
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.disaggregation.portfolio import InTurn
from seepage.attacks.disaggregation.unmixing import Continued, Unmixing
from seepage.attacks.prism import PRISM
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.linalg.filters import FILTER_BANKS
from seepage.linalg.ica import ScaleMixture
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, ThreatModel

B, SIDE = 8, 64


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observed(source: str, network: str, size: int | None = None) -> tuple[Observation, PrivateBatch]:
    dataset = load_dataset(source, size=size)
    model = build_network(network, input_shape=dataset.input_shape, classes=dataset.classes, seed=0)
    batch = dataset.batch(torch.randperm(len(dataset), generator=chance())[:B])
    rule = FedSGD()
    update = rule(model, batch, chance())
    return ThreatModel().view(network=model, update=update, batch=batch, rule=rule, classes=dataset.classes), batch


def mixture_of(observation: Observation) -> Mixture:
    layer = find_relu_layer(observation, None)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=0.2, generator=chance())
    assert mixture is not None
    return mixture


@dataclass(frozen=True)
class Watched:
    """A contrast that notes what it looks at."""

    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(sources)
        return ScaleMixture()(sources)


def likeness(guesses: Tensor, mixture: Mixture, batch: PrivateBatch) -> Tensor:
    """Of each example, the cosine of the nearest guess."""
    truth = normalize(batch.inputs.flatten(1).double() @ mixture.factors.right.T, dim=1)
    nearest: Tensor = (truth @ normalize(guesses, dim=1).T).abs().max(dim=1).values
    return nearest


def test_of_a_large_input_windows_are_looked_at_no_more_than_asked_for_and_others_each_time(
    shared_data: object,
) -> None:
    observation, batch = observed(f"{shared_data}/imagenet64/imagenet64_500.npz", "mlp:64,32")
    mixture, looked = mixture_of(observation), Watched()
    arm = Unmixing(bank=FILTER_BANKS[0], contrast=looked, shape=observation.input_shape, samples=12_000)
    guesses = arm.guess(mixture, Found.nothing(mixture.L), chance(0), steps=60)
    windows = looked.seen[0].shape[1]
    assert windows > 1
    assert 6_000 < looked.seen[0][0].numel() <= 12_000
    assert float(likeness(guesses, mixture, batch).median()) > 0.9
    arm.guess(mixture, Found.nothing(mixture.L), chance(1), steps=1)
    drawn = [seen.flatten(1) for seen in (looked.seen[0], looked.seen[-1])]
    assert not torch.allclose(drawn[0] @ drawn[0].T, drawn[1] @ drawn[1].T, rtol=1e-2)


def test_all_of_a_small_input_is_looked_at() -> None:
    observation, _ = observed("digits", "mlp:64,32")
    mixture, looked = mixture_of(observation), Watched()
    arm = Unmixing(bank=FILTER_BANKS[0], contrast=looked, shape=observation.input_shape, samples=32_768)
    arm.guess(mixture, Found.nothing(mixture.L), chance(), steps=1)
    assert looked.seen[0].shape == (B, 1, 3, 1, 6, 6)  # one window; stencils of three pixels lose two


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Unmixing):
    """Notes how many steps are asked for and where they start."""

    asked: list[tuple[int, int | None]] = field(default_factory=list)

    def guess(
        self,
        mixture: Mixture,
        found: Found,
        generator: torch.Generator,  # noqa: ARG002
        *,
        steps: int,
        start: Tensor | None = None,
    ) -> Tensor:
        self.asked.append((steps, None if start is None else len(start)))
        return torch.eye(mixture.batch_size - len(found), mixture.batch_size, dtype=torch.float64)


def holding(mixture: Mixture, count: int) -> Found:
    """The first directions of the identity, as if they were examples'."""
    found = Found.nothing(mixture.L)
    unit = torch.eye(mixture.batch_size, dtype=torch.float64)[:count]
    zeros = torch.full((count,), 20)
    leverage, unknown = torch.full((count,), 0.5).double(), torch.zeros(count, dtype=torch.bool)
    found.kept = Kept(directions=unit, zeros=zeros, leverage=leverage, replayed=unknown)
    return found


def test_unmixing_goes_on_where_it_ended_shortly_after_progress_and_longer_without() -> None:
    mixture = mixture_of(observed("digits", "mlp:64,32")[0])
    way = Asked(bank=FILTER_BANKS[0], contrast=ScaleMixture(), shape=(1, 8, 8), samples=1000)
    guess = Continued(way=way)
    for count in (0, 3, 3, 5):
        guess(mixture, holding(mixture, count), chance())
    assert [steps for steps, _ in way.asked] == [60, 15, 60, 15]
    assert [start for _, start in way.asked] == [None, B, B - 3, B - 3]


@dataclass(frozen=True)
class Named:
    """An arm that notes when it is its turn."""

    name: str
    turns: list[str]

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:  # noqa: ARG002
        self.turns.append(self.name)
        return Proposals(directions=mixture.L.new_zeros(0, mixture.batch_size), cost=effort, work=1.0)


def test_one_of_two_arms_goes_while_many_are_missing_and_the_other_after() -> None:
    mixture, turns = mixture_of(observed("digits", "mlp:64,32")[0]), list[str]()
    arm = InTurn(early=Named("early", turns), late=Named("late", turns), most=4)
    for count in (0, 3, 4, 6, 0):
        assert arm(mixture, holding(mixture, count), chance(), effort=2).cost == 2
    assert turns == ["early", "early", "late", "late", "early"]


@pytest.mark.parametrize(("network", "asked"), [("mlp:20,80:gelu", False), ("mlp:20,80", True)])
def test_only_where_there_are_zeros_the_last_examples_are_guessed_by_them(
    network: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(disaggregate, "complete", lambda *_: calls.append(1))
    observation, _ = observed("digits", network)
    found = PRISM(budget=Budget(samples=4000))(observation, generator=chance())
    assert bool(calls) == asked
    assert found.outcome is not Outcome.FAILED
