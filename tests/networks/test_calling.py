"""Networks called with other tensors than their own, and what is left of these afterwards."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from seepage.networks.calling import call_with


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def twice() -> nn.Module:
    """One module in two places."""
    shared = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(4, 6), shared, nn.GELU(), shared, nn.BatchNorm1d(6).eval())


class Tied(nn.Module):
    """Two modules that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 4), nn.Linear(4, 4)
        self.out.weight = self.into.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(torch.tanh(self.into(inputs)))  # type: ignore[no-any-return]


def drawn(network: nn.Module) -> dict[str, Tensor]:
    """Other parameters and buffers of the same names."""
    state = (*network.named_parameters(), *network.named_buffers())
    return {
        name: torch.rand(value.shape, generator=chance()).to(value) if value.is_floating_point() else value.clone()
        for name, value in state
    }


def test_a_network_is_what_it_was_where_a_module_stands_in_two_places() -> None:
    network = twice()
    before = dict(network.named_parameters())
    values = {name: value.double() if value.is_floating_point() else value for name, value in drawn(network).items()}
    answer = call_with(network, values, torch.rand(3, 4, generator=chance()).double())
    assert answer.dtype == torch.float64
    after = dict(network.named_parameters())
    assert all(after[name] is value for name, value in before.items())


def test_values_are_used_in_every_place_that_shares_a_tensor() -> None:
    for network in (twice(), Tied()):
        inputs, values = torch.rand(3, 4, generator=chance(1)), drawn(network)
        answer = call_with(network, values, inputs)
        state = {name: values.get(name, value) for name, value in network.state_dict().items()}
        for name, value in network.named_parameters(remove_duplicate=False):
            first = next(one for one, other in network.named_parameters() if other is value)
            state[name] = values[first]
        network.load_state_dict(state)
        torch.testing.assert_close(answer, network(inputs))


def test_some_values_leave_the_others_and_gradients_pass() -> None:
    network = Tied()
    inputs = torch.rand(3, 4, generator=chance(1))
    values = {"into.weight": torch.rand(4, 4, generator=chance())}

    def total(one: dict[str, Tensor], example: Tensor) -> Tensor:
        return call_with(network, one, example[None]).sum()  # type: ignore[no-any-return]

    def plain(one: dict[str, Tensor], example: Tensor) -> Tensor:
        return functional_call(network, one, (example[None],)).sum()  # type: ignore[no-any-return]

    found, known = (vmap(grad(way), in_dims=(None, 0))(values, inputs) for way in (total, plain))
    assert torch.equal(found["into.weight"], known["into.weight"])
