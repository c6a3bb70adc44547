"""A captured update on the command line: attacked without the truth, scored with it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from seepage.audit.reconstructions import write_reconstruction
from seepage.cli import main
from seepage.data.sources import load_dataset
from seepage.federated.rules import FedSGD
from seepage.federated.storage import Capture, CaptureHeader, Sign, UpdateKind, write_capture
from seepage.federated.truth import write_truth
from seepage.networks.weights import save_weights
from seepage.networks.zoo import build_network
from seepage.types import Attack, GradientUpdate, Outcome, PrivateBatch, Reconstruction

SPEC = "mlp:100"


def seepage(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def client(b: int = 4) -> tuple[nn.Module, PrivateBatch]:
    dataset = load_dataset("digits", normalize="none")
    network = build_network(SPEC, input_shape=dataset.input_shape, classes=dataset.classes, seed=3)
    return network, PrivateBatch(inputs=dataset.inputs[:b].clone(), labels=dataset.labels[:b].clone())


def bundle(path: Path, b: int = 4, *, with_state: bool = True, noise: float = 0.0, **fields: object) -> PrivateBatch:
    network, batch = client(b)
    update = FedSGD()(network, batch, torch.Generator())
    if noise:
        chance = torch.Generator().manual_seed(0)
        update = GradientUpdate({k: v + noise * torch.randn(v.shape, generator=chance) for k, v in update.items()})
    header = CaptureHeader.model_validate(
        {
            "kind": UpdateKind.GRADIENT,
            "sign": Sign.UPHILL,
            "rule": "fedsgd",
            "input_shape": (1, 8, 8),
            "classes": 10,
            **fields,
        }
    )
    write_capture(path, Capture(header=header, update=update, before=network.state_dict() if with_state else None))
    return batch


def attack(tmp_path: Path, *arguments: str, network: str = SPEC) -> int:
    return seepage("attack", "--network", network, "--out", str(tmp_path / "out"), *arguments)


def test_two_commands_from_a_bundle_to_an_exact_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = bundle(tmp_path / "b")
    assert attack(tmp_path, "--update", str(tmp_path / "b")) == 1
    finding = json.loads((tmp_path / "out" / "finding.json").read_text())
    assert finding["outcome"] == "exact"
    assert finding["certified"] == [True] * 4
    assert finding["scores"] == {}
    with Image.open(tmp_path / "out" / "reconstruction.png") as sheet:
        assert sheet.size == (24, 24)
    write_truth(tmp_path / "t", batch)
    capsys.readouterr()
    written = tmp_path / "out" / "reconstruction.safetensors"
    assert seepage("score", str(written), "--truth", str(tmp_path / "t"), "--json", str(tmp_path / "s")) == 1
    assert "4 of 4 examples exact, 4 certified" in capsys.readouterr().out
    assert json.loads((tmp_path / "s").read_text())["scores"]["exact"] == [True] * 4
    assert seepage("score", str(written), "--truth", str(tmp_path / "t"), "--threshold", "1") == 0


def test_a_near_reconstruction_of_a_picture_is_a_leak_when_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, batch = client()
    near = batch.inputs + 0.03 * torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(0))
    unsure = torch.zeros(4, dtype=torch.bool)
    found = Reconstruction(outcome=Outcome.APPROXIMATE, inputs=near, certified=unsure, reason="Near.")
    write_reconstruction(tmp_path / "r", found)
    write_truth(tmp_path / "t", batch)
    assert seepage("score", str(tmp_path / "r"), "--truth", str(tmp_path / "t")) == 1
    assert "0 of 4 examples exact, 4 recognisable, 0 certified" in capsys.readouterr().out


def test_score_tells_pictures_from_others_where_it_is_given_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digits at half their contrast are below 20 dB and can be read by anyone."""
    _, batch = client()
    faint = Reconstruction(
        outcome=Outcome.APPROXIMATE, inputs=0.4 * batch.inputs + 0.3, certified=torch.zeros(4, dtype=torch.bool)
    )
    write_reconstruction(tmp_path / "r", faint)
    write_truth(tmp_path / "t", batch)
    files = (str(tmp_path / "r"), "--truth", str(tmp_path / "t"))
    assert seepage("score", *files) == 0
    assert "with --data" in capsys.readouterr().out
    assert seepage("score", *files, "--data", "digits") == 1
    assert "4 recognisable" in capsys.readouterr().out
    assert seepage("score", *files, "--data", "photos") == 2
    assert "should hold inputs of shape [1, 8, 8]" in capsys.readouterr().err


