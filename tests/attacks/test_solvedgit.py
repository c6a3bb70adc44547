"""GIT's recursion at the known weights: right where the equations suffice, obstacles where it does not apply."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from seepage.attacks.budget import Budget
from seepage.attacks.matching import ig
from seepage.attacks.recursion.chain import read_chain
from seepage.attacks.recursion.layersystem import LayerSystem, moments
from seepage.attacks.solvedgit import SolvedGIT
from seepage.audit.catalogue import build_attack
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.metrics import psnr
from seepage.networks.zoo import build_network
from seepage.types import Observation, Obstacle, Outcome, PrivateBatch, ThreatModel


def photo(count: int = 1) -> PrivateBatch:
    dataset = load_dataset("photos", size=16, normalize="none")
    return dataset.batch(torch.arange(count))


def observe(network: nn.Module, batch: PrivateBatch) -> Observation:
    update = FedSGD()(network, batch, torch.Generator().manual_seed(0))
    bounds = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    view = ThreatModel(batch_size=True)
    return view.view(network=network, update=update, batch=batch, rule=FedSGD(), classes=10, bounds=bounds)


def net(spec: str) -> nn.Module:
    return build_network(spec, input_shape=(3, 16, 16), classes=10, seed=0)


@pytest.mark.parametrize(("spec", "least"), [("lenet:sigmoid", 60.0), ("lenet:tanh", 60.0), ("mlp:64,32:tanh", 60.0)])
def test_a_smooth_network_is_solved_up_to_rounding(spec: str, least: float) -> None:
    network, batch = net(spec), photo()
    observation = observe(network, batch)
    attack = SolvedGIT()
    assert not attack.obstacles(observation)
    found = attack(observation, generator=torch.Generator().manual_seed(0))
    assert found.outcome is Outcome.APPROXIMATE
    assert found.inputs is not None
    assert found.labels is not None
    assert found.labels.equal(batch.labels)
    assert float(psnr(found.inputs, batch.inputs)) > least
    assert float(found.stats["residual"]) < 1e-4


def test_relu_is_walked_back_with_public_inputs() -> None:
    network = net("lenet")
    public = load_dataset("photos", size=16, normalize="none").batch(torch.arange(20, 120)).inputs
    found = SolvedGIT(public=public)(observe(network, photo()), generator=torch.Generator().manual_seed(0))
    assert found.inputs is not None
    assert float(psnr(found.inputs, photo().inputs)) > 60


def test_the_normal_equations_are_those_of_the_two_operators() -> None:
    chain = read_chain(net("lenet:sigmoid").double(), (3, 16, 16))
    assert not isinstance(chain, Obstacle)
    link, draw = chain[0], torch.Generator().manual_seed(1)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    errors, x, y = drawn(link.output_shape), drawn(link.input_shape), drawn(link.input_shape)
    weights = (drawn(link.output_shape) > 0).double()
    normal, s, t = link.normal_equations(errors, weights)
    forward = (weights * link.linear(x) * link.linear(y)).sum()
    gradient = (link.gradient(x, errors) * link.gradient(y, errors)).sum()
    torch.testing.assert_close(x.flatten() @ normal @ y.flatten(), s * forward + t * gradient)


@pytest.mark.parametrize("spec", ["resnet18", "vit", "lenet:gelu"])
def test_other_networks_are_obstacles(spec: str) -> None:
    assert SolvedGIT().obstacles(observe(net(spec), photo()))


def test_two_examples_are_an_obstacle() -> None:
    places = [each.where for each in SolvedGIT().obstacles(observe(net("lenet:sigmoid"), photo(2)))]
    assert "batch size" in places


def test_it_starts_matching() -> None:
    observation = observe(net("lenet:sigmoid"), photo())
    attack = build_attack("solved-git+ig", budget=Budget(samples=5))
    assert attack.name == "solved-git+ig"
    found = attack(observation, generator=torch.Generator().manual_seed(0))
    alone = ig(iterations=5)(observation, generator=torch.Generator().manual_seed(0))
    assert float(found.stats["loss"]) < 1e-3 * float(alone.stats["loss"])


def test_zeros_of_relu_determine_what_the_equations_leave_open() -> None:
    chain = read_chain(net("lenet").double(), (3, 16, 16))
    assert not isinstance(chain, Obstacle)
    link, draw = chain[1], torch.Generator().manual_seed(0)

    def drawn(count: int, shape: tuple[int, ...], above: float) -> Tensor:
        return (torch.randn((count, *shape), generator=draw, dtype=torch.float64) - above).relu().flatten(1)

    truth, public = drawn(1, link.input_shape, 1.5)[0], drawn(200, link.input_shape, 1.5)
    errors, x = drawn(1, link.output_shape, 1.2)[0], truth.reshape(link.input_shape)
    system = LayerSystem(
        link=link,
        gradient=link.gradient(x, errors),
        errors=errors,
        outputs=(link.linear(x) + link.bias_of_outputs()).flatten(),
        there=drawn(1, link.output_shape, -1.0)[0] > 0,
        statistics=moments(public),
        nonnegative=True,
    )
    found, open_ = system.solved(1e-12), dataclasses.replace(system, nonnegative=False).solved(1e-12)
    assert float((open_ - truth).norm() / truth.norm()) > 0.05  # fewer equations than unknowns
    assert float((found - truth).norm() / truth.norm()) < 1e-4
