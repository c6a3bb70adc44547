"""The zoo: what can be built, from which words, and that building leaves no trace."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from seepage.errors import InputError
from seepage.networks.layers import Activation, read_layers
from seepage.networks.zoo import ZOO, build_network

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]
SPECS = ["mlp:40,30", "lenet", "resnet18", "resnet20", "vit"]
FACTORIES = """
from torch import nn
def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def fitted(classes, input_shape): return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[-1] ** 2, classes))
def broken(): raise RuntimeError("no weights here")
def wrong(): return 3
def greedy(width): return nn.Linear(width, 10)
def images(): return nn.Conv2d(1, 10, 3)
number = 3
"""


def build(spec: str, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> nn.Module:
    return build_network(spec, input_shape=shape, classes=10, seed=seed)


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the user's in the current directory; each test its own, as Python remembers modules by name."""
    name = f"nets_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spec", SPECS)
def test_every_network_takes_every_shape_and_gives_classes(spec: str, shape: tuple[int, ...]) -> None:
    network = build(spec, shape)
    outputs = network(torch.zeros(2, *shape))
    assert outputs.shape == (2, 10)
    assert read_layers(network, shape).unaccounted == ()
    assert read_layers(network, shape).layers[0].reads_input


@pytest.mark.parametrize("spec", SPECS)
def test_the_seed_decides_every_weight_and_the_random_state_stays(spec: str) -> None:
    state = torch.get_rng_state()
    one, two, other = (build(spec, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_weights_are_the_defaults_of_pytorch() -> None:
    ours = build("mlp:40", seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid", "tanh", "silu", "leaky_relu"])
def test_the_activation_can_be_named(activation: str) -> None:
    for spec in (f"mlp:40,30:{activation}", f"lenet:{activation}"):
        layers = read_layers(build(spec), (1, 8, 8)).layers
        assert {layer.activation for layer in layers[:-1]} == {Activation(activation)}


def test_an_mlp_has_the_widths_asked_for() -> None:
    assert [layer.outputs for layer in read_layers(build("mlp:40,30,20"), (1, 8, 8)).layers] == [40, 30, 20, 10]


@pytest.mark.parametrize("spec", SPECS)
def test_a_gradient_can_be_differentiated_again(spec: str) -> None:
    network = build(spec)
    inputs = torch.rand(2, 1, 8, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        loss = nn.functional.cross_entropy(network(inputs), torch.tensor([0, 1]))
        gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        torch.stack([gradient.square().sum() for gradient in gradients]).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "one of mlp, lenet, resnet18, resnet20, vit, or `module:factory`"),
        ("", "one of mlp"),
        (":make", "one of mlp"),
        ("nets:", "one of mlp"),
        (".nets:make", "one of mlp"),
        ("mlp", "written `mlp:400,400`"),
        ("mlp:3:relu:4", "written `mlp:400,400`"),
        ("mlp:0", "positive whole numbers such as `400,400`; found `0`"),
        ("mlp:a", "found `a`"),
        ("mlp:", "found ``"),
        ("mlp:4,,4", "found `4,,4`"),
        ("mlp:-4", "found `-4`"),
        ("mlp:²", "found `²`"),
        ("mlp:4:swish", "one of relu, gelu, sigmoid, tanh, silu, leaky_relu; found `swish`"),
        ("lenet:swish", "found `swish`"),
        ("lenet:relu:relu", "`lenet` or `lenet:sigmoid`"),
        ("resnet18:relu", "it has no options"),
        ("vit:4", "it has no options"),
    ],
)
def test_a_misspelt_network_is_refused_in_a_sentence(spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(spec)
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("spec", ["lenet", "resnet18", "vit"])
def test_an_image_network_refuses_rows(spec: str) -> None:
    with pytest.raises(InputError, match=r"\[channels, height, width\]"):
        build(spec, (30,))


@pytest.mark.parametrize(("shape", "classes", "seed"), [((), 2, 0), ((0,), 2, 0), ((4,), 0, 0), ((4,), 2, -1)])
def test_impossible_sizes_are_refused(shape: tuple[int, ...], classes: int, seed: int) -> None:
    with pytest.raises(InputError, match="should"):
        build_network("mlp:4", input_shape=shape, classes=classes, seed=seed)


@pytest.mark.parametrize("factory", ["make", "fitted"])
def test_a_users_factory_is_found_in_the_current_directory_and_seeded(users_module: str, factory: str) -> None:
    one, two = (build(f"{users_module}:{factory}", seed=5) for _ in range(2))
    assert torch.equal(one[1].weight, two[1].weight)
    assert one[1].out_features == 10


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("missing", "found no `missing`"),
        ("broken", "failed with RuntimeError: no weights here."),
        ("wrong", "should return a torch.nn.Module; found int"),
        ("greedy", "missing 1 required positional argument: 'width'"),
        ("number", "should be a function or class; found int"),
        ("images", "should be a tensor [b, classes]"),
    ],
)
def test_a_factory_that_cannot_serve_is_refused(users_module: str, factory: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(f"{users_module}:{factory}")
    assert message in str(caught.value)


def test_another_number_of_classes_is_refused(users_module: str) -> None:
    with pytest.raises(InputError, match=r"\[b, 3\], one output a class; found \[b, 10\]"):
        build_network(f"{users_module}:make", input_shape=(1, 8, 8), classes=3, seed=0)


def test_a_module_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(InputError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        build("no_such_module:make")


def test_names_of_the_zoo_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlp.py").write_text("def make(): raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    assert "mlp" in ZOO
    with pytest.raises(InputError, match="positive whole numbers"):
        build("mlp:make")


@pytest.mark.parametrize("width", ["99999999999999", "9" * 30])
def test_a_network_that_fits_into_no_memory_is_bad_input(width: str) -> None:
    with pytest.raises(InputError, match="should fit into memory"):
        build_network(f"mlp:{width}", input_shape=(3, 32, 32), classes=10, seed=0)
