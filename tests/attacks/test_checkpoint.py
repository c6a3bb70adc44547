"""A training is taken up only as itself: another network, other data or a broken file are refused in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seepage.attacks.inverterfile import save_inverter
from seepage.attacks.inverters.blueprint import InverterKind, draw_blueprint
from seepage.attacks.training import Trained, Training, train_inverter
from seepage.cli import main
from seepage.data.sources import load_dataset
from seepage.errors import InputError
from seepage.networks.zoo import build_network
from seepage.types import PrivateBatch

SHAPE = (1, 8, 8)


def net(seed: int = 0) -> nn.Module:
    return build_network("mlp:8:sigmoid", input_shape=SHAPE, classes=10, seed=seed)


def digits(first: int = 0, count: int = 80) -> PrivateBatch:
    return load_dataset("digits").batch(torch.arange(first, first + count))


def trained(
    path: Path | None = None, *, network: nn.Module | None = None, given: PrivateBatch | None = None
) -> Trained:
    network, given = network or net(), given or digits()
    blueprint = draw_blueprint(net(), kind=InverterKind.LTI, input_shape=SHAPE, width=8, buckets=16)
    return train_inverter(network, blueprint, given.inputs, given.labels, training=Training(epochs=1), checkpoint=path)


def test_a_finished_training_taken_up_is_itself(tmp_path: Path) -> None:
    first = trained(tmp_path / "kept.safetensors")
    again = trained(tmp_path / "kept.safetensors")
    assert again.held_out_errors == first.held_out_errors
    assert again.best_epoch == first.best_epoch


def test_a_checkpoint_of_another_network_or_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    done = trained(path)
    for others in ({"network": net(seed=1)}, {"given": digits(first=1)}, {"given": digits(count=90)}):
        with pytest.raises(InputError, match=r"same training .*other weights or public data\)"):
            trained(path, **others)  # type: ignore[arg-type]
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(InputError, match=r"kept\.safetensors should be a whole checkpoint; .* Remove it"):
        trained(path)
    save_inverter(done.inverter, path)  # an attack network, but no training
    with pytest.raises(InputError, match="same training"):
        trained(path)


def test_a_checkpoint_is_refused_as_an_attack_in_a_sentence_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.safetensors"
    trained(path)
    for attack in (f"git:{path}", f"git:{path}+ig"):
        with pytest.raises(SystemExit) as stopped:
            main(
                ["audit", "--data", "digits", "--network", "mlp:8", "--attack", attack, "--out", str(tmp_path / "run")]
            )
        assert stopped.value.code == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "found the checkpoint of a training" in said
        assert "the file that `--out` names" in said


Header, Tensors = dict[str, str], dict[str, Tensor]


def noted(change: Callable[[dict[str, object]], object]) -> Callable[[Header, Tensors], object]:
    def edit(header: Header, _tensors: Tensors) -> None:
        note = json.loads(header["note"])
        change(note["state"])
        header["note"] = json.dumps(note)

    return edit


def without(start: str) -> Callable[[Header, Tensors], object]:
    return lambda _, tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(start)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda header, _: header.update(note="{"),
        lambda header, _: header.update(note="[1]"),
        noted(lambda state: state.pop("best")),
        noted(lambda state: state.update(best_epoch=9)),
        noted(lambda state: state.update(epoch=-3)),
        noted(lambda state: state.update(epoch="one")),
        noted(lambda state: state.update(train=7)),
        without("best."),
        without("adam."),
        lambda _, tensors: tensors.update({"adam.0.exp_avg": torch.ones(3)}),
        lambda _, tensors: tensors.update({"adam.first.exp_avg": torch.ones(3)}),
        lambda _, tensors: tensors.update({"best.network.0.bias": torch.full((8,), torch.nan)}),
    ],
)
def test_a_broken_checkpoint_is_refused(tmp_path: Path, edit: Callable[[Header, Tensors], object]) -> None:
    path = tmp_path / "kept.safetensors"
    trained(path)
    with safe_open(path, framework="pt", device="cpu") as file:
        header, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    edit(header, tensors)
    save_file(tensors, path, header)
    with pytest.raises(InputError, match=r"same training|whole checkpoint"):
        trained(path)


def test_what_does_not_fit_is_refused_before_the_training() -> None:
    given, grey = digits(), torch.zeros(80, 3, 8, 8)
    with pytest.raises(InputError, match="blueprint's shape"):
        trained(network=build_network("mlp:9:sigmoid", input_shape=SHAPE, classes=10, seed=0))
    with pytest.raises(InputError, match=r"blueprint's shape \[1, 8, 8\]; found \[3, 8, 8\]"):
        trained(given=PrivateBatch(inputs=grey, labels=given.labels))
    with pytest.raises(InputError, match="from 0 to 9"):
        trained(given=PrivateBatch(inputs=given.inputs, labels=given.labels + 5))
    blueprint = draw_blueprint(net(), kind=InverterKind.LTI, input_shape=SHAPE, width=8, buckets=16)
    with pytest.raises(InputError, match="`public inputs` should hold finite numbers"):
        train_inverter(net(), blueprint, given.inputs * torch.nan, given.labels, training=Training(epochs=1))
    broken = net()
    with torch.no_grad():
        next(broken.parameters())[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"`1.weight` should hold finite numbers"):
        trained(network=broken)


def test_a_training_that_overflows_is_refused() -> None:
    huge = net()
    with torch.no_grad():
        for value in huge.parameters():
            value.mul_(1e38)
    with pytest.raises(InputError, match="finite"):
        trained(network=huge)


def test_the_command_refuses_a_checkpoint_where_the_result_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "git.safetensors")
    for path in (out, str(tmp_path), str(tmp_path / "none" / "kept.safetensors")):
        with pytest.raises(SystemExit) as stopped:
            main(["train", "git", "--data", "digits", "--network", "mlp:8", "--out", out, "--checkpoint", path])
        assert stopped.value.code == 2
        assert "--checkpoint" in capsys.readouterr().err
