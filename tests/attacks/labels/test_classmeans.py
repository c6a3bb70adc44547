"""ClassMeans: balanced batches of digits, whose overall mean the last layer's gradient hides."""

import pytest
import torch
from torch import nn

from seepage.attacks.labels.auxiliary import AuxiliaryData
from seepage.attacks.labels.classmeans import ClassMeans
from seepage.attacks.labels.labelbaselines import PresentClasses, UniformProbabilities
from seepage.attacks.labels.labelcounts import among_present
from seepage.attacks.labels.lastlayer import usable
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.label_scores import l1_half, leacc
from seepage.types import Attack, Observation, PrivateBatch, ThreatModel

DIGITS = load_dataset("digits", normalize="none")


def balanced(examples: int, seed: int) -> PrivateBatch:
    """As many of each class as can be."""
    order = torch.randperm(len(DIGITS), generator=torch.Generator().manual_seed(seed))
    pool = DIGITS.batch(order)
    rows = torch.cat([(pool.labels == c).nonzero()[:, 0][: examples // 10] for c in range(10)])
    return PrivateBatch(inputs=pool.inputs[rows], labels=pool.labels[rows])


def network(seed: int, *, first_bias: bool = True, conv: bool = False) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        begin = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()] if conv else [nn.Flatten()]
        return nn.Sequential(
            *begin, nn.Linear(144 if conv else 64, 200, bias=first_bias), nn.ReLU(), nn.Linear(200, 10)
        )


def view(net: nn.Module, batch: PrivateBatch, *, bounds: bool = True) -> Observation:
    return ThreatModel(batch_size=True, bounds=bounds).view(
        network=net,
        update=FedSGD()(net, batch, torch.Generator()),
        batch=batch,
        rule=FedSGD(),
        classes=10,
        bounds=DIGITS.normalization.bounds(),
    )


def error(attack: Attack, seen: Observation, batch: PrivateBatch) -> float:
    result = attack(seen, generator=torch.Generator().manual_seed(0))
    assert result.labels is not None
    assert not bool(result.certified.any())
    return l1_half(result.labels, batch.labels, 10)


def test_balanced_batches_come_out_where_the_pooled_embedding_fails() -> None:
    errors = dict.fromkeys(("class-means", "pooled", "labels"), 0.0)
    for seed in range(4):
        batch = balanced(120, seed)
        seen = view(network(seed), batch)
        for attack in (ClassMeans(), PooledEmbedding(), RestoreLabels()):
            errors[attack.name] += error(attack, seen, batch)
    assert errors["class-means"] < 0.5 * errors["pooled"], errors
    assert errors["labels"] < 0.5 * errors["pooled"], errors


@pytest.mark.parametrize(
    ("net", "bounds", "word"),
    [
        (network(0), False, "bounds"),
        (network(0, first_bias=False), True, "bias"),
        (network(0, conv=True), True, "linear"),
    ],
)
def test_what_it_cannot_do_without_is_an_obstacle(net: nn.Module, bounds: bool, word: str) -> None:
    seen = view(net, balanced(20, 0), bounds=bounds)
    assert word in str(ClassMeans().obstacles(seen)[0])
    assert not RestoreLabels().obstacles(seen)


def trained(seed: int) -> nn.Sequential:
    net = network(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(60):
        batch = balanced(60, 100 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch.inputs), batch.labels).backward()
        optimizer.step()
    return net


def test_after_a_relu_negative_rows_prove_classes_and_a_guess_uses_them() -> None:
    net, better = trained(0), 0.0
    for seed in range(6):
        labels = torch.randint(10, (8,), generator=torch.Generator().manual_seed(seed))
        pool = balanced(400, seed)
        rows = torch.stack([(pool.labels == c).nonzero()[:, 0][k] for k, c in enumerate(labels.tolist())])
        batch = PrivateBatch(inputs=pool.inputs[rows], labels=pool.labels[rows])
        seen = view(net, batch)
        assert set(usable(seen).present.nonzero()[:, 0].tolist()) <= set(labels.tolist())
        result = PresentClasses()(seen, generator=torch.Generator())
        assert result.labels is not None
        assert leacc(result.labels, batch.labels, 10) >= 0.9
        better += error(UniformProbabilities(), seen, batch) - error(PresentClasses(), seen, batch)
        aux = AuxiliaryData(inputs=pool.inputs, labels=pool.labels)
        assert error(aux, seen, batch) <= 0.5
    assert better > 0


def test_counts_move_onto_the_classes_that_are_there() -> None:
    counts = torch.tensor([2.5, -0.5, 1.0, 1.0], dtype=torch.float64)
    present = torch.tensor([True, True, False, False])
    assert among_present(counts, present, 4).tolist() == [3.0, 1.0, 0.0, 0.0]
    assert among_present(counts, present, 1).equal(counts)
    assert among_present(counts, torch.zeros(4, dtype=torch.bool), 4).equal(counts)
