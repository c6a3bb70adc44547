"""Examples with entries of their own in the layer before the last: labels however faint, and nothing made up."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.labels.exact.layerbefore import ExamplesBefore, examples_before
from seepage.attacks.labels.exactlabels import ExactLabels
from seepage.attacks.labels.lastlayer import usable
from seepage.attacks.labels.restorelabels import RestoreLabels
from seepage.federated.rules import FedSGD
from seepage.types import GradientUpdate, Observation, Outcome, Reconstruction, Round

CLASSES, INPUTS, UNITS = 12, 300, 120


def network(sharpness: float, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES))
    with torch.no_grad():
        net[0].bias -= 0.3  # few units are on
        net[2].weight *= sharpness
    return net


def batch(net: nn.Module, examples: int, seed: int, fitted: int) -> tuple[Tensor, Tensor]:
    """Sparse inputs, some with the label that the network gives them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(examples, INPUTS, generator=generator) * (torch.rand(examples, INPUTS, generator=generator) < 0.2)
    y = torch.randint(CLASSES, (examples,), generator=generator)
    with torch.no_grad():
        y[:fitted] = net(3 * x).argmax(1)[:fitted]
    return 3 * x, y


def observe(net: nn.Module, x: Tensor, y: Tensor, *, known: bool = True) -> Observation:
    names, values = zip(*net.named_parameters(), strict=True)
    update = GradientUpdate(dict(zip(names, torch.autograd.grad(cross_entropy(net(x), y), values), strict=True)))
    one = Round(network=net, update=update, batch_size=len(y) if known else None)
    return Observation(rounds=(one,), input_shape=(INPUTS,), classes=CLASSES, rule=FedSGD())


def before(seen: Observation) -> ExamplesBefore | None:
    return examples_before(seen, usable(seen), generator=torch.Generator().manual_seed(0))


def run(seen: Observation) -> Reconstruction:
    return ExactLabels(rounds=2, starts=20)(seen, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(3))
def test_labels_come_out_beyond_the_rank_of_the_last_layer(seed: int) -> None:
    net = network(4.0)
    x, y = batch(net, 12, seed, fitted=8)
    result = run(observe(net, x, y))
    assert result.outcome is Outcome.APPROXIMATE
    assert torch.equal(result.labels, y.sort().values)
    assert not bool(result.certified.any())
    assert result.stats["confidence"] == "estimated"
    assert "layer before the last" in result.reason


def test_the_entry_takes_them() -> None:
    net = network(4.0)
    x, y = batch(net, 12, 0, fitted=8)
    entry = RestoreLabels(exact=ExactLabels(rounds=2, starts=20))
    result = entry(observe(net, x, y), generator=torch.Generator().manual_seed(0))
    assert result.stats["method"] == "exact-labels"
    assert torch.equal(result.labels, y.sort().values)


def test_faint_examples_fit_as_well_as_others() -> None:
    net = network(300.0)
    x, y = batch(net, 6, 4, fitted=6)
    with torch.no_grad():
        least = torch.softmax(net.double()(x.double()), 1).amax(1).neg().add(1).min()
    assert float(least) < 1e-9
    net = net.float()
    found = before(observe(net, x, y))
    assert found is not None
    assert torch.equal(found.labels.sort().values, y.sort().values)
    assert bool(found.fits.all())


def test_embeddings_are_the_last_layers_inputs() -> None:
    net = network(4.0)
    x, y = batch(net, 8, 2, fitted=4)
    found = before(observe(net, x, y))
    assert found is not None
    with torch.no_grad():
        truth = net[:2](x).double()
    off = torch.cdist(found.embeddings[found.fits], truth)
    assert float(off.amin(1).max()) < 1e-3 * float(truth.norm(dim=1).mean())
    assert torch.equal(y[off.argmin(1)], found.labels[found.fits])


def test_dense_inputs_copies_and_an_unknown_batch_size_give_nothing() -> None:
    net = network(4.0)
    x, y = batch(net, 6, 3, fitted=3)
    assert before(observe(net, x + 0.1, y)) is None
    assert before(observe(net, x[[0, 0, 1, 2, 3, 4]], y[[0, 0, 1, 2, 3, 4]])) is None
    assert before(observe(net, x, y, known=False)) is None


def test_a_gradient_of_another_size_does_not_fit() -> None:
    net = network(4.0)
    seen = observe(net, *batch(net, 6, 4, fitted=3))
    halved = GradientUpdate({name: 0.5 * value for name, value in seen.latest.update.items()})
    one = Round(network=net, update=halved, batch_size=6)
    assert before(Observation(rounds=(one,), input_shape=(INPUTS,), classes=CLASSES, rule=FedSGD())) is None
