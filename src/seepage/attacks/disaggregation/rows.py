"""Examples that stand in the update for anyone to read: rows of a ReLU layer's gradient that hold a single one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer
from seepage.attacks.disaggregation.layererrors import LayerRun, errors_of_class
from seepage.linalg.lowrank import LowRank, leading_columns
from seepage.types import INTERRUPTED, Observation, Outcome, Reconstruction

__all__ = ["read_rows", "with_rows"]

_OUTSIDE = 0.01  # of a replayed error; one example's was seen at 1e-7 to 1e-2, those of several at 0.014 to 0.8
_SURELY = 1e-4  # the same, below which an example is taken out of the gradient: else it would leave its traces there
_SAME = 0.05  # of an input's length, within which two rows show the same example
_SPARE = 16  # units more than the gradient has rank: else every error lies in it
_WIDEST = 512  # columns where the gradient has no clear rank
_REPLAYS = 32_768  # errors at most in one round, inputs times classes
_ENTRIES_AT_ONCE = 1 << 23  # of inputs: 64 MiB
_FAINT = 1e-6  # share of the largest bias entry below which a quotient is rounding
_ROUNDS = 64
_LEAST_CLASSES = 3  # of two, the error points the same way for all inputs that switch on the same units, means as well


def with_rows(
    found: Reconstruction,
    observation: Observation,
    layer: AttackedLayer,
    factors: LowRank | None,
    *,
    generator: torch.Generator,
) -> Reconstruction:
    """A reconstruction that is not whole, with the examples that are rows of the update put in, uncertified.

    Args:
        found: what the attack made of the layer.
        observation: what the server saw.
        layer: the attacked layer.
        factors: of its weight gradient; ``None`` if it has no clear rank.
        generator: draws the sketch of a gradient without a clear rank.

    Returns:
        ``found`` itself if nothing is to be added; else APPROXIMATE, ``stats["rows"]`` says how many were put in. They
        take the places of the nearest inputs that are uncertified and do not fit; those there already are left out.
    """
    if not layer.relu or found.outcome is Outcome.EXACT or found.stats.get("stopped") == INTERRUPTED:
        return found
    try:
        judge = _judge(observation, layer, factors, generator)
        rows = _rows(layer, judge).to(layer.weight_gradient.dtype) if judge else layer.weight_gradient[:0]
        inputs, certified = rows, torch.zeros(len(rows), dtype=torch.bool)
        if found.inputs is not None and judge and len(rows):
            inputs, certified = found.inputs.flatten(1).clone(), found.certified
            rows = rows[_apart(rows, inputs)]  # all units together know an input better than one row does
            outside = torch.where(certified.to(inputs.device), 0.0, judge(inputs.double())[0])
            free = (outside > _OUTSIDE).nonzero().flatten().tolist()
            rows = rows[: len(free)]
            for row in rows:
                place = min(free, key=lambda index: float((inputs[index] - row).norm()))
                inputs[place] = row
                free.remove(place)
    except (RuntimeError, ValueError):  # no copy (computed weights), or the network refuses a batch like this one
        return found
    if not len(rows):
        return found
    some = "1 row of the update is an input" if len(rows) == 1 else f"{len(rows)} rows of the update are inputs"
    return replace(
        found,
        outcome=Outcome.APPROXIMATE,
        inputs=inputs.reshape(-1, *observation.input_shape),
        certified=certified,
        reason=f"{found.reason} Besides, {some}, to judge by the errors that the network makes of them; uncertified.",
        stats={**found.stats, "rows": len(rows)},
    )


def read_rows(
    observation: Observation, layer: AttackedLayer, factors: LowRank | None, *, generator: torch.Generator
) -> Tensor:
    """``[k, n]`` float64 inputs that one unit each gives away.

    Where one example alone switches a unit on, the unit's row of ``gW = dZ^T X`` over its entry of ``gb = dZ^T 1`` is
    that example; else it is a weighted mean of several. The network tells them apart: with one of its labels, the
    example has an error ``[m]`` that is one of ``b`` whose span holds every column of ``gW``. The error that the
    network makes of a mean lies elsewhere. What is surely one example is taken out of the gradient, and the units that
    one of the others alone switches on are read in what is left.

    That is no certificate: an example that stands in the row faintly beside another is not seen, and after local steps
    errors are others. Nothing is read of two classes (all inputs that switch on the same units have one error then, and
    so has their mean), where the layer does not read the network's inputs, and where the batch is larger than the rank:
    then its errors do not lie in the span.

    Raises:
        RuntimeError, ValueError: the network cannot be copied, or refuses a batch of made-up inputs.
    """
    judge = _judge(observation, layer, factors, generator)
    return _rows(layer, judge) if judge else layer.weight_gradient[:0].double()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Tells examples from means of several by their errors.

    Args:
        run: the network up to its logits, cut at the layer.
        shape: of one input.
        labels: that examples may have.
        columns: ``[m, r]`` orthonormal, the span of the errors of the batch, or what the largest of them span.
        most: examples that there can be; more pass only where errors do not depend on inputs (tiny ones).
    """

    run: LayerRun
    shape: tuple[int, ...]
    labels: Sequence[int]
    columns: Tensor
    most: int

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """``[k]``: the part of the error of each of ``inputs [k, n]`` outside of the span; and that error ``[k, m]``.

        With the label where it is least.
        """
        least = inputs.new_full((len(inputs),), torch.inf)
        best = inputs.new_zeros(len(inputs), len(self.columns))
        answer = self.run(inputs.reshape(-1, *self.shape)) if len(inputs) else None
        if answer is None:
            return least, best
        outputs, logits = answer
        for label in self.labels:
            errors = torch.where(outputs.detach() > 0, errors_of_class(outputs, logits, label), 0.0).double()
            rest = errors - (errors @ self.columns) @ self.columns.T
            outside = (rest.norm(dim=1) / errors.norm(dim=1)).nan_to_num(torch.inf)
            better = outside < least
            least = torch.where(better, outside, least)
            best = torch.where(better[:, None], errors, best)
        return least, best


