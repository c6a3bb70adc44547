"""The faintest examples of a balanced gradient: sharper spaces, the rest left free, and columns that name a class."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.exact.balanced import Balanced, client_errors, read_balanced
from seepage.attacks.labels.exact.balancedcompletion import completed
from seepage.attacks.labels.exact.balancedentries import sharpened
from seepage.attacks.labels.exact.balancedproof import Found
from seepage.attacks.labels.exact.lonecolumns import lone_classes
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.types import GradientUpdate, Observation, Round

CLASSES, WIDTH, EXAMPLES, STEPS = 40, 60, 8, 50


def batch(seed: int) -> tuple[LastLayer, Tensor, Tensor]:
    """A sharp last layer's gradient of examples that it mostly fits; with it embeddings ``[K, m+1]`` and labels."""
    generator = torch.Generator().manual_seed(seed)
    W = 8 * WIDTH**-0.5 * torch.randn(CLASSES, WIDTH, generator=generator)
    layer = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(W)
        layer.bias.zero_()
    inputs = torch.randn(EXAMPLES, WIDTH, generator=generator).relu()
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    labels[:6] = layer(inputs[:6]).argmax(1)
    gW, gb = torch.autograd.grad(cross_entropy(layer(inputs), labels), (layer.weight, layer.bias))
    read = LastLayer(
        name="1",
        W=layer.weight.detach().double(),
        b=layer.bias.detach().double(),
        gW=gW.double(),
        gb=gb.double(),
        has_bias=True,
        examples=EXAMPLES,
        rectified=True,
        eps=torch.finfo(torch.float32).eps,
    )
    return read, torch.cat([inputs.double(), torch.ones(EXAMPLES, 1, dtype=torch.float64)], 1), labels


def outside(pencil: Balanced, embeddings: Tensor) -> Tensor:
    """``[K]``: the share of each balanced embedding that lies outside of the pencil's row space."""
    rows = embeddings * pencil.columns
    distance: Tensor = (rows - rows @ pencil.V @ pencil.V.T).norm(dim=1) / rows.norm(dim=1)
    return distance


def some(pencil: Balanced, embeddings: Tensor, labels: Tensor, missing: int) -> Found:
    """All examples but the faintest few, found to four digits."""
    a = (embeddings * pencil.columns) @ pencil.V
    probabilities = torch.softmax(a @ pencil.B.T, 1)
    kept = probabilities[torch.arange(len(a)), labels].argsort()[: len(a) - missing]
    a = a[kept] * (1 + 1e-4 * torch.randn(a[kept].shape, generator=torch.Generator().manual_seed(0)).double())
    a = a / (a @ pencil.one)[:, None]
    errors = client_errors(pencil, labels[kept], a)
    return Found(classes=labels[kept], a=a, errors=errors, examples=float(EXAMPLES))


def test_entrywise_weights_do_not_worsen_the_row_space_and_sharpen_it_where_an_example_is_faint() -> None:
    for seed in range(3):
        layer, embeddings, _ = batch(seed)
        pencil = read_balanced(layer, reach=0.75)
        assert pencil is not None
        sharper = sharpened(layer, pencil)
        assert sharper is not None
        before, after = outside(pencil, embeddings), outside(sharper, embeddings)
        assert float(after.max()) < 1.5 * float(before.max())
        assert float(after.mean()) < float(before.mean())


def test_entrywise_weights_refuse_what_is_not_of_the_rank() -> None:
    layer, _, _ = batch(0)
    pencil = read_balanced(layer, reach=0.75)
    assert pencil is not None
    fewer = Balanced(
        U=pencil.U[:, :-1],
        S=pencil.S[:-1],
        V=pencil.V[:, :-1],
        B=pencil.B[:, :-1],
        one=pencil.one[:-1],
        rows=pencil.rows,
        columns=pencil.columns,
        eps=pencil.eps,
    )
    assert sharpened(layer, fewer) is None


