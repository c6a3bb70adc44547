"""Examples that a network fits all but perfectly, and examples clipped each by itself: found, proved, never wrongly."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.exact.balanced import client_errors, read_balanced
from seepage.attacks.labels.exact.balancedproof import Found
from seepage.attacks.labels.exact.balancedsearch import Search, Searching
from seepage.attacks.labels.exact.reading import read_pencil
from seepage.attacks.labels.exactlabels import ExactLabels, restore_examples
from seepage.attacks.labels.labelbaselines import UniformProbabilities
from seepage.attacks.labels.lastlayer import LastLayer, usable
from seepage.attacks.labels.pooled import PooledEmbedding
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.attacks.labels.unclipped import with_clipping_undone
from seepage.audit.catalogue import build_rule
from seepage.data.sources import draw_batch, load_dataset
from seepage.label_scores import l1_half
from seepage.networks.zoo import build_network
from seepage.types import GradientUpdate, Observation, Reconstruction, Round, ThreatModel

CLASSES, WIDTH = 40, 60


def sharp(seed: int, *, bias: bool = True) -> nn.Sequential:
    """A last layer of large logits, as networks have that learnt their data by heart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(WIDTH, CLASSES, bias=bias)
        nn.init.normal_(layer.weight, std=8 * WIDTH**-0.5)
    return nn.Sequential(nn.Identity(), layer)


