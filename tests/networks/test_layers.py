"""Reading layers: every promise of `read_layers`, on networks made to break it."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from seepage.errors import InputError
from seepage.networks import layers
from seepage.networks.layers import Activation, LayerKind, LayerReading, read_layers, read_once
from seepage.networks.tracing import trace_forward
from seepage.networks.zoo import build_network


class Functional(nn.Module):
    """Registered in another order than met; functional calls only; one parameter unused."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.first = nn.Linear(8, 6)
        self.middle = nn.Parameter(torch.eye(6))
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.reshape(len(x), -1)))
        x = F.gelu(F.linear(x, self.middle))
        return F.linear(x, weight=self.last.weight, bias=self.last.bias)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(torch.relu(self.norm(self.b(h))) + h)


class Forked(nn.Module):
    """An activation and a sum meet the same output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h.relu() + h)


class Branching(nn.Module):
    """Control flow that depends on values: no tracer without values can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.dead = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.a(x).relu())
        return self.dead(h) if bool((x > 2).any()) else self.b(h)


class Attending(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=batch_first)
        self.batch_first = batch_first
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        out = self.attention(x, x, x)[0]
        return self.fc(out.mean(1 if self.batch_first else 0))


class Encoding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(x)[:, 0])


class Tied(nn.Module):
    """One weight called twice, one reused under a second name, one used transposed besides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.twin, self.twisted = (nn.Linear(4, 4) for _ in range(4))
        self.twin.weight = self.b.weight
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.a(x).tanh()).tanh()
        x = self.twin(self.b(x).relu()).relu()
        return self.fc(self.twisted(x) @ self.twisted.weight)


class Masked(nn.Module):
    """A weight that is computed before use: its gradient is not the layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("mask", torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * self.scale, self.weight * self.mask)


@pytest.fixture(autouse=True)
def same_weights_each_time() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def names(reading: LayerReading) -> list[str]:
    return [layer.name for layer in reading.layers]


