"""Recognisable is said of what shows its original and no other; never of means, blurs, noise or look-alikes."""

import pytest
import torch
from torch import Tensor

from seepage.audit.scores.recognition import (
    details,
    identified,
    recognisable_numbers,
    recognisable_pictures,
    recognisable_rows,
)
from seepage.audit.scores.scoring import score
from seepage.data.normalization import make_normalization
from seepage.data.sources import Dataset, InputKind, load_dataset
from seepage.data.tabular import fit_encoding
from seepage.metrics import recognisable_images
from seepage.types import Outcome, PrivateBatch, Reconstruction


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_dataset("digits", normalize="none").inputs  # [1797, 1, 8, 8]


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return load_dataset("photos", normalize="none").inputs


def noise(like: Tensor, size: float) -> Tensor:
    return size * torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def test_details_have_length_one_and_flat_pictures_none(photos: Tensor) -> None:
    found = details(torch.cat([photos[:4], torch.full_like(photos[:1], 0.3)]))
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]), atol=1e-3, rtol=0)


def test_large_pictures_are_averaged_down() -> None:
    assert details(torch.rand(1, 3, 256, 256)).shape == (1, 3 * 64 * 64)


def test_a_faint_copy_is_recognised_below_twenty_decibels(digits: Tensor) -> None:
    originals, others = digits[:50], digits[50:1050]
    mean = originals.mean(dim=(-2, -1), keepdim=True)
    faint = mean + 0.4 * (originals - mean)
    assert not recognisable_images(faint, originals).any()
    assert recognisable_pictures(faint, originals, others=others).all()


def test_two_noisy_digits_in_three_are_recognised(digits: Tensor) -> None:
    originals, others = digits[:50], digits[50:1050]
    noisy = originals + noise(originals, 0.12)
    near = recognisable_images(noisy, originals)
    assert recognisable_pictures(noisy, originals, others=others).sum() > max(int(near.sum()), 33)


@pytest.mark.parametrize("guess", ["mean", "random", "noise", "half"])
def test_what_holds_nothing_of_the_original_is_not_recognised(digits: Tensor, guess: str) -> None:
    originals, others, public = digits[:100], digits[100:1100], digits[1100:1200]
    found = {
        "mean": public.mean(dim=0, keepdim=True).expand_as(originals),
        "random": public,
        "noise": (originals + noise(originals, 0.7)).clamp(0, 1),
        "half": 0.5 * originals + 0.5 * originals.roll(1, 0),  # as near to the next example as to its own
    }[guess]
    assert not identified(found, originals, others).any()


def test_another_picture_as_alike_keeps_a_blurred_one_from_being_identified(digits: Tensor) -> None:
    originals, others = digits[:20], digits[20:1020]
    found = 0.7 * originals + 0.3 * digits[1100:1120]
    assert identified(found, originals, others).any()
    rivals = found + noise(originals, 0.05)  # as like what was found as the originals are
    assert not identified(found, originals, torch.cat([others, rivals])).any()


def test_copies_of_the_originals_among_the_others_do_not_matter(digits: Tensor) -> None:
    originals, others = digits[:20], digits[20:1020]
    found = originals + noise(originals, 0.05)
    alone = identified(found, originals, others)
    assert alone.any()
    assert torch.equal(alone, identified(found, originals, torch.cat([originals, others])))


def test_few_others_small_pictures_and_nan_identify_nothing(digits: Tensor) -> None:
    assert not identified(digits[:5], digits[:5], digits[5:100]).any()
    assert not identified(digits[:5], digits[:5], digits[:5].expand(5, 1, 8, 8).repeat(40, 1, 1, 1)).any()
    assert not identified(digits[:5, :, :4], digits[:5, :, :4], digits[5:500, :, :4]).any()
    broken = digits[:5].clone()
    broken[0, 0, 0, 0] = torch.nan
    assert identified(broken, digits[:5], digits[5:500]).tolist() == [False, True, True, True, True]


CELLS = {
    "age": [str(20 + number) for number in range(60)],
    "pay": ["0"] * 59 + ["50000"],
    "town": ["Ulm"] * 40 + ["Bonn"] * 20,
}


def row(age: str, pay: str, town: str) -> dict[str, str]:
    return {"age": age, "pay": pay, "town": town}


@pytest.mark.parametrize(
    ("found", "recognised"),
    [
        (row("79", "50000", "Bonn"), True),
        (row("79", "49800", "Bonn"), True),
        (row("79", "49000", "Bonn"), False),
        (row("78", "50000", "Bonn"), False),
        (row("79", "50000", "Ulm"), False),
        (row("nan", "nan", "nan"), False),
        (row("inf", "50000", "Bonn"), False),
    ],
)
def test_a_row_needs_every_text_and_every_number_within_a_hundredth_of_its_range(
    found: dict[str, str], recognised: bool
) -> None:
    table = fit_encoding(CELLS)
    inputs = table.encode([dict(zip(CELLS, cells, strict=True)) for cells in zip(*CELLS.values(), strict=True)])
    assert recognisable_rows(table, [found], [row("79", "50000", "Bonn")], inputs).tolist() == [recognised]


def test_the_usual_row_is_never_recognised() -> None:
    cells = {"pay": ["0", "1", "0", "2", "100000"], "town": ["Ulm"] * 4 + ["Bonn"]}
    table = fit_encoding(cells)
    inputs = table.encode([dict(zip(cells, both, strict=True)) for both in zip(*cells.values(), strict=True)])
    usual = {"pay": "1", "town": "Ulm"}
    assert recognisable_rows(table, [usual], [{"pay": "2", "town": "Ulm"}], inputs).tolist() == [False]


def test_numbers_need_forty_decibels_and_more_than_any_constant_guess() -> None:
    originals = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    spread = float(originals.max() - originals.min())
    assert recognisable_numbers(originals + noise(originals, 0.001), originals, data_range=spread).all()
    assert not recognisable_numbers(originals + noise(originals, 0.2), originals, data_range=spread).any()
    mean = originals.mean(dim=0, keepdim=True).expand_as(originals)
    alike = mean + 0.001 * originals  # all but the same: their mean says nearly everything
    assert not recognisable_numbers(mean, alike, data_range=float(alike.max() - alike.min())).any()


def made(inputs: Tensor) -> Reconstruction:
    return Reconstruction(
        outcome=Outcome.APPROXIMATE,
        inputs=inputs,
        labels=None,
        certified=torch.zeros(len(inputs), dtype=torch.bool),
        reason="made up",
    )


def test_the_score_of_a_table_says_which_rows_are_nearly_right() -> None:
    table = fit_encoding(CELLS)
    inputs = table.encode([dict(zip(CELLS, cells, strict=True)) for cells in zip(*CELLS.values(), strict=True)])
    dataset = load_dataset("digits", normalize="none")
    rows = Dataset(
        name="rows",
        kind=InputKind.TABLE,
        inputs=inputs,
        labels=dataset.labels[:60],
        class_names=dataset.class_names,
        normalization=make_normalization("none", inputs),
        table=table,
        sha256="",
    )
    batch = PrivateBatch(inputs=inputs[55:60], labels=rows.labels[55:60])
    off = batch.inputs.clone()
    off[4, 1] -= 0.004  # pay, by 200 of 50,000
    off[3, 2:] = 1 - off[3, 2:]  # another town
    scored = score(made(off), batch, rows, None)
    assert scored.scores["exact"] == [True, True, True, False, False]
    assert scored.scores["recognisable"] == [True, True, True, False, True]
