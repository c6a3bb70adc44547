"""What counts as recognisable although it is not exact: pictures by likeness or detail, rows by cells, numbers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from seepage.data.tabular import Column, TableEncoding
from seepage.metrics import psnr, recognisable_images

__all__ = [
    "details",
    "identified",
    "recognisable_numbers",
    "recognisable_pictures",
    "recognisable_rows",
]

_LEAST_DETAIL = 0.75  # correlation of what is finer than a tenth of a side; see docs/decisions/0007-detail.md
_SHARPER = 0.5  # of the distance to the most similar other picture: the original is no more than half as far
_LEAST_OTHERS = 100
_TWIN = 0.98  # pictures that agree to this in detail are the same picture twice: no one can tell them apart
_SIDE = 64  # larger pictures are averaged down towards it
_CHUNK = 100
_FAINT = 1e-3  # root mean square, a quarter of a grey level: less is rounding and no detail
_LEAST_SIDE = 8
_CELL = 0.01  # of a column's range
_LEAST_PSNR = 40.0  # dB, of numbers that are neither pictures nor tables: within a hundredth of their range
_LEAST_GAIN = 20.0  # dB above the best constant guess


def recognisable_pictures(found: Tensor, originals: Tensor, *, others: Tensor) -> Tensor:
    """Pictures near their originals as a whole, or that agree with them in detail and with no other picture so well.

    Args:
        found: ``[k, c, h, w]``, at the places of the originals.
        originals: ``[k, c, h, w]``.
        others: ``[N, c, h, w]`` pictures of the same data set, copies of the originals among them or not; in [0, 1].

    Returns:
        ``[k]`` bool.
    """
    near = recognisable_images(found, originals)
    return near if bool(near.all()) else near | identified(found.clamp(0, 1), originals, others)


def identified(found: Tensor, originals: Tensor, others: Tensor) -> Tensor:
    """``[k]`` bool: agrees in detail with its original, at half the distance at most of any other picture.

    Needs 100 others that are no copies of the batch, and 8 pixels a side. Pictures ``[k, c, h, w]`` in [0, 1].
    """
    none = torch.zeros(len(found), dtype=torch.bool)
    if originals.ndim != 4 or min(originals.shape[2:]) < _LEAST_SIDE or len(others) < _LEAST_OTHERS:
        return none
    usable = found.flatten(1).isfinite().all(dim=1)
    mine, truth = details(found.where(found.isfinite(), 0)), details(originals)  # [k, n]
    own = (mine * truth).sum(dim=1)
    twins = truth @ truth.T > _TWIN
    nearest = (mine @ truth.T).masked_fill(twins, -1.0).amax(dim=1)
    left = 0
    for place in range(0, len(others), _CHUNK):
        other = details(others[place : place + _CHUNK])
        apart = (other @ truth.T).amax(dim=1) <= _TWIN
        left += int(apart.sum())
        if bool(apart.any()):
            nearest = torch.maximum(nearest, (mine @ other[apart].T).amax(dim=1))
    if left < _LEAST_OTHERS:
        return none
    return usable & (own >= _LEAST_DETAIL) & (1 - own <= _SHARPER * (1 - nearest))


def details(pictures: Tensor) -> Tensor:
    """``[k, n]`` float32 of length 1: pictures without what a Gaussian of a tenth of the shorter side leaves of them.

    Of a flat picture hardly anything is left. Pictures of 128 pixels a side and more are averaged down first.
    """
    values = pictures.float()
    values = avg_pool2d(values, max(1, min(values.shape[2:]) // _SIDE))
    sigma = min(values.shape[2:]) / 10
    reach = int(3 * sigma)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(values.shape[1], 1, -1)  # [c, 1, taps]
    blurred = conv2d(pad(values, (reach, reach, 0, 0), mode="replicate"), kernel[:, :, None], groups=len(kernel))
    blurred = conv2d(pad(blurred, (0, 0, reach, reach), mode="replicate"), kernel[..., None], groups=len(kernel))
    fine: Tensor = (values - blurred).flatten(1)
    lengths: Tensor = torch.linalg.vector_norm(fine, dim=1, keepdim=True)
    return fine / lengths.clamp_min(_FAINT * fine.shape[1] ** 0.5)


def recognisable_rows(
    table: TableEncoding, found: Sequence[Mapping[str, str]], truth: Sequence[Mapping[str, str]], inputs: Tensor
) -> Tensor:
    """``[k]`` bool: every text of the row right, every number within 1 % of its column's range; the usual row is not.

    Args:
        table: the columns.
        found: rows as decoded, at the places of the originals.
        truth: the originals, decoded.
        inputs: ``[N, features]`` raw rows of the table, for the usual row: middle numbers and most common texts.
    """
    (usual,) = table.decode(_usual(table, inputs))
    return torch.tensor(
        [
            all(_near(column, row[column.name], want[column.name]) for column in table.columns)
            and not all(_near(column, usual[column.name], want[column.name]) for column in table.columns)
            for row, want in zip(found, truth, strict=True)
        ],
        dtype=torch.bool,
    )


def _usual(table: TableEncoding, inputs: Tensor) -> Tensor:
    """``[1, features]``."""
    usual = inputs.double().mean(dim=0)
    for column in table.columns:
        if not column.categories:
            usual[column.start] = inputs[:, column.start].double().median()
    return usual[None]


def _near(column: Column, cell: str, wanted: str) -> bool:
    if column.categories or cell == wanted or {cell, wanted} & {*column.missing, "nan"}:
        return cell == wanted
    return abs(float(cell) - float(wanted)) <= _CELL * (column.high - column.low)


def recognisable_numbers(found: Tensor, originals: Tensor, *, data_range: float) -> Tensor:
    """``[k]`` bool: 40 dB of the range, and 20 dB above the example's own mean and the mean of the other examples.

    Args:
        found: ``[k, *shape]``, at the places of the originals.
        originals: ``[k, *shape]``.
        data_range: of the originals.
    """
    near = psnr(found, originals, data_range=data_range)
    guesses = [originals.flatten(1).mean(dim=1).reshape(-1, *[1] * (originals.ndim - 1)).expand_as(originals)]
    if len(originals) > 1:
        guesses.append((originals.sum(dim=0) - originals) / (len(originals) - 1))
    best = torch.stack([psnr(guess, originals, data_range=data_range) for guess in guesses]).amax(dim=0)
    return (near >= _LEAST_PSNR) & (near >= best + _LEAST_GAIN)
