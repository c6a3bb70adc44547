"""Labels from the layer before the last: examples with entries of its gradient to themselves come out however faint.

The last layer adds up every example in every entry, and float32 drops what is 1e-8 of the rest. The layer before, if
its inputs come sparse (out of a ReLU, or with black pixels), has entries that one example alone fills: unit on, input
not zero, of that example only. There it is seen to full precision. ``sole_terms`` finds such examples as
``error [m], input [n]`` up to a scale; which scale and which class is read off how the error goes with the input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.labels.exact.balancedlabels import RestoredExamples
from seepage.attacks.labels.lastlayer import LastLayer
from seepage.linalg.soleterms import SoleTerms, sole_terms
from seepage.networks.layers import Activation, LayerKind, read_layers
from seepage.types import Observation

__all__ = ["ExamplesBefore", "examples_before", "with_layer_before"]

_MOST = 5_000_000  # entries of the gradient
_PAIRS = 600  # of units compared
_FITS = 1e-3  # share of its error by which an example may miss what the network says of its input
_WEIGHT = 1e-2  # share by which its weight may differ from 1 / K
_MISSING = 5  # examples at most whose inputs are known too poorly for that
_GRID, _FINER, _ROUNDS = 241, 21, 8  # scales tried, between two of them, so many times


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplesBefore:
    """All examples of a batch.

    Args:
        labels: ``[K]``.
        embeddings: ``[K, m]``, inputs of the last layer; rough where an example does not fit.
        fits: ``[K]`` bool: whether the error goes with the input, and the weight is 1 / K.
        off: the median share of an error that does not.
    """

    labels: Tensor
    embeddings: Tensor
    fits: Tensor
    off: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """The two layers: ``z = A x + shift`` into a ReLU, then the last."""

    gradient: Tensor  # [m, n+1]
    A: Tensor  # [m, n]
    shift: Tensor  # [m]
    last: LastLayer


def with_layer_before(
    observation: Observation, layer: LastLayer, found: RestoredExamples | str, *, generator: torch.Generator
) -> RestoredExamples | str:
    """What the last layer gave; where that is not all certified, all examples of the layer before if they agree.

    Args:
        observation: of one gradient.
        layer: the last one.
        found: what it gave, or why it gave nothing.
        generator: draws pairs of units.
    """
    if layer.deviation or (not isinstance(found, str) and found.whole):
        return found
    more = examples_before(observation, layer, generator=generator)
    if more is None or layer.examples is None:
        return found
    sure = torch.zeros(layer.classes, dtype=torch.int64)
    if not isinstance(found, str):
        sure = torch.bincount(found.labels[found.certified], minlength=layer.classes)
    certified = torch.zeros_like(more.fits)
    for i, label in enumerate(more.labels.tolist()):
        certified[i] = bool(sure[label] > 0)
        sure[label] -= int(certified[i])
    if bool(sure.any()):
        return found
    return RestoredExamples(
        labels=more.labels,
        embeddings=more.embeddings,
        certified=certified,
        examples=layer.examples,
        rank=layer.examples,
        residual=more.off,
        rest=torch.zeros(layer.classes, dtype=torch.int64),
        fitting=int(more.fits.sum()),
    )


def examples_before(observation: Observation, layer: LastLayer, *, generator: torch.Generator) -> ExamplesBefore | None:
    """Every example of a batch of known size, ``None`` where not all of them stand out or most do not fit.

    Args:
        observation: of one gradient, nothing clipped or added.
        layer: the last one.
        generator: draws pairs of units.
    """
    both = _layer_before(observation, layer)
    if both is None or layer.examples is None:
        return None
    G = both.gradient
    terms = sole_terms(G, layer.examples, eps=layer.eps, pairs=_PAIRS, generator=generator)
    if terms is None:
        return None
    answers = [_read(both, terms, k) for k in range(layer.examples)]
    fits = torch.tensor([one.fits(layer.examples) for one in answers])
    if int((~fits).sum()) > min(_MISSING, layer.examples // 2):
        return None
    return ExamplesBefore(
        labels=torch.tensor([one.label for one in answers]),
        embeddings=torch.stack([one.embedding for one in answers]),
        fits=fits,
        off=float(torch.tensor([one.off for one in answers]).median()),
    )


def _layer_before(observation: Observation, last: LastLayer) -> _Before | None:
    layers = read_layers(observation.latest.network, observation.input_shape).layers
    if len(layers) < 2:
        return None
    before, update = layers[-2], observation.latest.update
    fits = before.kind is LayerKind.LINEAR and before.activation is Activation.RELU and before.positions == 1
    if not fits or before.calls != 1 or before.outputs != last.W.shape[1] or before.bias is None:
        return None
    if before.weight not in update or before.bias not in update or update[before.weight].numel() > _MOST:
        return None
    parameters = dict(observation.latest.network.named_parameters())
    return _Before(
        gradient=torch.cat([update[before.weight], update[before.bias][:, None]], 1).double().cpu(),
        A=parameters[before.weight].detach().double().cpu(),
        shift=parameters[before.bias].detach().double().cpu(),
        last=last,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    label: int
    off: float  # of the error, as a share of it
    weight: float
    embedding: Tensor  # [m]

    def fits(self, examples: int) -> bool:
        return self.off < _FITS and abs(self.weight * examples - 1) < _WEIGHT


def _read(both: _Before, terms: SoleTerms, k: int) -> _Answer:
    """The class and scale of one term that go best with its error."""
    x, one = terms.right[k, :-1], float(terms.right[k, -1])
    sign = 1.0 if (one or float(x.sum())) > 0 else -1.0
    through, error, seen = sign * (both.A @ x), sign * terms.left[k], terms.seen[k]
    if one:  # the bias's entry is the scale
        scales = torch.full((both.last.classes,), 1 / abs(one), dtype=x.dtype)
        return _best(both, through, (error, seen), scales, torch.arange(both.last.classes))[0]
    scales = torch.logspace(-6, 6, _GRID, dtype=x.dtype) / through.abs().max().clamp_min(1e-300)
    answer, near = _best(both, through, (error, seen), scales, None)
    for _ in range(_ROUNDS):
        scales = torch.linspace(*near, _FINER, dtype=x.dtype)
        answer, near = _best(both, through, (error, seen), scales, None)
    return answer


def _best(
    both: _Before, through: Tensor, given: tuple[Tensor, Tensor], scales: Tensor, classes: Tensor | None
) -> tuple[_Answer, tuple[float, float]]:
    """The best of some scales ``[g]`` and the two beside it; of each, one class or the most likely.

    ``given`` are the error and where it is known. The label's own entry of the softmax is left open: the client rounds
    it at the size of 1.
    """
    last, every, (error, seen) = both.last, torch.arange(len(scales)), given
    z = scales[:, None] * through + both.shift
    on = (z > 0).to(z.dtype)
    p = torch.softmax((z * on) @ last.W.cpu().T + last.b.cpu(), 1)
    classes = p.argmax(1) if classes is None else classes
    axis = on * seen * last.W.cpu()[classes]
    axis = axis / axis.norm(dim=1, keepdim=True).clamp_min(1e-300)
    p[every, classes] = 0.0
    expected = on * seen * (p @ last.W.cpu())
    expected = expected - (expected * axis).sum(1, keepdim=True) * axis
    error = error - (axis @ error)[:, None] * axis
    share = (error * expected).sum(1) / expected.square().sum(1).clamp_min(1e-300)
    off = (error - share[:, None] * expected).norm(dim=1) / error.norm(dim=1).clamp_min(1e-300)
    k = int(torch.where(share > 0, off, torch.inf).argmin())
    answer = _Answer(
        label=int(classes[k]), off=float(off[k]), weight=float(share[k] / scales[k]), embedding=(z * on)[k]
    )
    return answer, (float(scales[max(k - 1, 0)]), float(scales[min(k + 1, len(scales) - 1)]))
