"""Batch sizes: restored where the scale of the gradient tells them, never made up where clipping took that scale."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.clippedrules import clips, clips_only, moves
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.audit.catalogue import build_rule
from seepage.types import Attack, GradientUpdate, Observation, Outcome, PrivateBatch, Reconstruction, Round, ThreatModel

CLASSES, WIDTH = 12, 6


def network(seed: int, hidden: int = 48) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def drawn(examples: int, seed: int) -> PrivateBatch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, WIDTH, generator=generator)
    return PrivateBatch(inputs=inputs, labels=torch.randint(CLASSES, (examples,), generator=generator))


def twice(batch: PrivateBatch) -> PrivateBatch:
    return PrivateBatch(inputs=batch.inputs.repeat(2, 1), labels=batch.labels.repeat(2))


def under(rule: str, batch: PrivateBatch, *, seed: int = 0, known: bool = False) -> Observation:
    net, client = network(seed), build_rule(rule)
    update = client(net, batch, torch.Generator().manual_seed(0))
    return ThreatModel(batch_size=known).view(network=net, update=update, batch=batch, rule=client, classes=CLASSES)


def sent(net: nn.Module, gradients: dict[str, Tensor]) -> Observation:
    one = Round(network=net, update=GradientUpdate(gradients))
    return Observation(rounds=(one,), input_shape=(WIDTH,), classes=CLASSES)


def run(attack: Attack, view: Observation) -> Reconstruction:
    return attack(view, generator=torch.Generator().manual_seed(0))


def test_clipped_examples_of_an_unknown_number_are_certified_one_by_one_and_never_as_the_whole() -> None:
    certified = 0
    for seed in range(4):
        for batch in (drawn(3, seed), twice(drawn(3, seed))):
            result = run(ExactLabels(), under("dpsgd:clip=0.1,noise=0", batch, seed=seed))
            assert result.outcome is not Outcome.EXACT
            if result.labels is not None:
                sure = torch.bincount(result.labels[result.certified], minlength=CLASSES)
                assert bool((sure <= torch.bincount(batch.labels, minlength=CLASSES)).all())
                assert "there may be more" in result.reason.lower()
                certified += int(sure.sum())
    assert certified >= 12


def test_no_size_is_made_up_where_clipping_took_the_scale() -> None:
    batch = PrivateBatch(inputs=drawn(1, 0).inputs.abs(), labels=torch.tensor([7]))
    for seed in range(4):
        result = run(ExactLabels(), under("dpsgd:clip=0.1,noise=0", batch, seed=seed))
        assert result.labels is None or (bool(result.certified.all()) and result.labels.tolist() == [7])


def test_a_batch_of_copies_says_that_their_number_is_open() -> None:
    result = run(ExactLabels(), under("fedsgd", twice(drawn(2, 1))))
    assert bool(result.certified.all())
    assert result.outcome is not Outcome.EXACT
    assert "several copies of them all" in result.reason
    known = run(ExactLabels(), under("fedsgd", twice(drawn(2, 1)), known=True))
    assert known.outcome is not Outcome.EXACT


@pytest.mark.parametrize("share", [0.5, 2.0])
@pytest.mark.parametrize("bias", [True, False])
def test_of_two_batches_at_once_none_is_certified_for_the_other(share: float, bias: bool) -> None:
    for seed in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, 30, bias=bias))
        names, values = zip(*net.named_parameters(), strict=True)
        batches = [drawn(examples, 10 * seed + examples) for examples in (1 + seed % 3, 3)]
        terms = [torch.autograd.grad(cross_entropy(net(one.inputs), one.labels), values) for one in batches]
        update = {name: first + share * second for name, first, second in zip(names, *terms, strict=True)}
        one = Round(network=net, update=GradientUpdate(update))
        result = run(ExactLabels(rounds=3), Observation(rounds=(one,), input_shape=(WIDTH,), classes=30))
        assert not bool(result.certified.any())


def test_a_sum_of_losses_is_no_mean_of_fewer_examples_than_its_rank() -> None:
    for seed in range(3):
        net, batch = network(seed), drawn(3, seed)
        loss = cross_entropy(net(batch.inputs), batch.labels, reduction="sum")
        names = [name for name, _ in net.named_parameters()]
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        result = run(ExactLabels(), sent(net, dict(zip(names, gradients, strict=True))))
        assert not bool(result.certified.any())


@pytest.mark.parametrize("attack", [ExactLabels(rounds=6, starts=60), RestoreLabels()])
def test_signs_and_sparse_entries_of_unknown_size_end_in_words(attack: Attack) -> None:
    for seed in range(12):
        net, batch = network(seed, hidden=12), drawn(1 + seed % 3, seed)
        names = [name for name, _ in net.named_parameters()]
        gradients = torch.autograd.grad(cross_entropy(net(batch.inputs), batch.labels), list(net.parameters()))
        for change in (torch.sign, lambda g: torch.where(g.abs() >= g.abs().flatten().quantile(0.5), g, 0.0)):
            view = sent(net, {name: change(g) for name, g in zip(names, gradients, strict=True)})
            if not attack.obstacles(view):
                result = run(attack, view)
                assert result.reason
                assert result.labels is None or len(result.labels) <= 16 * CLASSES


def test_a_guess_is_called_one() -> None:
    net = network(0)
    generator = torch.Generator().manual_seed(3)
    batch = drawn(4, 0)
    targets = torch.rand(4, CLASSES, generator=generator).softmax(1)
    names = [name for name, _ in net.named_parameters()]
    gradients = torch.autograd.grad(cross_entropy(net(batch.inputs), targets), list(net.parameters()))
    result = run(ExactLabels(), sent(net, dict(zip(names, gradients, strict=True))))
    if result.labels is not None:
        assert result.stats["confidence"] == "guess"
        assert "expected_error" not in result.stats


def test_a_sum_of_clipping_clients_is_read_as_clipped() -> None:
    whole = build_rule("sum:clients=2,of=dpsgd:clip=0.5,noise=0")
    assert clips(whole)
    assert clips_only(whole)
    assert not clips_only(build_rule("sum:clients=2,of=dpsgd:clip=0.5,noise=1"))
    assert moves(build_rule("sum:clients=2,of=fedavg:epochs=2"))
    assert not moves(build_rule("sum:clients=2"))
    assert not clips(build_rule("sum:clients=2"))
    right = 0
    for seed in range(4):
        batch = drawn(4, seed)
        view = under("sum:clients=2,of=dpsgd:clip=0.1,noise=0", batch, seed=seed, known=True)
        result = run(RestoreLabels(), view)
        assert result.labels is not None
        right += int(result.outcome is Outcome.EXACT and torch.equal(result.labels, batch.labels.sort().values))
    assert right >= 3


def test_under_a_sum_of_noisy_clients_nothing_is_certified() -> None:
    view = under("sum:clients=2,of=dpsgd:clip=10,noise=1e-6", drawn(4, 0), known=True)
    result = run(ExactLabels(), view)
    assert not bool(result.certified.any())