def test_the_batch_size_can_be_granted_and_has_to_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(tmp_path / "b", 8)
    labels = ("--update", str(tmp_path / "b"), "--attack", "pooled")
    assert attack(tmp_path, *labels) == 3
    assert "batch-size" in capsys.readouterr().out
    assert attack(tmp_path, *labels, "--batch-size", "8") == 3  # labels, which only the truth can judge
    assert len(json.loads((tmp_path / "out" / "finding.json").read_text())["labels"]) == 8
    bundle(tmp_path / "b", 8, batch_size=8)
    assert attack(tmp_path, *labels, "--batch-size", "7") == 2
    assert "which says 8; found 7" in capsys.readouterr().err


def test_an_update_of_zeros_was_not_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, _ = client()
    save_weights(network, tmp_path / "before")
    both = ("--before", str(tmp_path / "before"), "--after", str(tmp_path / "before"))
    assert attack(tmp_path, *both, "--lr", "0.1", "--input-shape", "1x8x8", "--classes", "10") == 3
    assert "the same weights saved twice" in capsys.readouterr().out


def test_another_truth_is_not_matched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(tmp_path / "b")
    attack(tmp_path, "--update", str(tmp_path / "b"))
    other = load_dataset("digits", normalize="none")
    write_truth(tmp_path / "t", PrivateBatch(inputs=other.inputs[50:54].clone(), labels=other.labels[50:54].clone()))
    assert seepage("score", str(tmp_path / "out" / "reconstruction.safetensors"), "--truth", str(tmp_path / "t")) == 4
    assert "right file" in capsys.readouterr().out


def test_a_pair_of_weight_files_is_enough(tmp_path: Path) -> None:
    network, batch = client()
    update = FedSGD()(network, batch, torch.Generator())
    save_weights(network, tmp_path / "before")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.sub_(update[name])
    save_weights(network, tmp_path / "after")
    files = ("--before", str(tmp_path / "before"), "--after", str(tmp_path / "after"))
    shape = ("--input-shape", "1x8x8", "--classes", "10")
    assert attack(tmp_path, *files, "--lr", "1.0", "--local-steps", "1", *shape) == 1
    assert json.loads((tmp_path / "out" / "finding.json").read_text())["outcome"] == "exact"
    # Of two steps there is no gradient to replay: what is certified rests on the zeros alone, and the finding says so.
    attack(tmp_path, *files, "--lr", "0.5", "--local-steps", "2", *shape)
    assert "plain gradient" in json.loads((tmp_path / "out" / "finding.json").read_text())["stats"]["replay"]
    finding = json.loads((tmp_path / "out" / "finding.json").read_text())
    assert finding["stats"]["claim"] == "fedavg:epochs=2,lr=0.5"
    assert attack(tmp_path, *files, *shape) == 2
    # The rule alone says all that --lr and --local-steps say.
    assert attack(tmp_path, *files, "--rule", "fedavg:lr=1", *shape) == 1
    assert json.loads((tmp_path / "out" / "finding.json").read_text())["rule"] == "fedavg:lr=1.0"


def test_a_stated_rule_that_the_bundle_contradicts_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(tmp_path / "b")
    assert attack(tmp_path, "--update", str(tmp_path / "b"), "--rule", "dpsgd:noise=0") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "whose rule is 'fedsgd'; found dpsgd:noise=0" in said
    assert attack(tmp_path, "--update", str(tmp_path / "b"), "--rule", "fedsgd") == 1
    assert attack(tmp_path, "--update", str(tmp_path / "b"), "--rule", "fedsgt") == 2
    assert "fedavg" in capsys.readouterr().err


def test_a_lie_about_the_rule_forges_no_certificate(tmp_path: Path) -> None:
    network, batch = client()
    update = FedSGD()(network, batch, torch.Generator())
    header = CaptureHeader(kind=UpdateKind.GRADIENT, sign=Sign.UPHILL, rule="fedsgd")
    generator = torch.Generator().manual_seed(0)
    noised = {name: g + 0.1 * g.std() * torch.randn(g.shape, generator=generator) for name, g in update.items()}
    write_capture(tmp_path / "b", Capture(header=header, update=noised, before=network.state_dict()))
    shape = ("--input-shape", "1x8x8", "--classes", "10")
    assert attack(tmp_path, "--update", str(tmp_path / "b"), "--budget", "20000", *shape) in (0, 3)
    assert not any(json.loads((tmp_path / "out" / "finding.json").read_text())["certified"])


def test_an_obstacle_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = build_network("mlp:50:gelu", input_shape=(1, 8, 8), classes=10, seed=0)
    update = FedSGD()(network, client()[1], torch.Generator())
    header = CaptureHeader(kind=UpdateKind.GRADIENT, sign=Sign.UPHILL, input_shape=(1, 8, 8), classes=10)
    write_capture(tmp_path / "b", Capture(header=header, update=update, before=network.state_dict()))
    assert attack(tmp_path, "--update", str(tmp_path / "b"), "--attack", "spear", network="mlp:50:gelu") == 3
    assert "could not be attacked" in capsys.readouterr().out


