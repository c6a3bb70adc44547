"""Images arrive as the files hold them, and a bad file is refused in one sentence that names it."""

import csv
import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seepage.data import InputKind, load_dataset
from seepage.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def save_npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "set.npz"
    np.savez_compressed(path, **{"images": IMAGES, "labels": LABELS} | arrays)
    return path


def save_idx(folder: Path, images: bytes, labels: bytes, suffix: str = ".gz") -> Path:
    for name, content in (("t-images-idx3-ubyte", images), ("t-labels-idx1-ubyte", labels)):
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return folder / f"t-images-idx3-ubyte{suffix}"


def idx_images(count: int = 3) -> bytes:
    return struct.pack(">4I", 0x803, count, 2, 2) + bytes(range(4 * count))


def idx_labels(*labels: int) -> bytes:
    return struct.pack(">2I", 0x801, len(labels)) + bytes(labels)


def test_npz_gives_images_channel_first_in_unit_range(tmp_path: Path) -> None:
    dataset = load_dataset(str(save_npz(tmp_path, class_names=np.array(["a", "b", "c"]))))
    assert dataset.kind is InputKind.IMAGE
    assert dataset.input_shape == (3, 5, 4)
    assert dataset.class_names == ("a", "b", "c")
    assert torch.equal(dataset.inputs.mul(255).round().byte(), torch.from_numpy(IMAGES).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "images", [IMAGES[..., 0], IMAGES[..., :1], IMAGES[..., 0] / 255, IMAGES[..., 0] / np.float32(255)]
)
def test_npz_of_grey_or_floats_is_read(tmp_path: Path, images: np.ndarray) -> None:
    dataset = load_dataset(str(save_npz(tmp_path, images=images)))
    assert dataset.input_shape == (1, 5, 4)
    torch.testing.assert_close(dataset.inputs[:, 0], torch.from_numpy(IMAGES[..., 0]).float() / 255)


def test_npz_class_names_for_each_image_are_told_from_names_of_classes(tmp_path: Path) -> None:
    names = np.array(["one", "three", "five", "one", "three", "nine"])
    dataset = load_dataset(str(save_npz(tmp_path, labels=np.array([1, 3, 5, 1, 3, 9]), class_names=names)))
    assert dataset.class_names == ("0", "one", "2", "three", "4", "five", "6", "7", "8", "nine")


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"labels": LABELS[:5]}, r"each of 6 images; found shape \[5\]"),
        ({"labels": LABELS.astype(float)}, "integers; found float64"),
        ({"labels": LABELS - 1}, "found -1 at row 0"),
        ({"labels": LABELS.astype(np.uint64) + np.uint64(2**63)}, "found 9223372036854775808 at row 0"),
        ({"class_names": np.array(["a", "b"])}, "0 to 1; found 2 at row 2"),
        ({"class_names": np.array([1, 2, 3])}, "list of texts"),
        ({"images": IMAGES.astype(object)}, "pickled objects, which are never loaded"),
        ({"images": IMAGES.astype(np.int64)}, "uint8 or floats in .* found int64"),
        ({"images": IMAGES[..., 0] / 255 + np.where(np.arange(6) == 4, np.nan, 0)[:, None, None]}, "in image 4"),
        ({"images": IMAGES[..., 0] * 1.0}, "floats should lie in"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"found \[6, 3, 5, 4\]"),
        ({"images": IMAGES[:0]}, "at least one image"),
    ],
)
def test_bad_arrays_are_refused_by_name(tmp_path: Path, arrays: dict[str, Any], found: str) -> None:
    path = save_npz(tmp_path, **arrays)
    with pytest.raises(InputError, match=found) as caught:
        load_dataset(str(path))
    assert str(path) in str(caught.value)


def test_every_truncation_of_an_npz_is_refused(tmp_path: Path) -> None:
    whole = save_npz(tmp_path).read_bytes()
    for kept in range(0, len(whole), 7):
        (tmp_path / "cut.npz").write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"cut\.npz: expected a complete \.npz"):
            load_dataset(str(tmp_path / "cut.npz"))


def test_every_damaged_byte_of_an_npz_gives_images_or_a_sentence(tmp_path: Path) -> None:
    whole = bytearray(save_npz(tmp_path).read_bytes())
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        (tmp_path / "bad.npz").write_bytes(damaged)
        try:
            load_dataset(str(tmp_path / "bad.npz"))
        except InputError as error:
            assert "bad.npz" in str(error)  # noqa: PT017 - no error at all is fine too: some bytes mean nothing