def test_missing_examples_come_back_and_the_whole_is_proved() -> None:
    for seed in range(3):
        for missing in (0, 1, 2):
            layer, embeddings, labels = batch(seed)
            pencil = read_balanced(layer, reach=0.75)
            assert pencil is not None
            whole = completed(pencil, some(pencil, embeddings, labels, missing), clipped=False, steps=STEPS)
            assert whole.proved
            assert whole.classes.sort().values.tolist() == labels.sort().values.tolist()


def test_a_wrong_example_is_dropped_and_never_proved() -> None:
    layer, embeddings, labels = batch(1)
    pencil = read_balanced(layer, reach=0.75)
    assert pencil is not None
    found = some(pencil, embeddings, labels, 0)
    wrong = found.classes.clone()
    wrong[0] = (wrong[0] + 1) % CLASSES
    bad = Found(classes=wrong, a=found.a, errors=client_errors(pencil, wrong, found.a), examples=float(EXAMPLES))
    whole = completed(pencil, bad, clipped=False, steps=STEPS)
    right = whole.classes.sort().values.tolist() == labels.sort().values.tolist()
    assert right or not whole.proved


def test_too_many_missing_examples_are_left_alone() -> None:
    layer, embeddings, labels = batch(0)
    pencil = read_balanced(layer, reach=0.75)
    assert pencil is not None
    few = some(pencil, embeddings, labels, 7)
    assert completed(pencil, few, clipped=False, steps=STEPS) is few


def test_a_column_that_one_example_has_alone_names_its_class_however_faint_it_is() -> None:
    W = torch.zeros(3, 3, dtype=torch.float64)
    errors = torch.tensor([[1e-12, 0.0, 2e-12], [0.5, 0.2, -0.7]], dtype=torch.float64)  # the first: p - 1 rounded away
    embeddings = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    gradient = errors.T @ embeddings / 2
    layer = LastLayer(
        name="1", W=W, b=W[0], gW=gradient, gb=errors.mean(0), has_bias=True, examples=2, rectified=True, eps=1e-7
    )
    assert lone_classes(layer).tolist() == [False, True, True]


def test_classes_named_are_there() -> None:
    for seed in range(5):
        layer, _, labels = batch(seed)
        assert set(lone_classes(layer).nonzero()[:, 0].tolist()) <= set(labels.tolist())


def test_no_batch_size_is_certified_where_examples_of_one_class_hide_behind_their_mean() -> None:
    for examples in (2, 4, 8):
        generator = torch.Generator().manual_seed(examples)
        layer = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            layer.weight.copy_(0.003 * torch.randn(CLASSES, WIDTH, generator=generator))
            layer.bias.zero_()
        inputs = (1 + 0.05 * torch.randn(examples, WIDTH, generator=generator)).relu()
        labels = torch.full((examples,), 7)
        net = nn.Sequential(nn.Identity(), layer)
        gW, gb = torch.autograd.grad(cross_entropy(net(inputs), labels), (layer.weight, layer.bias))
        one = Round(network=net, update=GradientUpdate({"1.weight": gW, "1.bias": gb}), batch_size=None)
        seen = Observation(rounds=(one,), input_shape=(WIDTH,), classes=CLASSES)
        result = ExactLabels(rounds=3)(seen, generator=torch.Generator().manual_seed(0))
        right = result.labels is not None and result.labels.tolist() == labels.tolist()
        assert right or not bool(result.certified.any())
        entry = RestoreLabels(exact=ExactLabels(rounds=3))(seen, generator=torch.Generator().manual_seed(0))
        assert bool(entry.certified.any()) or "at least these classes: 7" in (entry.reason or "")


def test_of_examples_that_are_all_wrong_none_is_left_and_nothing_breaks() -> None:
    layer, embeddings, labels = batch(0)
    pencil = read_balanced(layer, reach=0.75)
    assert pencil is not None
    true = some(pencil, embeddings, labels, missing=5)
    a = torch.randn(true.a.shape, generator=torch.Generator().manual_seed(1)).double()
    a = a / (a @ pencil.one)[:, None]
    wrong = Found(classes=true.classes, a=a, errors=client_errors(pencil, true.classes, a), examples=true.examples)
    answer = completed(pencil, wrong, clipped=False, steps=STEPS)
    assert not answer.proved
