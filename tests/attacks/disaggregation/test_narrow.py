"""Directions that hang on one of their zeros: kept beside the others, and proved by the whole batch or not at all."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.closing import choose
from seepage.attacks.disaggregation.found import Found, Kept
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.prism import PRISM
from seepage.data.sources import load_dataset
from seepage.federated.dpsgd import DPSGD
from seepage.federated.rules import FedSGD
from seepage.linalg.nullspace import largest_leverage, zero_mask
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, ThreatModel, UpdateRule

B, M, SEED = 8, 32, 6


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observed(rule: UpdateRule, seed: int = SEED) -> tuple[Observation, PrivateBatch]:
    """Eight photos at four units each, of which some hardly determine their example."""
    photos = load_dataset("photos")
    network = build_network(f"mlp:{M},60", input_shape=photos.input_shape, classes=photos.classes, seed=seed)
    batch = photos.batch(torch.randperm(len(photos), generator=chance(seed))[:B])
    update = rule(network, batch, chance())
    view = ThreatModel().view(network=network, update=update, batch=batch, rule=rule, classes=photos.classes)
    return view, batch


def truth_of(observation: Observation, batch: PrivateBatch) -> tuple[Mixture, Tensor]:
    """The layer's mixture and the true directions ``[b, b]``."""
    layer = find_relu_layer(observation)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=0.2, generator=chance())
    assert mixture is not None
    mixing = batch.inputs.flatten(1).double() @ mixture.factors.right.T / mixture.factors.singular
    return mixture, normalize(torch.linalg.inv(mixing).T, dim=1)


def kept(mixture: Mixture, directions: Tensor) -> Kept:
    zeros = zero_mask(mixture.L, directions, zero_tol=mixture.zero_tols(directions))
    leverage = largest_leverage(mixture.L, zeros, rank_tol=mixture.rank_tol)
    unknown = torch.zeros(len(directions), dtype=torch.bool)
    return Kept(directions=directions, zeros=zeros.sum(dim=1), leverage=leverage, replayed=unknown)


def holding(mixture: Mixture, directions: Tensor) -> Found:
    found = Found.nothing(mixture.L)
    found.add(kept(mixture, directions), apart=directions.new_full((len(directions),), 1e-7))
    return found


def test_leverage_is_one_of_an_indispensable_row_and_half_of_each_of_two_equal_ones() -> None:
    L = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 2]]
    zeros = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    assert largest_leverage(L, zeros, rank_tol=1e-5).tolist() == [1.0, 1.0, torch.inf]
    twice = L[[0, 1, 2, 2, 3]]
    both = torch.tensor([[True, True, True, True, False]])
    torch.testing.assert_close(largest_leverage(twice, both, rank_tol=1e-5), torch.tensor([0.5]).double())


def test_what_hangs_on_one_zero_joins_the_narrow_ones_and_is_not_searched_around() -> None:
    like = torch.eye(4, dtype=torch.float64)
    leverage = torch.tensor([0.5, 1.0, 0.95, 0.5])
    rows = torch.stack([like[0], like[1], like[2], normalize(like[0] + like[2], dim=0)])
    found = Found.nothing(like)
    zeros, unknown = torch.tensor([9, 4, 5, 9]), torch.zeros(4, dtype=torch.bool)
    found.add(Kept(directions=rows, zeros=zeros, leverage=leverage, replayed=unknown), apart=torch.full((4,), 1e-7))
    assert len(found) == 2
    assert found.narrow.directions.tolist() == [like[1].tolist()]
    assert len(found.spare) == 1
    assert found.accepted == 4
    assert found.pool().pinned.tolist() == [True, False, True, False]


def test_one_zero_to_each_unknown_is_enough_where_the_network_replays() -> None:
    observation, batch = observed(FedSGD())
    mixture, true = truth_of(observation, batch)
    assert not bool(kept(mixture, true).pinned.all()), "the case asked for"
    result = PRISM()(observation, generator=chance())
    assert result.outcome is Outcome.EXACT, result.reason
    assert result.inputs is not None
    nearest = torch.cdist(result.inputs.flatten(1), batch.inputs.flatten(1), p=torch.inf).min(dim=1)
    assert float(nearest.values.max()) <= 1e-3
    assert sorted(nearest.indices.tolist()) == list(range(B))


def test_without_a_replay_they_come_out_and_nothing_is_certified() -> None:
    rule = DPSGD(clip=1.0, noise=0.0)
    observation, batch = observed(rule)
    mixture, true = truth_of(observation, batch)
    solution = choose(mixture, observation, holding(mixture, true), chance())
    assert solution is not None
    assert not bool(kept(mixture, true).pinned.all())
    assert isinstance(solution.replayed, str)
    assert not bool(solution.certified.any())
    nearest = torch.cdist(solution.inputs, batch.inputs.flatten(1).double(), p=torch.inf).min(dim=1)
    assert float(nearest.values.max()) <= 1e-3


def test_a_combination_among_them_proves_nothing() -> None:
    observation, batch = observed(FedSGD())
    mixture, true = truth_of(observation, batch)
    solution = choose(mixture, observation, holding(mixture, true), chance())
    assert solution is not None
    assert bool(solution.certified.all())
    values = true @ mixture.L.T
    for one, other in ((0, 1), (2, 5), (6, 7)):
        on = (values[one].abs() > 1e-3) & (values[other].abs() > 1e-3)
        for row in on.nonzero().flatten()[:4].tolist():
            wrong = true.clone()
            wrong[one] = normalize(true[one] - values[one, row] / values[other, row] * true[other], dim=0)
            polluted = choose(mixture, observation, holding(mixture, wrong), chance())
            assert polluted is not None
            assert not bool(polluted.certified.any())
