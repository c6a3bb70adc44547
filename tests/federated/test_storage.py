"""Bundles: back bit for bit, or refused with a sentence; whatever an enemy wrote."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seepage.errors import InputError
from seepage.federated.sealed import read_sealed, write_sealed
from seepage.federated.storage import (
    Capture,
    CaptureHeader,
    Sign,
    UpdateKind,
    client_digest,
    read_capture,
    write_capture,
)
from seepage.federated.truth import read_truth, write_truth
from seepage.types import PrivateBatch


def state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"0.weight": torch.randn(3, 4, generator=generator), "0.bias": torch.randn(3, generator=generator)}


def gradient(**fields: object) -> Capture:
    header = CaptureHeader.model_validate(
        {"kind": UpdateKind.GRADIENT, "sign": Sign.UPHILL, "rule": "fedsgd", "local_steps": 1, "round": 2, **fields}
    )
    return Capture(header=header, update=state(1), before=state(0), buffers={"n": torch.tensor(7)})


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_capture(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def forge(path: Path, header: dict[str, object], data: bytes = b"") -> Path:
    """A file whose header says whatever we like."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_bundle_comes_back_bit_for_bit(tmp_path: Path) -> None:
    written = gradient(client=client_digest("hospital 3", salt="s"), batch_size=4, versions={"torch": "2"})
    write_capture(tmp_path / "b", written)
    found = read_capture(tmp_path / "b")
    assert found.header == written.header
    for group in ("update", "before", "buffers"):
        before, after = getattr(written, group), getattr(found, group)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("kind", [UpdateKind.PAIR, UpdateKind.DELTA])
@pytest.mark.parametrize("sign", [Sign.AFTER_MINUS_BEFORE, Sign.BEFORE_MINUS_AFTER])
def test_a_difference_gives_the_gradient_with_its_sign(kind: UpdateKind, sign: Sign) -> None:
    before, truth = {k: v.double() for k, v in state(0).items()}, {k: v.double() for k, v in state(1).items()}
    after = {name: before[name] - 0.1 * truth[name] for name in before}
    header = CaptureHeader(kind=kind, sign=sign, learning_rate=0.05, local_steps=2)
    turn = 1 if sign is Sign.AFTER_MINUS_BEFORE else -1
    if kind is UpdateKind.PAIR:
        if sign is Sign.BEFORE_MINUS_AFTER:
            with pytest.raises(InputError, match="sign"):
                Capture(header=header, before=before, after=after)
            return
        found = Capture(header=header, before=before, after=after)
    else:
        found = Capture(header=header, update={name: turn * (after[name] - before[name]) for name in before})
    for name, tensor in found.gradient().items():
        torch.testing.assert_close(tensor, truth[name])


def test_a_difference_without_a_learning_rate_is_no_gradient() -> None:
    header = CaptureHeader(kind=UpdateKind.PAIR, sign=Sign.AFTER_MINUS_BEFORE, local_steps=1)
    with pytest.raises(InputError, match="learning_rate"):
        Capture(header=header, before=state(0), after=state(1)).gradient()


def test_shapes_have_to_agree_and_are_named() -> None:
    header = CaptureHeader(kind=UpdateKind.PAIR, sign=Sign.AFTER_MINUS_BEFORE)
    with pytest.raises(InputError, match=r"after/0\.bias"):
        Capture(header=header, before=state(), after={**state(), "0.bias": torch.ones(4)})
    with pytest.raises(InputError, match=r"0\.bias"):
        Capture(header=header, before=state(), after={"0.weight": torch.ones(3, 4)})


def test_nothing_that_is_not_finite_is_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finite"):
        write_sealed(tmp_path / "b", form="x", header="{}", tensors={"a": torch.tensor([torch.nan])})
    assert not (tmp_path / "b").exists()
    table = {
        "__metadata__": {"form": "seepage-capture", "header": "{}", "seal": ""},
        "update/a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    assert "finite" in refusal(forge(tmp_path / "nan", table, struct.pack("<f", float("inf"))))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"kind": "gradient", "sign": "uphill", "learning_rate": -1.0}, "learning_rate"),
        ({"kind": "gradient", "sign": "uphill", "round": "2"}, "round"),
        ({"kind": "gradient", "sign": "uphill", "schema_version": 2}, "schema_version"),
        ({"kind": "gradient", "sign": "after-minus-before"}, "sign"),
        ({"kind": "gradient", "sign": "uphill", "client": "Dr. Smith"}, "client"),
        ({"kind": "gradient", "sign": "uphill", "input_shape": [0]}, "input_shape"),
        ({"kind": "gradient", "sign": "uphill", "more": 1}, "more"),
        ({"kind": "pair", "sign": "after-minus-before"}, "pair"),
        ([], "header"),
    ],
)
def test_a_sealed_but_wrong_header_is_refused_by_field(header: object, words: str, tmp_path: Path) -> None:
    tensors = {"update/0.bias": torch.ones(3)}
    write_sealed(tmp_path / "b", form="seepage-capture", header=json.dumps(header), tensors=tensors)
    assert words in refusal(tmp_path / "b")