def test_an_npz_whose_header_announces_more_than_it_holds_is_refused_unread(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 32, 32, 3)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + b"0" * 10)
        archive.writestr("labels.npy", b"")
    with pytest.raises(InputError, match="by its header; found"):
        load_dataset(str(tmp_path / "bomb.npz"))


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_is_read_with_the_labels_beside_it(tmp_path: Path, suffix: str) -> None:
    dataset = load_dataset(str(save_idx(tmp_path, idx_images(), idx_labels(1, 0, 4), suffix)))
    assert dataset.input_shape == (1, 2, 2)
    assert dataset.labels.tolist() == [1, 0, 4]
    assert dataset.classes == 5
    assert dataset.inputs.mul(255).round().flatten().tolist() == list(range(12))


@pytest.mark.parametrize(
    ("images", "labels", "found"),
    [
        (idx_images()[:-1], idx_labels(1, 0, 4), "expected 12 bytes .* found only 11"),
        (idx_images() + b"0", idx_labels(1, 0, 4), "expected 12 bytes .* found more"),
        (struct.pack(">4I", 0x803, 2**31, 2**31, 9), idx_labels(1, 0, 4), "expected at most"),
        (idx_labels(1, 0, 4), idx_labels(1, 0, 4), "header of bytes with 3 dimensions"),
        (idx_images(), idx_labels(1, 0), "one label for each of 3 images"),
        (idx_images(), b"", "header of bytes with 1 dimension"),
    ],
)
def test_bad_idx_is_refused(tmp_path: Path, images: bytes, labels: bytes, found: str) -> None:
    with pytest.raises(InputError, match=found):
        load_dataset(str(save_idx(tmp_path, images, labels)))


def test_truncated_gzip_names_expected_and_found_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 40000, dtype=np.uint8).tobytes()
    path = save_idx(tmp_path, struct.pack(">4I", 0x803, 100, 20, 20) + noise, idx_labels(*[1] * 100))
    path.write_bytes(path.read_bytes()[:30000])
    with pytest.raises(InputError, match=r"expected 40000 bytes .* found only 2\d{4}"):
        load_dataset(str(path))


def test_idx_labels_missing_or_given_in_place_of_images(tmp_path: Path) -> None:
    path = save_idx(tmp_path, idx_images(), idx_labels(1, 0, 4))
    labels = tmp_path / "t-labels-idx1-ubyte.gz"
    with pytest.raises(InputError, match="expected the file of images"):
        load_dataset(str(labels))
    labels.unlink()
    with pytest.raises(InputError, match="expected the labels beside it"):
        load_dataset(str(path))


def save_images(folder: Path, names: list[str], make: Callable[[int], Image.Image] | None = None) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture = make(index) if make else Image.fromarray(IMAGES[index])
        picture.save(folder / name)


def test_subfolders_are_classes(tmp_path: Path) -> None:
    save_images(tmp_path, ["b/1.png", "a/1.png", "a/2.png"])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    dataset = load_dataset(str(tmp_path))
    assert dataset.class_names == ("a", "b")
    assert dataset.labels.tolist() == [0, 0, 1]
    expected = torch.from_numpy(IMAGES[[1, 2, 0]]).permute(0, 3, 1, 2)
    assert torch.equal(dataset.inputs.mul(255).round().byte(), expected)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (("class_index", ["2", "0"]), ([2, 0], ("0", "1", "2"))),
        (("label", ["2", "0"]), ([2, 0], ("0", "1", "2"))),
        (("label", ["dog", "cat"]), ([1, 0], ("cat", "dog"))),
    ],
)
def test_labels_csv_tells_the_labels(
    tmp_path: Path, beside: bool, table: tuple[str, list[str]], expected: tuple[list[int], tuple[str, ...]]
) -> None:
    column, cells = table
    folder = tmp_path / "photos"
    save_images(folder, ["x.png", "y.png", "unlisted.png"])
    with ((tmp_path if beside else folder) / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", column], ["y.png", cells[0]], ["x.png", cells[1]]])
    dataset = load_dataset(str(folder))
    assert (dataset.labels.tolist(), dataset.class_names) == expected
    assert torch.equal(dataset.inputs.mul(255).round().byte(), torch.from_numpy(IMAGES[[1, 0]]).permute(0, 3, 1, 2))


def test_labels_csv_cannot_point_out_of_the_folder(tmp_path: Path) -> None:
    save_images(tmp_path, ["secret.png", "photos/x.png"])
    (tmp_path / "photos" / "labels.csv").write_text("file,label\n../secret.png,1\n")
    with pytest.raises(InputError, match="to lie in"):
        load_dataset(str(tmp_path / "photos"))


def test_flat_folder_without_labels_says_what_is_expected(tmp_path: Path) -> None:
    save_images(tmp_path, ["x.png", "y.png"])
    with pytest.raises(InputError, match=r"sub-folder of images for each class, or labels\.csv .* found 2 images"):
        load_dataset(str(tmp_path))


def test_broken_image_is_named(tmp_path: Path) -> None:
    save_images(tmp_path, ["a/1.png", "a/2.png"])
    content = (tmp_path / "a/2.png").read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2]):
        (tmp_path / "a/2.png").write_bytes(broken)
        with pytest.raises(InputError, match=r"2\.png: expected an image; found"):
            load_dataset(str(tmp_path))


