"""A data set is drawn from, normalised and checked the same way, wherever it came from."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seepage.data import Dataset, draw_batch, load_dataset
from seepage.data.normalization import make_normalization
from seepage.errors import InputError


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return load_dataset("photos")


def test_digits_are_bundled() -> None:
    digits = load_dataset("digits")
    assert (digits.inputs.shape, digits.classes) == ((1797, 1, 8, 8), 10)
    assert len(digits.inputs.unique()) == 17
    torch.testing.assert_close(digits.inputs.mul(255), digits.inputs.mul(255).round())  # a shade is 8 bits
    assert (float(digits.inputs.min()), float(digits.inputs.max())) == (0, 1)


def test_photos_are_crops_labelled_by_photograph(photos: Dataset) -> None:
    from sklearn.datasets import load_sample_image

    assert photos.inputs.shape == (120, 3, 64, 64)
    assert photos.class_names == ("china", "flower")
    assert photos.labels.bincount().tolist() == [60, 60]
    crop = torch.from_numpy(load_sample_image("flower.jpg")[64:128, 128:192].copy()).permute(2, 0, 1)
    assert torch.equal(photos.inputs[60 + 10 + 2].mul(255).round().byte(), crop)


def test_channel_normalization_gives_zero_mean_and_unit_deviation(photos: Dataset) -> None:
    seen = photos.normalization.apply(photos.inputs)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert torch.equal(photos.normalization.invert(seen).mul(255).round(), photos.inputs.mul(255).round())
    low, high = photos.normalization.bounds()
    assert low.shape == (3, 1, 1)
    assert bool((seen >= low).all() and (seen <= high).all())


def test_a_constant_channel_has_deviation_one() -> None:
    inputs = torch.rand(9, 2, 3, 3)
    inputs[:, 1] = 0.3
    normalization = make_normalization("channel", inputs)
    assert float(normalization.std[1]) == 1.0
    assert normalization.apply(inputs)[:, 1].abs().max() < 1e-6


def test_given_numbers_are_used() -> None:
    normalization = load_dataset("photos", normalize="0.5,0.4,0.3:0.1,0.2,0.25").normalization
    assert normalization.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert normalization.std.flatten().tolist() == pytest.approx([0.1, 0.2, 0.25])
    assert load_dataset("photos", normalize="0.5:0.5").normalization.mean.shape == (3, 1, 1)


@pytest.mark.parametrize("text", ["", "imagenet", "1,2:1,1", "1,1,1", "0,0,0:1,1,0", "0,0,0:1,1,nan", "1:2:3", "0:inf"])
def test_bad_normalizations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="`normalize` should"):
        load_dataset("photos", normalize=text)


@given(batch_size=st.integers(1, 120), seed=st.integers(0, 2**31))
def test_a_batch_is_drawn_without_replacement_and_by_the_seed(photos: Dataset, batch_size: int, seed: int) -> None:
    batch, indices = draw_batch(photos, batch_size=batch_size, generator=torch.Generator().manual_seed(seed))
    _, again = draw_batch(photos, batch_size=batch_size, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(indices, again)
    assert len(indices.unique()) == batch_size
    assert torch.equal(batch.labels, photos.labels[indices])
    assert torch.equal(batch.inputs, photos.normalization.apply(photos.inputs[indices]))


@pytest.mark.parametrize("batch_size", [0, -1, 521])
def test_batch_sizes_beyond_the_data_are_refused(photos: Dataset, batch_size: int) -> None:
    with pytest.raises(InputError, match=r"`batch_size` should lie in 1 to 120"):
        draw_batch(photos, batch_size=batch_size, generator=torch.Generator())


@pytest.mark.parametrize(
    "indices", [torch.tensor([120]), torch.tensor([-1]), torch.tensor([1.0]), torch.zeros(0).long(), torch.tensor(1)]
)
def test_indices_that_are_none_are_refused(photos: Dataset, indices: torch.Tensor) -> None:
    with pytest.raises(InputError, match="`indices` should be integers"):
        photos.batch(indices)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inputs", torch.full((120, 3, 2, 2), torch.nan)),
        ("inputs", torch.zeros(120, 3, 2, 2).double()),
        ("labels", torch.zeros(120)),
        ("labels", torch.zeros(5).long()),
        ("labels", torch.full((120,), 2)),
        ("labels", torch.full((120,), -1)),
    ],
)
def test_a_data_set_checks_itself(photos: Dataset, field: str, value: torch.Tensor) -> None:
    with pytest.raises(InputError, match=f"photos: `{field}` should"):
        dataclasses.replace(photos, **{field: value})


def test_target_is_for_tables_only() -> None:
    with pytest.raises(InputError, match="`target` is for tables"):
        load_dataset("digits", target="x")
