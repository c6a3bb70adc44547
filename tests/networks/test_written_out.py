"""Layers and ReLUs that are written out by hand are read like modules, and what only looks like them is not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from seepage.networks.layers import Activation, LayerReading, read_layers
from seepage.networks.watching import WatchedLayer

Forward = Callable[["Written", Tensor], Tensor]


class Written(nn.Module):
    """Two layers of 6 and 3 units on 4 inputs; ``how`` makes the first one's activated outputs ``[b, 6]``."""

    def __init__(self, how: Forward) -> None:
        super().__init__()
        self.how = how
        self.w, self.b, self.turned = (nn.Parameter(torch.randn(size)) for size in ((6, 4), (6,), (4, 6)))
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.how(self, x))


def read(how: Forward) -> LayerReading:
    torch.manual_seed(0)
    return read_layers(Written(how), (4,))


def in_place(net: Written, x: Tensor) -> Tensor:
    x = x @ net.w.t()
    x += net.b
    return x.relu_()


def by_a_mask(net: Written, x: Tensor) -> Tensor:
    z = F.linear(x, net.w, net.b)
    return z * (z > 0).to(z.dtype)


LAYERS: dict[str, tuple[Forward, bool]] = {
    "x @ W.T + b": (lambda net, x: (x @ net.w.T + net.b).relu(), False),
    "b + x @ W.T": (lambda net, x: (net.b + torch.mm(x, net.w.mT)).relu(), False),
    "x @ W + b": (lambda net, x: (x @ net.turned + net.b).relu(), True),
    "addmm(b, x, W.T)": (lambda net, x: torch.addmm(net.b, x, net.w.transpose(0, 1)).relu(), False),
    "addmm(b, x, W)": (lambda net, x: net.b.addmm(x, net.turned).relu(), True),
    "linear(x, W.T)": (lambda net, x: F.linear(x, net.turned.permute(1, 0), net.b).relu(), True),
    "linear + b": (lambda net, x: torch.add(F.linear(x, net.w), net.b).relu(), False),
    "in place": (in_place, False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_product_and_a_sum_are_a_layer(name: str) -> None:
    how, transposed = LAYERS[name]
    layer = read(how).layers[0]
    assert (layer.weight, layer.bias) == ("turned" if transposed else "w", "b")
    assert (layer.outputs, layer.inputs, layer.positions, layer.calls) == (6, 4, 1, 1)
    assert (layer.transposed, layer.activation, layer.reads_input) == (transposed, Activation.RELU, True)
    assert layer.matrix(dict(Written(how).named_parameters())).shape == (6, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_its_inputs_and_outputs_are_seen_in_any_pass(name: str) -> None:
    how, _ = LAYERS[name]
    network = Written(how)
    layer, inputs = read(how).layers[0], torch.randn(5, 4)
    with WatchedLayer(layer) as watched:
        network(inputs)
    assert watched.inputs is not None
    assert watched.outputs is not None
    expected = inputs @ layer.matrix(dict(network.named_parameters())).T + network.b
    assert watched.inputs.equal(inputs)
    assert watched.outputs.relu().allclose(expected.relu(), atol=1e-6)


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp_min": lambda z: z.clamp_min(0),
    "clamp": lambda z: z.clamp(min=0.0),
    "clip": lambda z: torch.clip(z, 0, None),
    "where": lambda z: torch.where(z > 0, z, 0.0),
    "where, turned": lambda z: torch.where(z.le(0), torch.zeros_like(z), z),
    "maximum": lambda z: torch.maximum(z, z.new_zeros(())),
    "max": lambda z: torch.max(torch.tensor(0.0), z),
    "mask": lambda z: z * (z > 0),
    "mask of numbers": lambda z: (z > 0).float() * z,
    "masked_fill": lambda z: z.masked_fill(z < 0, 0.0),
    "threshold": lambda z: F.threshold(z, 0.0, 0.0),
    "not below": lambda z: torch.where(~(z < 0), z, torch.zeros(1)),
}


@pytest.mark.parametrize("name", RELUS)
def test_a_relu_in_other_words_is_a_relu(name: str) -> None:
    z = torch.tensor([[-2.0, -0.5, 0.5, 2.0]])
    assert RELUS[name](z).equal(z.relu())
    layer = read(lambda net, x: RELUS[name](F.linear(x, net.w, net.b))).layers[0]
    assert (layer.activation, layer.followed_by) == (Activation.RELU, "ReLU")


@pytest.mark.parametrize(
    "almost",
    [
        lambda z: z.clamp(0, 1),
        lambda z: z.clamp(min=-1),
        lambda z: z.clamp(max=0),
        lambda z: torch.maximum(z, torch.ones_like(z)),
        lambda z: torch.max(z, 1, keepdim=True).values.expand(-1, 6),
        lambda z: torch.max(z, 0).values.expand(7, -1),
        lambda z: torch.where(z > 0.1, z, 0.0),
        lambda z: torch.where(z > 0, z, -1.0),
        lambda z: torch.where(z > 0, 0.0, z),
        lambda z: torch.where(z.flip(1) > 0, z, 0.0),
        lambda z: z * (z < 0),
        lambda z: z.masked_fill(z > 0, 0.0),
        lambda z: F.threshold(z, 0.0, 1.0),
        lambda z: F.threshold(z, 0.5, 0.0),
        lambda z: z * (z > 0) + (z > 0),
    ],
)
def test_what_is_nearly_a_relu_is_none(almost: Callable[[Tensor], Tensor]) -> None:
    layer = read(lambda net, x: almost(F.linear(x, net.w, net.b))).layers[0]
    assert layer.activation is not Activation.RELU


def used_twice(net: Written, x: Tensor) -> Tensor:
    h = x @ net.w.T
    return (h + net.b).relu() + h


@pytest.mark.parametrize(
    "how",
    [
        used_twice,
        lambda net, x: (x @ net.w.T).relu() + net.b,
        lambda net, x: torch.add(x @ net.w.T, net.b, alpha=2).relu(),
        lambda net, x: torch.addmm(net.b, x, net.w.T, alpha=2).relu(),
        lambda net, x: (x @ net.w.T + net.b * 2).relu(),
        lambda net, x: (x @ net.w.T - net.b).relu(),
        lambda net, x: (x @ (net.w * 2).T + net.b).relu(),
        lambda net, x: torch.einsum("bi,oi->bo", x, net.w).add(net.b).relu(),
        lambda net, x: (x @ net.w.T + x @ net.turned + net.b).relu(),
    ],
)
def test_a_sum_that_is_not_the_layers_bias_is_none(how: Forward) -> None:
    reading = read(how)
    relu = [layer for layer in reading.layers if layer.activation is Activation.RELU and layer.bias is not None]
    assert relu == []


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias).relu()


def test_a_layer_has_a_modules_name_only_if_the_module_puts_it_out() -> None:
    layers = read_layers(nn.Sequential(Dense(), nn.Linear(4, 2)), (4,)).layers
    assert [layer.name for layer in layers] == ["0.weight", "1"]
    assert layers[0].activation is Activation.RELU