def test_a_name_twice_is_refused_in_both_headers(tmp_path: Path) -> None:
    text = '{"kind":"gradient","sign":"uphill","round":1,"round":2}'
    write_sealed(tmp_path / "b", form="seepage-capture", header=text, tensors={"update/a": torch.ones(1)})
    assert "twice" in refusal(tmp_path / "b")
    outer = b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    (tmp_path / "c").write_bytes(struct.pack("<Q", len(outer)) + outer)
    assert "twice" in refusal(tmp_path / "c")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1]},
        7,
    ],
)
def test_an_impossible_tensor_is_refused_by_name(entry: object, tmp_path: Path) -> None:
    metadata = {"form": "seepage-capture", "header": "{}", "seal": ""}
    path = forge(tmp_path / "b", {"__metadata__": metadata, "update/a": entry}, b"\0" * 4)
    assert "update/a" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"\xff" * 64,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        struct.pack("<Q", 9000) + b"9" * 9000,
        b"\x80\x04\x95" + b"x" * 50,
    ],
)
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content)
    refusal(tmp_path / "b")


def test_a_missing_file_a_folder_and_a_file_too_large_are_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "none")
    refusal(tmp_path)
    write_capture(tmp_path / "b", gradient())
    with pytest.raises(InputError, match="at most 100 bytes"):
        read_sealed(tmp_path / "b", form="seepage-capture", most_bytes=100)


def test_every_single_damaged_byte_is_noticed(tmp_path: Path) -> None:
    """A few hundred places, all over the file: refused, or read as the same content (spaces in the header)."""
    write_capture(tmp_path / "b", gradient())
    whole = (tmp_path / "b").read_bytes()
    for place in range(0, len(whole), max(len(whole) // 400, 1)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (int(hashlib.sha256(bytes([place % 256])).hexdigest(), 16) % 8)
        (tmp_path / "m").write_bytes(damaged)
        try:
            found = read_capture(tmp_path / "m")
        except InputError as error:
            assert str(tmp_path / "m") in str(error)  # noqa: PT017 - both ends are allowed
        else:
            assert found.header == gradient().header
            assert all(torch.equal(found.update[name], tensor) for name, tensor in state(1).items())


def test_a_truth_is_no_bundle_and_a_bundle_no_truth(tmp_path: Path) -> None:
    batch = PrivateBatch(inputs=torch.rand(2, 1, 3, 3), labels=torch.tensor([0, 1]))
    write_truth(tmp_path / "t", batch, normalize="0.5:0.2")
    found, how = read_truth(tmp_path / "t")
    assert torch.equal(found.inputs, batch.inputs)
    assert torch.equal(found.labels, batch.labels)
    assert how == "0.5:0.2"
    assert "seepage-capture" in refusal(tmp_path / "t")
    write_capture(tmp_path / "b", gradient())
    with pytest.raises(InputError, match="seepage-truth"):
        read_truth(tmp_path / "b")


def test_a_client_is_not_named() -> None:
    assert client_digest("a", salt="1") != client_digest("a", salt="2")
    assert len(client_digest("a")) == 16


@pytest.mark.parametrize("name", ["blocks.stage one.fc/α", "层.0"])
def test_names_as_people_give_them_come_back(name: str, tmp_path: Path) -> None:
    header = CaptureHeader(kind=UpdateKind.GRADIENT, sign=Sign.UPHILL)
    write_capture(tmp_path / "b", Capture(header=header, update={name: torch.ones(2)}))
    assert set(read_capture(tmp_path / "b").update) == {name}


@pytest.mark.parametrize("name", ["a\nb", "a\u202eb", "x" * 600])
def test_a_name_that_would_not_be_read_back_is_not_written(name: str, tmp_path: Path) -> None:
    header = CaptureHeader(kind=UpdateKind.GRADIENT, sign=Sign.UPHILL)
    with pytest.raises(InputError, match="printable characters"):
        write_capture(tmp_path / "b", Capture(header=header, update={name: torch.ones(2)}))
    assert not list(tmp_path.iterdir())
