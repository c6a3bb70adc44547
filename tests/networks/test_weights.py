"""Weights on disk: back bit for bit, or refused with every culprit named and the network untouched."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seepage.errors import InputError
from seepage.networks.weights import load_weights, save_weights
from seepage.networks.zoo import build_network


def build(spec: str = "mlp:5", seed: int = 0) -> nn.Module:
    return build_network(spec, input_shape=(1, 8, 8), classes=3, seed=seed)


def refusal(network: nn.Module, path: Path) -> str:
    """What loading says, having changed nothing."""
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError) as caught:
        load_weights(network, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return str(caught.value)


def tensors(**changes: Tensor | None) -> dict[str, Tensor]:
    changed = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in ({**build().state_dict(), **changed}).items() if tensor is not None}


@pytest.mark.parametrize("spec", ["mlp:5", "resnet18", "vit"])
def test_weights_come_back_bit_for_bit_with_buffers(spec: str, tmp_path: Path) -> None:
    saved, loaded = build(spec, seed=1), build(spec, seed=2)
    saved(torch.rand(2, 1, 8, 8))  # moves batch-norm statistics
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    save_weights(network, tmp_path / "w")
    load_weights(network, tmp_path / "w")


def test_half_precision_is_converted(tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in build().state_dict().items()}, tmp_path / "w")
    network = build(seed=1)
    load_weights(network, tmp_path / "w")
    assert torch.equal(network[1].weight, build()[1].weight.half().float())


@pytest.mark.parametrize(
    ("changed", "messages"),
    [
        ({"1__bias": None, "3__bias": None}, ["`1.bias` is missing", "`3.bias` is missing"]),
        ({"9__bias": torch.ones(2)}, ["`9.bias` is unexpected"]),
        ({"1__bias": torch.ones(2)}, ["`1.bias` should have shape [5] but has [2]"]),
        ({"1__bias": torch.full((5,), torch.nan)}, ["`1.bias` holds NaN or infinity"]),
        (
            {"1__bias": torch.full((5,), 1e300, dtype=torch.float64)},
            ["`1.bias` holds NaN or infinity as torch.float32"],
        ),
        ({"1__bias": torch.ones(5, dtype=torch.int64)}, ["`1.bias` should hold torch.float32 but holds torch.int64"]),
        ({"1__bias": None, "3__bias": torch.ones(1)}, ["`1.bias` is missing", "`3.bias` should have shape [3]"]),
    ],
)
def test_every_unfitting_tensor_is_named(
    changed: dict[str, Tensor | None], messages: list[str], tmp_path: Path
) -> None:
    save_file(tensors(**changed), tmp_path / "w")
    message = refusal(build(), tmp_path / "w")
    assert all(part in message for part in messages)


@pytest.mark.parametrize("new_zipfile", [True, False])
def test_a_pickle_is_refused_unread_with_a_way_out(new_zipfile: bool, tmp_path: Path) -> None:
    torch.save(build().state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=new_zipfile)
    assert "looks like a pickle from torch.save" in refusal(build(), tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"\x10", b"not a tensor at all", b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    assert "should be a safetensors file" in refusal(build(), tmp_path / "w")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_weights(build(), tmp_path / "w")
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-8])
    assert "should be a safetensors file" in refusal(build(), tmp_path / "w")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "found no file" in refusal(build(), tmp_path / "nowhere")
    assert "found no file" in refusal(build(), tmp_path)


def test_saving_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can be written"):
        save_weights(build(), tmp_path / "no" / "folder" / "w")
