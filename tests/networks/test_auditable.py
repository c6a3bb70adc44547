"""What cannot be audited is said in one sentence, by the command line's factories and by ``seepage.audit`` alike."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

import seepage
from seepage.audit.preflight import inspect_network
from seepage.errors import InputError
from seepage.networks.auditable import auditable


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def meta() -> nn.Module:
    with torch.device("meta"):
        return mlp()


def complex_valued() -> nn.Module:
    network = mlp()
    network.register_parameter("phase", nn.Parameter(torch.ones(3, dtype=torch.cfloat)))
    return network


def normed_the_old_way() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 10)))


UNFIT: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "lazy"),
    (lambda: nn.DataParallel(mlp()), r"`\.module` of its wrapper; found DataParallel"),
    (lambda: nn.Sequential(nn.DataParallel(mlp())), "found DataParallel at `0`"),
    (meta, "`1.weight` on the meta device"),
    (complex_valued, "`phase` of torch.complex64"),
    (normed_the_old_way, "copyable"),
]


@pytest.mark.parametrize(("make", "words"), UNFIT)
def test_what_cannot_be_audited_is_told(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(InputError, match=words):
        seepage.audit(make(), (torch.rand(2, 1, 8, 8), torch.tensor([0, 1])))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch's own modules
def test_a_compiled_network_is_audited_as_what_was_compiled() -> None:
    network = mlp()
    assert auditable(torch.compile(network)) is network


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_another_precision_can_be_inspected(dtype: torch.dtype) -> None:
    network = mlp().to(dtype)
    found = inspect_network(network, input_shape=(1, 8, 8), classes=10)
    assert found.attackable is not None
    assert network[1].weight.dtype is dtype