def test_different_sizes_need_size(tmp_path: Path) -> None:
    save_images(tmp_path, ["a/1.png", "a/2.png"], lambda k: Image.new("RGB", (9 + k, 7), (10, 20, 30)))
    with pytest.raises(InputError, match=r"2\.png: expected the size of the first image, \[7, 9\]; found \[7, 10\]"):
        load_dataset(str(tmp_path))
    dataset = load_dataset(str(tmp_path), size=4)
    assert dataset.input_shape == (3, 4, 4)
    assert dataset.inputs.mul(255).round().amax((0, 2, 3)).tolist() == [10, 20, 30]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)])
def test_modes_of_eight_bits_are_read(tmp_path: Path, mode: str, channels: int) -> None:
    save_images(tmp_path, ["a/1.tif"], lambda _: Image.new("RGB", (4, 4), (200, 200, 200)).convert(mode))
    assert load_dataset(str(tmp_path)).input_shape == (channels, 4, 4)


def test_sixteen_bits_are_refused_and_not_clipped(tmp_path: Path) -> None:
    save_images(tmp_path, ["a/1.png"], lambda _: Image.fromarray(np.full((4, 4), 40000, np.uint16)))
    with pytest.raises(InputError, match="8 bits a channel; found mode I;16"):
        load_dataset(str(tmp_path))


def test_grey_beside_colour_becomes_colour(tmp_path: Path) -> None:
    save_images(tmp_path, ["a/1.png", "a/2.png"], lambda k: Image.new(("L", "RGB")[k], (4, 4)))
    assert load_dataset(str(tmp_path)).input_shape == (3, 4, 4)


def test_empty_folder_and_missing_or_unsupported_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 0 images"):
        load_dataset(str(tmp_path))
    with pytest.raises(InputError, match=r"gone\.npz: expected a file"):
        load_dataset(str(tmp_path / "gone.npz"))
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(InputError, match=r"expected \.npz.*found `\.pkl`"):
        load_dataset(str(tmp_path / "model.pkl"))


def test_size_applies_to_arrays_too(tmp_path: Path) -> None:
    assert load_dataset(str(save_npz(tmp_path)), size=8).input_shape == (3, 8, 8)
    for size in (0, -1, 10**6):
        with pytest.raises(InputError, match="`size` should lie in"):
            load_dataset(str(save_npz(tmp_path)), size=size)


def test_real_files_agree_with_their_readme(shared_data: Path) -> None:
    cifar = load_dataset(str(shared_data / "cifar10/cifar10_test.npz"))
    assert cifar.sha256 == "f474d8c9945fd3979ef360ceca5e03113e10fc4fce820fb0b10a0feeaec77a89"
    assert cifar.labels.bincount().tolist() == [1000] * 10
    mnist = load_dataset(str(shared_data / "mnist/t10k-images-idx3-ubyte.gz"))
    raw = gzip.decompress((shared_data / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert mnist.inputs.mul(255).round().byte().numpy().tobytes() == raw
    faces = load_dataset(str(shared_data / "lfw/images"), size=32)
    assert (len(faces), faces.input_shape, faces.classes) == (400, (3, 32, 32), 50)
    few = load_dataset(str(shared_data / "imagenet64/imagenet64_500.npz"))
    assert (few.classes, few.class_names[1]) == (1000, "goldfish")
