"""NoisePrior: right on small batches, reproducible, and clear about what it cannot read."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from seepage.attacks.labels.noiseprior import NoisePrior, noise_inputs
from seepage.label_scores import exact_vector
from seepage.types import GradientUpdate, Observation, Round


class BareHead(nn.Module):
    """Ends in a bare weight and bias, no module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.weight = nn.Parameter(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return linear(torch.relu(self.body(x)), self.weight, self.bias)


def observe(net: nn.Module, labels: Tensor, bounds: tuple[Tensor, Tensor] | None = None) -> Observation:
    inputs = torch.rand(len(labels), 8, generator=torch.Generator().manual_seed(1))
    names, values = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(cross_entropy(net(inputs), labels), values)
    update = GradientUpdate(dict(zip(names, gradients, strict=True)))
    one = Round(network=net, update=update, batch_size=len(labels))
    return Observation(rounds=(one,), input_shape=(8,), classes=5, bounds=bounds)


def mlp() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5))


def test_small_batches_of_an_untrained_network_are_restored_and_a_seed_decides_everything() -> None:
    labels = torch.tensor([0, 0, 0, 3, 3, 1])
    observation = observe(mlp(), labels)
    first, second = (NoisePrior()(observation, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert first.labels is not None
    assert second.labels is not None
    assert exact_vector(first.labels, labels, 5) == 1.0
    assert torch.equal(first.labels, second.labels)
    assert first.stats["confidence"] == "estimated"


def test_noise_stays_in_the_bounds() -> None:
    bounds = (torch.full((8,), 2.0), torch.full((8,), 3.0))
    observation = observe(mlp(), torch.tensor([0, 1]), bounds)
    noise = noise_inputs(observation, 50, torch.Generator().manual_seed(0))
    assert 2.0 <= float(noise.min()) <= float(noise.max()) <= 3.0


def test_a_head_that_is_no_module_is_an_obstacle() -> None:
    obstacles = NoisePrior().obstacles(observe(BareHead(), torch.tensor([0, 1])))
    assert len(obstacles) == 1