def sequence(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


class Likening(nn.Module):
    """Tensors taken for their shape and dtype alone."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.weight = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x + self.token.expand_as(x), self.weight.to(x, copy=True)) + torch.zeros_like(x[:, :2])


NETWORKS = {
    "functional": (Functional, (2, 4)),
    "residual": (Residual, (8,)),
    "branching": (Branching, (4,)),
    "attending": (lambda: Attending(batch_first=True), (5, 6)),
    "attending, tokens first": (lambda: Attending(batch_first=False), (5, 6)),
    "encoding": (Encoding, (5, 6)),
    "tied": (Tied, (4,)),
    "masked": (Masked, (4,)),
    "forked": (Forked, (4,)),
    "likening": (Likening, (4,)),
    "bare linear": (lambda: nn.Linear(4, 2), (4,)),
    "no parameters": (nn.Flatten, (4,)),
} | {
    spec: (lambda spec=spec: build_network(spec, input_shape=(3, 16, 16), classes=5, seed=0), (3, 16, 16))
    for spec in ("mlp:20,10", "lenet", "resnet18", "resnet20", "vit")
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_accounted_for_exactly_once(name: str) -> None:
    make, shape = NETWORKS[name]
    network = make()
    reading = read_layers(network, shape)
    found = [*reading.others, *reading.unaccounted]
    found += [name for layer in reading.layers for name in (layer.weight, layer.bias) if name is not None]
    assert sorted(found) == sorted(name for name, _ in network.named_parameters())
    assert len(set(names(reading))) == len(reading.layers)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_the_network_and_the_random_state_stay_as_they_were(name: str, training: bool) -> None:
    make, shape = NETWORKS[name]
    network = make().train(training)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    identities = [id(parameter) for parameter in network.parameters()]
    first = read_layers(network, shape)
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(parameter) for parameter in network.parameters()] == identities
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert all(module.training is training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert read_layers(network, shape) == first


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_and_outputs_are_the_shape_of_the_weight(name: str) -> None:
    make, shape = NETWORKS[name]
    network = make()
    parameters = dict(network.named_parameters())
    for layer in read_layers(network, shape).layers:
        assert parameters[layer.weight].reshape(layer.outputs, layer.inputs).shape == (layer.outputs, layer.inputs)


def test_layers_come_in_the_order_met_with_functional_calls_understood() -> None:
    reading = read_layers(Functional(), (2, 4))
    assert names(reading) == ["first", "middle", "last"]
    assert [layer.activation for layer in reading.layers] == [Activation.RELU, Activation.GELU, Activation.NONE]
    assert [layer.reads_input for layer in reading.layers] == [True, False, False]
    assert [layer.bias for layer in reading.layers] == ["first.bias", None, "last.bias"]
    assert reading.layer("last").followed_by == "output"
    assert reading.unaccounted == ("idle.weight", "idle.bias")
    assert reading.classes == 3


def test_a_norm_in_between_means_that_the_activation_is_not_direct() -> None:
    layer = read_layers(Residual(), (8,)).layer("b")
    assert (layer.activation, layer.followed_by) == (Activation.NONE, "BatchNorm1d norm")


def test_a_sum_or_several_followers_are_no_activation() -> None:
    layer = read_layers(Forked(), (4,)).layer("a")
    assert (layer.activation, layer.followed_by) == (Activation.OTHER, "ReLU and add")
    assert read_layers(Residual(), (8,)).layer("a").followed_by == "Linear b and add"


@pytest.mark.parametrize(
    ("module", "activation"),
    [
        (nn.ReLU(), Activation.RELU),
        (nn.ReLU(inplace=True), Activation.RELU),
        (nn.LeakyReLU(), Activation.LEAKY_RELU),
        (nn.GELU(), Activation.GELU),
        (nn.Sigmoid(), Activation.SIGMOID),
        (nn.Tanh(), Activation.TANH),
        (nn.SiLU(), Activation.SILU),
        (nn.Softmax(dim=1), Activation.SOFTMAX),
        (nn.ELU(), Activation.OTHER),
        (nn.ReLU6(), Activation.OTHER),
        (nn.PReLU(), Activation.OTHER),
        (nn.Identity(), Activation.NONE),
    ],
)
def test_each_activation_is_recognised(module: nn.Module, activation: Activation) -> None:
    assert read_layers(sequence(nn.Linear(4, 4), module, nn.Linear(4, 2)), (4,)).layers[0].activation is activation


def test_dropout_and_reshaping_are_looked_through() -> None:
    network = sequence(nn.Conv2d(1, 4, 3), nn.Dropout2d(), nn.Flatten(), nn.Identity(), nn.ReLU(), nn.Linear(144, 2))
    layer = read_layers(network, (1, 8, 8)).layer("0")
    assert (layer.activation, layer.followed_by) == (Activation.RELU, "ReLU (after dropout)")


def test_only_the_reshaped_input_counts_as_the_input() -> None:
    assert read_layers(sequence(nn.Flatten(), nn.Linear(8, 2)), (2, 4)).layers[0].reads_input
    for before in (nn.Dropout(), nn.BatchNorm1d(8), nn.ReLU()):
        assert not read_layers(sequence(before, nn.Linear(8, 2)), (8,)).layers[0].reads_input


def test_a_convolution_is_read_in_patches_and_output_pixels() -> None:
    network = sequence(nn.Conv2d(4, 6, (3, 5), stride=2, groups=2), nn.Flatten(), nn.Linear(6 * 3 * 2, 2))
    conv, linear = read_layers(network, (4, 8, 8)).layers
    assert (conv.kind, conv.inputs, conv.outputs, conv.positions) == (LayerKind.CONV, 2 * 15, 6, 6)
    assert conv.input_shape == (4, 8, 8)
    assert (linear.kind, linear.positions, linear.input_shape) == (LayerKind.LINEAR, 1, (36,))


@pytest.mark.parametrize("tokens", [5, 7, 14])
def test_tokens_are_positions_wherever_the_batch_stands(tokens: int) -> None:
    for batch_first in (True, False):
        reading = read_layers(Attending(batch_first=batch_first).eval(), (tokens, 6))
        assert names(reading) == ["attention.out_proj", "fc"]
        assert reading.layers[0].positions == tokens
        assert reading.layers[0].input_shape == (tokens, 6)
        assert reading.others == ("attention.in_proj_weight", "attention.in_proj_bias")


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_layer_is_read_in_training_and_evaluation(training: bool) -> None:
    reading = read_layers(Encoding().train(training), (5, 6))
    assert names(reading) == ["block.self_attn.out_proj", "block.linear1", "block.linear2", "fc"]
    assert reading.layer("block.linear1").activation is Activation.RELU
    assert reading.unaccounted == ()


def test_values_may_steer_the_forward_pass() -> None:
    reading = read_layers(Branching(), (4,))
    assert names(reading) == ["a", "b"]
    assert reading.unaccounted == ("dead.weight", "dead.bias")


def test_a_shared_weight_is_one_layer_called_twice_and_a_stray_use_is_refused() -> None:
    reading = read_layers(Tied(), (4,))
    assert [(layer.name, layer.calls) for layer in reading.layers] == [("a", 2), ("b", 2), ("fc", 1)]
    assert reading.layer("a").bias == "a.bias"
    assert reading.layer("b").bias is None  # two biases go with the one weight
    assert set(reading.unaccounted) == {"b.bias", "twin.bias", "twisted.weight", "twisted.bias"}


def test_a_computed_weight_is_no_layer() -> None:
    reading = read_layers(Masked(), (4,))
    assert (reading.layers, reading.others, reading.unaccounted) == ((), ("scale",), ("weight",))


def test_a_tensor_taken_for_its_shape_is_no_use_of_it() -> None:
    reading = read_layers(Likening(), (4,))
    assert (reading.layers, reading.others, reading.unaccounted) == ((), ("token",), ("weight",))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated", "ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_part_is_unaccounted_and_so_is_all_before_it() -> None:
    network = sequence(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 2))
    reading = read_layers(network, (4,))
    assert "1.weight" in reading.unaccounted
    assert "0.weight" in reading.unaccounted


@pytest.mark.parametrize(
    "name", ["functional", "residual", "encoding", "forked", "mlp:20,10", "lenet", "resnet18", "vit"]
)
def test_the_reading_agrees_with_a_real_pass_forward_and_back(name: str) -> None:
    make, shape = NETWORKS[name]
    network = make()  # in training: fresh batch norm in evaluation keeps signs, and so the zeros of a ReLU behind it
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    met: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str, given: Tensor, out: Tensor) -> Tensor:
        out.retain_grad()
        met[path] = (given, out)
        return out * 1  # an in-place activation may not overwrite what is kept

    for path, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda _, args, out, path=path: keep(path, args[0], out))
    network(inputs).square().sum().backward()
    layers = [layer for layer in read_layers(make(), shape).layers if layer.name in met]
    assert [layer.name for layer in layers] == list(met)
    for layer in layers:
        given, out = met[layer.name]
        gradient = out.grad
        assert gradient is not None
        assert layer.input_shape == given.shape[1:]
        assert layer.positions * layer.outputs * 3 == out.numel()
        assert layer.reads_input == (
            given.numel() == inputs.numel() and bool((given.flatten() == inputs.flatten()).all())
        )
        off = gradient[out <= 0]
        assert len(off) == 0 or bool((off == 0).all()) == (layer.activation is Activation.RELU)


def test_a_reparametrised_weight_is_unaccounted() -> None:
    reading = read_layers(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), (4,))
    assert reading.layers == ()
    assert set(reading.unaccounted) >= {"parametrizations.weight.original0", "parametrizations.weight.original1"}


def test_float64_and_frozen_networks_are_read_alike() -> None:
    network = Functional()
    expected = read_layers(network, (2, 4))
    assert read_layers(network.double().requires_grad_(False), (2, 4)) == expected


def test_an_unfitting_shape_is_refused_naming_shape_and_layer() -> None:
    with pytest.raises(InputError, match=r"\['b', 9\]; layer `a` \(Linear\) failed: mat1 and mat2"):
        read_layers(Residual(), (9,))
    with pytest.raises(InputError, match="positive sizes"):
        read_layers(Residual(), (0,))


@pytest.mark.parametrize("network", [nn.Conv2d(1, 2, 3), nn.LSTM(4, 4)])
def test_an_output_without_classes_is_refused(network: nn.Module) -> None:
    with pytest.raises(InputError, match=r"output should be a tensor \[b, classes\]"):
        read_layers(network, (1, 4, 4) if isinstance(network, nn.Conv2d) else (3, 4))


def test_an_unknown_layer_is_refused_listing_the_known() -> None:
    with pytest.raises(InputError, match=r"first, middle, last\); found `fc`"):
        read_layers(Functional(), (2, 4)).layer("fc")


def test_a_network_that_nobody_changes_can_be_read_once_for_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    network, passes = sequence(nn.Flatten(), nn.Linear(64, 10)), list[int]()
    monkeypatch.setattr(layers, "trace_forward", lambda *of: passes.append(1) or trace_forward(*of))
    with read_once():
        assert read_layers(network, (1, 8, 8)) is read_layers(network, (1, 8, 8))
        read_layers(network, (64,))
    assert len(passes) == 2
    read_layers(network, (1, 8, 8))
    assert len(passes) == 3


def test_within_one_reading_another_network_or_mode_is_read_anew() -> None:
    with read_once():
        for outputs in range(2, 12):  # each is let go at once, and the next may come by its id
            assert read_layers(nn.Sequential(nn.Linear(4, outputs)), (4,)).classes == outputs
        network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2))
        assert "dropout" not in read_layers(network.eval(), (4,)).layers[0].followed_by
        training = read_layers(network.train(), (4,))
    assert training == read_layers(network, (4,))