def drawn(net: nn.Module, examples: int, fitted: int, seed: int) -> tuple[Tensor, Tensor]:
    """ReLU-like embeddings; the first few have the label that the network is surest of."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, WIDTH, generator=generator).relu()
    labels = torch.randint(CLASSES, (examples,), generator=generator)
    with torch.no_grad():
        labels[:fitted] = net(inputs[:fitted]).argmax(1)
    return inputs, labels


def seen(net: nn.Module, inputs: Tensor, labels: Tensor, *, known: bool = True) -> Observation:
    names, values = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(cross_entropy(net(inputs), labels), values)
    one = Round(
        network=net,
        update=GradientUpdate(dict(zip(names, gradients, strict=True))),
        batch_size=len(labels) if known else None,
    )
    return Observation(rounds=(one,), input_shape=(WIDTH,), classes=CLASSES)


def run(observation: Observation) -> Reconstruction:
    return ExactLabels()(observation, generator=torch.Generator().manual_seed(0))


def test_faint_examples_raise_the_smallest_singular_value_of_the_balanced_gradient_alone() -> None:
    net = sharp(0)
    inputs, labels = drawn(net, 8, 5, seed=1)
    layer = usable(seen(net, inputs, labels))
    balanced, plain = read_balanced(layer, reach=0.75), read_pencil(layer, reach=0.75)
    assert balanced is not None
    assert balanced.rank == 8
    assert not isinstance(plain, str)
    assert float(balanced.S[-1] / balanced.S[0]) > 10 * float(plain.S[-1] / plain.S[0])


@pytest.mark.parametrize("known", [True, False])
def test_batches_with_faint_examples_are_certified_and_right(known: bool) -> None:
    net, exact = sharp(0), 0
    for seed in range(10):
        inputs, labels = drawn(net, 8, 4, seed)
        result = run(seen(net, inputs, labels, known=known))
        if result.labels is None:
            continue
        sure = torch.bincount(result.labels[result.certified], minlength=CLASSES)
        assert bool((sure <= torch.bincount(labels, minlength=CLASSES)).all())
        if bool(result.certified.all()):
            exact += 1
            assert torch.equal(result.labels, labels.sort().values)
    assert exact >= 7


def test_their_embeddings_come_out() -> None:
    net = sharp(0)
    inputs, labels = drawn(net, 8, 4, seed=2)
    layer = usable(seen(net, inputs, labels))
    found = restore_examples(layer, ExactLabels(), generator=torch.Generator().manual_seed(0))
    assert not isinstance(found, str)
    assert found.whole
    distances = torch.cdist(found.embeddings, inputs.double())
    assert float(distances.amin(1).max()) < 1e-2 * float(inputs.norm(dim=1).mean())
    assert torch.equal(labels[distances.argmin(1)], found.labels)


def test_without_bias_beyond_the_rank_or_with_noise_there_is_no_balanced_gradient() -> None:
    bare = sharp(0, bias=False)
    assert read_balanced(usable(seen(bare, *drawn(bare, 5, 2, seed=0))), reach=0.75) is None
    net = sharp(0)
    for known in (True, False):
        assert read_balanced(usable(seen(net, *drawn(net, 200, 0, seed=0), known=known)), reach=0.75) is None
    layer = usable(seen(net, *drawn(net, 5, 2, seed=0)))
    noise = torch.randn(layer.gW.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = {"W": layer.W, "b": layer.b, "gW": layer.gW + 1e-4 * layer.gW.abs().max() * noise, "gb": layer.gb}
    given = {"name": layer.name, "has_bias": True, "examples": 5, "rectified": True, "eps": layer.eps}
    assert read_balanced(LastLayer(**noisy, **given), reach=0.75) is None  # type: ignore[arg-type]


def test_a_root_found_twice_is_no_crash() -> None:
    net = sharp(0)
    pencil = read_balanced(usable(seen(net, *drawn(net, 5, 2, seed=0))), reach=0.75)
    assert pencil is not None
    a = pencil.U[:2, :].new_ones(2, pencil.rank)
    classes = torch.tensor([3, 3])
    twice = Found(classes=classes, a=a, errors=client_errors(pencil, classes, a), examples=5.0)
    options = Searching(rounds=1, starts=10, steps=5, reach=0.75)
    search = Search(pencil=pencil, clipped=False, options=options, generator=torch.Generator().manual_seed(0))
    assert len(search.round(twice, 1).a) >= 2


def test_soft_labels_on_a_sharp_network_are_never_certified_wrong() -> None:
    net = sharp(0)
    for seed in range(2):
        inputs, labels = drawn(net, 6, 3, seed)
        targets = nn.functional.one_hot(labels, CLASSES).float()
        loss = cross_entropy(net(inputs), 0.7 * targets + 0.3 * targets.flip(0))
        names, values = zip(*net.named_parameters(), strict=True)
        update = GradientUpdate(dict(zip(names, torch.autograd.grad(loss, values), strict=True)))
        one = Round(network=net, update=update, batch_size=6)
        result = run(Observation(rounds=(one,), input_shape=(WIDTH,), classes=CLASSES))
        if result.labels is not None:
            sure = torch.bincount(result.labels[result.certified], minlength=CLASSES)
            assert bool((sure <= torch.bincount(labels, minlength=CLASSES)).all())


def clipped(examples: int, clip: float, seed: int, noise: float = 0.0) -> tuple[Observation, Tensor]:
    """Digits, ten classes: beyond what the rank tells apart."""
    data = load_dataset("digits")
    batch, _ = draw_batch(data, batch_size=examples, generator=torch.Generator().manual_seed(seed))
    net = build_network("mlp:100", input_shape=data.input_shape, classes=10, seed=seed)
    rule = build_rule(f"dpsgd:clip={clip},noise={noise}")
    update = rule(net, batch, torch.Generator().manual_seed(seed))
    view = ThreatModel(batch_size=True).view(network=net, update=update, batch=batch, rule=rule, classes=10)
    return view, batch.labels


def test_estimates_undo_the_mean_of_what_clipping_took() -> None:
    mean = {True: 0.0, False: 0.0}
    for seed in range(6):
        view, labels = clipped(8, 0.5, seed)
        layer = usable(view)
        for undone in (True, False):
            read = with_clipping_undone(layer) if undone else layer
            counts = 8 * (0.1 - read.gb)
            mean[undone] += float((counts - torch.bincount(labels, minlength=10)).abs().mean()) / 6
        result = RestoreLabels()(view, generator=torch.Generator().manual_seed(0))
        assert result.labels is not None
        assert l1_half(result.labels, labels, 10) <= 0.25
    assert mean[True] < 0.5 * mean[False]


def test_nothing_is_undone_where_nothing_was_clipped_or_noise_is_loud() -> None:
    for clip, noise in ((1000.0, 0.0), (0.5, 1.0)):
        layer = usable(clipped(8, clip, 0, noise)[0])
        assert with_clipping_undone(layer) is layer


@pytest.mark.parametrize("attack", [UniformProbabilities(), PooledEmbedding()])
def test_every_estimate_under_clipping_is_of_the_batch_size(attack: UniformProbabilities | PooledEmbedding) -> None:
    view, labels = clipped(32, 0.5, 1)
    result = attack(view, generator=torch.Generator().manual_seed(0))
    assert result.labels is not None
    assert len(result.labels) == len(labels)
    assert l1_half(result.labels, labels, 10) <= 0.2
