"""Examples that are much alike: combinations of them pass for examples until later layers overrule zeros."""

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.budget import Budget
from seepage.attacks.disaggregation.attackedlayer import AttackedLayer, find_relu_layer
from seepage.attacks.disaggregation.closing import choose
from seepage.attacks.disaggregation.directions import accept_replayed
from seepage.attacks.disaggregation.found import Found, Kept
from seepage.attacks.disaggregation.mixture import Mixture, mix
from seepage.attacks.prism import PRISM
from seepage.federated.rules import FedSGD
from seepage.networks.zoo import build_network
from seepage.types import Observation, Outcome, PrivateBatch, ThreatModel


def lines(count: int, seed: int) -> PrivateBatch:
    """Rows of two photographs as signals ``[count, 3, 640]``; neighbouring ones differ by a few per cent."""
    rows = torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 1, 3, 2)
    signals = rows.flatten(0, 1).float()
    signals = (signals - signals.mean()) / signals.std()
    draw = torch.Generator().manual_seed(seed)
    chosen = signals[torch.randperm(len(signals), generator=draw)[:count]]
    return PrivateBatch(inputs=chosen, labels=torch.randint(10, (count,), generator=draw))


def observed(batch: PrivateBatch, network: str, seed: int) -> Observation:
    model = build_network(network, input_shape=(3, 640), classes=10, seed=seed)
    rule = FedSGD()
    update = rule(model, batch, torch.Generator().manual_seed(seed))
    return ThreatModel().view(network=model, update=update, batch=batch, rule=rule, classes=10)


@pytest.mark.parametrize(("count", "width", "seed"), [(16, 160, 2), (32, 256, 0)])
def test_signals_that_are_much_alike_come_out_whole(count: int, width: int, seed: int) -> None:
    batch = lines(count, seed)
    unit = normalize(batch.inputs.flatten(1), dim=1)
    assert float((unit @ unit.T).fill_diagonal_(0).max()) > 0.998
    view = observed(batch, f"mlp:{width},100,100", seed)
    found = PRISM(budget=Budget(seconds=90))(view, generator=torch.Generator().manual_seed(0))
    assert found.outcome is Outcome.EXACT, found.reason
    assert found.inputs is not None
    apart = torch.cdist(batch.inputs.flatten(1), found.inputs.flatten(1), p=torch.inf)
    assert float(apart.min(dim=1).values.max()) < 1e-3


def kept(directions: Tensor, zeros: list[int], *, leverage: float = 0.5, replayed: bool = False) -> Kept:
    count = len(directions)
    return Kept(
        directions=directions,
        zeros=torch.tensor(zeros),
        leverage=torch.full((count,), leverage).double(),
        replayed=torch.full((count,), replayed),
    )


def mixture_and_truth(view: Observation, batch: PrivateBatch) -> tuple[Mixture, Tensor]:
    """And the directions ``[b, b]`` of the batch."""
    layer = find_relu_layer(view, None)
    assert isinstance(layer, AttackedLayer)
    mixture = mix(layer, least_share=0.2, generator=torch.Generator().manual_seed(0))
    assert mixture is not None
    points = batch.inputs.flatten(1).double() @ mixture.factors.right.T / mixture.factors.singular
    return mixture, normalize(torch.linalg.inv(points).T, dim=1)


def test_what_later_layers_confirm_displaces_a_combination_that_zeros_found() -> None:
    batch = lines(6, 0)
    mixture, true = mixture_and_truth(observed(batch, "mlp:60,20", 0), batch)
    found = Found.nothing(mixture.L)
    combination = normalize(true[0] + true[1], dim=0)
    found.add(kept(torch.stack([combination, *true[2:4]]), [20, 30, 30]), apart=torch.full((3,), 1e-7))
    assert accept_replayed(mixture, found, true[:1])
    assert accept_replayed(mixture, found, true[1:2])  # both of them leave no room for the combination
    assert len(found) == 4
    assert bool(((found.directions @ true[:4].T).abs().max(dim=1).values > 1 - 1e-12).all())
    assert (found.spare.directions @ combination).abs().tolist() == pytest.approx([1.0])
    assert sorted(found.kept.replayed.tolist()) == [False, False, True, True]
    assert len(found.sure) == 2


def test_what_is_confirmed_is_a_step_and_told_once() -> None:
    batch = lines(6, 0)
    mixture, true = mixture_and_truth(observed(batch, "mlp:60,20", 0), batch)
    found = Found.nothing(mixture.L)
    found.add(kept(true[:2], [30, 30]), apart=torch.full((2,), 1e-7))
    before = found.accepted
    assert accept_replayed(mixture, found, true[:1])
    assert found.accepted == before + 1
    assert found.kept.replayed.tolist() == [True, False]
    assert not accept_replayed(mixture, found, true[:1])
    assert found.accepted == before + 1


def test_accidents_by_the_hundred_are_no_progress() -> None:
    draw = torch.Generator().manual_seed(0)
    accidents = normalize(torch.randn(100, 6, generator=draw, dtype=torch.float64), dim=1)
    found = Found.nothing(accidents)
    found.add(kept(accidents, [6] * 100, leverage=1.0), apart=torch.full((100,), 1e-7))
    assert len(found.narrow) == 100
    assert found.accepted == 6
    found.add(kept(torch.eye(6, dtype=torch.float64)[:1], [30]), apart=torch.full((1,), 1e-7))
    assert found.accepted == 7


def test_the_likeliest_are_those_that_later_layers_confirm_then_those_determined_by_most_zeros() -> None:
    rows = torch.eye(6, dtype=torch.float64)
    pool = kept(rows[:2], [9, 12]).and_then(
        kept(rows[2:3], [40], leverage=1.0), kept(rows[3:4], [2], leverage=torch.inf, replayed=True)
    )
    assert pool.likeliest_first.tolist() == [3, 1, 0, 2]


def test_a_combination_that_passes_for_confirmed_is_never_certified() -> None:
    """Were later layers wrong about two directions, the batch made of them would have to fail for these."""
    batch = lines(6, 0)
    view = observed(batch, "mlp:60,20,20", 0)
    mixture, true = mixture_and_truth(view, batch)
    found, chance = Found.nothing(mixture.L), torch.Generator().manual_seed(0)
    pair = normalize(torch.stack([true[0] + true[1], true[0] - 0.5 * true[1]]), dim=1)
    assert accept_replayed(mixture, found, torch.cat([pair, true[2:]]))
    solution = choose(mixture, view, found, chance)
    assert solution is not None
    apart = torch.cdist(solution.inputs, batch.inputs.flatten(1).double(), p=torch.inf).min(dim=1).values
    assert int((apart > 1e-2).sum()) == 2  # the two that stand for the pair
    assert not bool(solution.certified[apart > 1e-3].any())
    right = Found.nothing(mixture.L)
    accept_replayed(mixture, right, true)
    whole = choose(mixture, view, right, chance)
    assert whole is not None
    assert bool(whole.certified.all())
