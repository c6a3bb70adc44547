"""A layer found again in a forward pass, watched or replaced, whether or not a module stands for it."""

import pytest
import torch
from torch import Tensor, nn

from seepage.networks.layers import read_layers
from seepage.networks.watching import WatchedLayer


class Written(nn.Module):
    """Two layers without modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.shift = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))
        self.second = nn.Parameter(torch.randn(3, 5))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs @ self.first.T + self.shift).clamp(min=0) @ self.second.T


def modules() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))


@pytest.mark.parametrize("network", [Written(), modules()], ids=["written", "modules"])
def test_an_answer_takes_the_place_of_what_the_layer_puts_out(network: nn.Module) -> None:
    first, second = read_layers(network, (4,)).layers
    inputs = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    with WatchedLayer(first, later=[second]) as seen:
        logits = network(inputs)
    assert seen.outputs is not None
    assert seen.inputs is not None
    assert seen.inputs.equal(inputs)
    assert seen.later[0].shape == (2, 5)
    given = torch.randn(1, 5, generator=torch.Generator().manual_seed(2))
    with WatchedLayer(first, answer=given.clone(), later=[second]) as watched:
        other = network(torch.full((1, 4), torch.nan))
    torch.testing.assert_close(watched.later[0], given.relu())
    assert bool(other.isfinite().all())
    assert not other.allclose(logits[:1])
    with WatchedLayer(first, then=lambda outputs: outputs.detach() * 0):
        silent = network(inputs)
    assert silent[0].equal(silent[1])