def test_silence_exits_with_0_beside_a_passed_control_and_with_4_beside_a_failed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, plant: Callable[..., Attack]
) -> None:
    bundle(tmp_path / "b", 60, noise=1.0)
    given = ("--update", str(tmp_path / "b"), "--attack", "spear", "--budget", "3000")
    assert attack(tmp_path, *given) == 0
    assert "random input: passed" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "finding.json").read_text())["control"]["passed"]
    monkeypatch.setattr("seepage.cli.captured.build_attack", lambda *_, **__: plant())
    assert attack(tmp_path, *given) == 4
    assert "inconclusive" in capsys.readouterr().out
    assert not (tmp_path / "out" / "reconstruction.safetensors").exists()
    monkeypatch.setattr("seepage.cli.captured.build_attack", lambda *_, **__: plant(labels=(1, 2)))
    assert attack(tmp_path, *given) == 3


def test_an_example_that_is_a_row_of_the_update_is_handed_out_and_is_no_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = bundle(tmp_path / "b", 60)
    assert attack(tmp_path, "--update", str(tmp_path / "b"), "--attack", "spear", "--budget", "3000") == 3
    assert "1 row of the update is an input" in " ".join(capsys.readouterr().out.split())
    found = load_file(tmp_path / "out" / "reconstruction.safetensors")["inputs"]
    assert float((found - batch.inputs).flatten(1).norm(dim=1).min()) < 1e-4


def test_weights_come_from_the_bundle_or_a_file_and_not_from_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(tmp_path / "b", with_state=False)
    assert attack(tmp_path, "--update", str(tmp_path / "b")) == 2
    assert "--weights" in capsys.readouterr().err
    save_weights(client()[0], tmp_path / "w")
    assert attack(tmp_path, "--update", str(tmp_path / "b"), "--weights", str(tmp_path / "w")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--network", "mlp:99"), "before/1.bias"),
        (("--network", "mlp:100,50"), "another network"),
        (("--normalize", "channel"), "--normalize"),
        (("--lr", "0.1"), "--lr"),
        (("--attack", "magic"), "--attack"),
    ],
)
def test_what_does_not_fit_is_named(
    arguments: tuple[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(tmp_path / "b")
    assert attack(tmp_path, "--update", str(tmp_path / "b"), *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda whole: whole[: len(whole) // 2], "cut short"),
        (lambda _: b"hello", "should be a safetensors file; found 5 bytes"),
        (lambda _: b"", "should be a safetensors file; found 0 bytes"),
        (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "damaged"),
    ],
)
def test_a_file_that_is_no_bundle_is_named(
    spoil: Callable[[bytes], bytes], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(tmp_path / "b")
    (tmp_path / "b").write_bytes(spoil((tmp_path / "b").read_bytes()))
    assert attack(tmp_path, "--update", str(tmp_path / "b")) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_a_folder_that_cannot_be_written_is_told_before_the_attack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(tmp_path / "b")
    (tmp_path / "out").write_text("in the way")
    monkeypatch.setattr("seepage.cli.captured.CapturedAudit.__call__", lambda *_, **__: pytest.fail("it ran"))
    assert attack(tmp_path, "--update", str(tmp_path / "b")) == 2
    assert "--out" in capsys.readouterr().err


def test_weights_and_truth_are_no_bundles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(client()[0], tmp_path / "w")
    write_truth(tmp_path / "t", client()[1])
    for name, words in (("w", "without its form"), ("t", "found a 'seepage-truth' file")):
        assert attack(tmp_path, "--update", str(tmp_path / name)) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_the_attack_opens_no_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(tmp_path / "b")

    def forbidden(*_: object) -> None:
        raise AssertionError("the truth was opened")

    monkeypatch.setattr("seepage.cli.score.read_truth", forbidden)
    monkeypatch.setattr("seepage.federated.truth.read_truth", forbidden)
    assert attack(tmp_path, "--update", str(tmp_path / "b")) == 1


def test_the_attack_says_what_it_wrote_and_leaves_a_log_without_empty_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(tmp_path / "b")
    assert attack(tmp_path, "--update", str(tmp_path / "b")) == 1
    said = capsys.readouterr()
    files = "finding.json, reconstruction.safetensors, reconstruction.png"
    assert said.out.endswith(f"in {tmp_path / 'out'}: {files}\n")
    assert said.err == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [((), "found none of them."), (("--before", "a"), "found --before a."), (("--lr", "0.1"), "found --lr 0.1.")],
)
def test_what_is_lacking_of_two_weight_files_is_said_by_options(
    given: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attack(tmp_path, *given, "--input-shape", "1x8x8", "--classes", "10") == 2
    assert words in capsys.readouterr().err