def _judge(
    observation: Observation, layer: AttackedLayer, factors: LowRank | None, generator: torch.Generator
) -> _Judge | None:
    """``None`` where errors tell nothing, or the layer's inputs cannot be fed to the network."""
    if not layer.reads_input or observation.classes < _LEAST_CLASSES:
        return None
    if factors is not None:
        columns = factors.left
    else:
        width = min(len(layer.bias) // 2, _WIDEST)
        columns = leading_columns(layer.weight_gradient, width, generator=generator)
    if columns.shape[1] + _SPARE > len(columns):
        return None
    known, announced = observation.latest.labels, observation.latest.known_size
    largest = min(layer.weight.shape) if factors is None else factors.rank
    return _Judge(
        run=LayerRun(observation.latest.network, layer.read),
        shape=observation.input_shape,
        labels=range(observation.classes) if known is None else sorted(set(known.tolist())),
        columns=columns,
        most=largest if announced is None else min(largest, announced),
    )


def _rows(layer: AttackedLayer, judge: _Judge) -> Tensor:
    left = _Left(layer)
    order = layer.bias_gradient.abs().argsort(descending=True)[: max(1, _REPLAYS // len(judge.labels))]
    for _ in range(_ROUNDS):
        before = len(left.inputs)
        for part in torch.split(order, max(1, _ENTRIES_AT_ONCE // layer.weight.shape[1])):
            left.take(part, judge)
        order = order[(left.errors[before:, order] != 0).any(dim=0)]  # the rest of the others has not changed
        if not len(order):
            break
    rows = torch.cat([left.inputs, left.rough[_apart(left.rough, left.inputs)]])
    return rows if len(rows) <= judge.most else rows[:0]


class _Left:
    """A layer's gradient without the examples read so far, which stand in it as ``errors^T inputs``."""

    def __init__(self, layer: AttackedLayer) -> None:
        self.layer = layer
        self.bias = layer.bias_gradient.double()
        self.least = _FAINT * float(self.bias.abs().max())
        self.errors = self.bias.new_zeros(0, len(self.bias))
        self.inputs = self.bias.new_zeros(0, layer.weight.shape[1])
        self.rough = self.inputs

    def take(self, units: Tensor, judge: _Judge) -> None:
        """Read some units' rows ``[k, n]``, and take out of the gradient what is surely an example."""
        units, rows = self._rows(units)
        outside, errors = judge(rows)
        order = outside.argsort()
        for index in order[outside[order] <= _SURELY].tolist():
            row, unit = rows[index : index + 1], int(units[index])
            if bool(_apart(row, self.inputs).all()):
                error = errors[index] * (self.bias[unit] / errors[index, unit])
                self.errors = torch.cat([self.errors, error[None]])
                self.inputs = torch.cat([self.inputs, row])
        self.bias = self.layer.bias_gradient.double() - self.errors.sum(dim=0)
        rough = rows[order][(outside[order] > _SURELY) & (outside[order] <= _OUTSIDE)]
        self.rough = torch.cat([self.rough, rough[_apart(rough, self.rough)]])

    def _rows(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Those of ``units`` that their row ``[n]`` over its bias entry switches on, and these rows ``[k, n]``."""
        units = units[self.bias[units].abs() > self.least]
        sums = self.layer.weight_gradient[units].double() - self.errors[:, units].T @ self.inputs
        rows = sums / self.bias[units, None]
        on = (rows * self.layer.weight[units]).sum(dim=1) + self.layer.bias[units] > 0
        return units[on], rows[on]


def _apart(rows: Tensor, others: Tensor) -> Tensor:
    """``[k]`` bool: which of ``rows [k, n]`` show none of ``others [f, n]`` and no earlier row."""
    kept = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for index, row in enumerate(rows):
        known = torch.cat([others, rows[kept]])
        kept[index] = bool(((known - row).norm(dim=1) > _SAME * row.norm()).all())
    return kept
