"""Examples found by what they leave in later layers: their activations lie in the row spaces of those gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import normalize

from seepage.attacks.disaggregation.found import Found, Proposals
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.tail import Tail
from seepage.linalg.levenberg import jacobian, levenberg_marquardt
from seepage.linalg.lowrank import low_rank_factors
from seepage.networks.layers import LayerKind, read_layers
from seepage.types import Observation

__all__ = ["SpanSearch", "Spans", "random_guesses", "read_spans"]

_STEPS = 40
_STARTS, _FEWEST = 48, 4  # in one turn
_WORK = 2e12  # multiplications of a turn beyond which it has fewer starts: a minute, between two looks at the budget
_ENTRIES = 1 << 23  # of Jacobians held at once: 64 MiB
_CONVERGED = 1e-6  # relative: what float32 leaves of the spans
_IN_SPAN, _SAME_ERROR = 1e-4, 1e-3  # relative distances beyond which a point is no example
_OFF = 1e-5  # pre-activation, as a share of its root mean square, below which a unit is clearly off
_KERNEL = 1e-5  # singular value, as a share of the largest, that counts as none
_KEPT = 0.99  # of an error's length that the zeros of its off-units must leave

Guess = Callable[[Mixture, Found, torch.Generator], Tensor]  # rough inputs [s, b], up to sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """What the gradients of later layers say of every example of the batch.

    Args:
        tail: the network from the attacked layer on, with those layers' inputs.
        bases: ``[b, w]`` orthonormal rows for each: the span of the batch's inputs of that layer.
        heights: ``[m, b]``: pre-activations without bias of ``x = right^T p`` are ``heights @ p``.
        bias: ``[m]`` float64.
    """

    tail: Tail
    bases: tuple[Tensor, ...]
    heights: Tensor
    bias: Tensor

    def outside(self, outputs: Tensor) -> Tensor:
        """The parts of activations outside of their spans, as shares of their lengths, ``[r]``; 0 for an example."""
        _, activations = self.tail(outputs)
        parts = [
            (value - (basis @ value) @ basis) / value.norm().clamp_min(1e-12)
            for value, basis in zip(activations, self.bases, strict=True)
        ]
        return torch.cat(parts)


def read_spans(observation: Observation, mixture: Mixture, generator: torch.Generator) -> Spans | None:
    """Spans of the linear layers behind the attacked one whose gradient has the rank of the batch below their size.

    ``None`` where the update is no gradient at the state sent, is noised, or no layer fits: one hidden layer, or later
    layers narrower than the batch.
    """
    layer, b = mixture.layer, mixture.batch_size
    if observation.rule is None or not observation.rule.is_gradient or mixture.noisy or not layer.reads_input:
        return None
    layers, bases = [], []
    for later in read_layers(observation.latest.network, observation.input_shape).layers:
        if later.name == layer.name or later.kind is not LayerKind.LINEAR or later.positions * later.calls != 1:
            continue
        if later.weight not in observation.latest.update:
            continue
        gradient = later.matrix(observation.latest.update)
        if min(gradient.shape) <= b or not bool(gradient.isfinite().all()):
            continue
        factors = low_rank_factors(gradient, generator=generator)
        if factors is not None and factors.rank == b and not factors.spread:
            layers.append(later)
            bases.append(factors.right)
    if not layers:
        return None
    heights = torch.cat([part.double() @ mixture.factors.right.T for part in torch.split(layer.weight, 256)])
    bias = layer.bias.double()
    try:
        spans = Spans(tail=Tail(observation, layer, layers), bases=tuple(bases), heights=heights, bias=bias)
        vmap(jacobian(spans.outside))(bias[None])
    except (RuntimeError, TypeError, ValueError):  # it cannot be run on one example, or is no tree of modules
        return None
    return spans


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSearch:
    """One arm: rough inputs moved until the activations that they cause lie in the spans; then their errors, replayed.

    Zeros say which units an example switches off; spans speak through those that it switches on. With ``k`` examples
    missing an input has ``k`` unknowns, and has to switch on that many units: where zeros are too few, there are
    enough. Half a batch missing, any start will do; before, rough inputs are needed.

    Args:
        spans: reads those of the later layers when they are first asked for; ``None`` if there are none.
        guess: where to start.
    """

    spans: Callable[[], Spans | None]
    guess: Guess

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; of ``effort`` times as many steps."""
        spans, basis = self.spans(), mixture.missing(found.directions)  # [k, b]
        if spans is None or not len(basis):
            return Proposals(directions=found.directions[:0], cost=0)
        heights = spans.heights @ basis.T  # [m, k]
        k, rows = len(basis), len(heights) + sum(part.shape[1] for part in spans.bases)
        each = 2.0 * effort * _STEPS * k * rows * (k + mixture.batch_size)
        rough = self.guess(mixture, found, generator)[: min(_STARTS, max(_FEWEST, int(_WORK / each)))]
        if not len(rough):
            return Proposals(directions=rough, cost=0)
        starts = _nearer(spans, heights, rough @ basis.T)
        ends, costs = levenberg_marquardt(
            lambda point: spans.outside(heights @ point + spans.bias),
            starts,
            steps=effort * _STEPS,
            tol=_CONVERGED,
            chunk=max(1, _ENTRIES // (k * rows)),
        )
        outputs = ends[costs < _IN_SPAN] @ heights.T + spans.bias  # [e, m]
        proved = [direction for row in outputs if (direction := _direction(spans, mixture, row)) is not None]
        directions = torch.stack(proved) if proved else found.directions[:0]
        return Proposals(directions=directions, cost=len(starts), work=each * len(starts), replayed=True)


def random_guesses(mixture: Mixture, found: Found, generator: torch.Generator) -> Tensor:
    """``[s, b]`` of the size of normalised inputs, in the complement of what is found."""
    basis = mixture.missing(found.directions)
    draws = torch.randn(_STARTS, len(basis), generator=generator, dtype=basis.dtype, device=generator.device)
    size: float = mixture.layer.weight.shape[1] ** 0.5
    return size * normalize(draws.to(basis), dim=1) @ basis


def _nearer(spans: Spans, heights: Tensor, starts: Tensor) -> Tensor:
    """Of each of ``starts [s, k]`` the sign that lies nearer to the spans."""
    both = torch.stack([starts, -starts])
    outside = vmap(vmap(spans.outside))(both @ heights.T + spans.bias).norm(dim=2)  # [2, s]
    return starts.where((outside[0] <= outside[1])[:, None], -starts)


def _direction(spans: Spans, mixture: Mixture, outputs: Tensor) -> Tensor | None:
    """``[b]``: the error of the label that lies in the column space, zero where ``outputs [m]`` of a ReLU are off."""
    errors = normalize(spans.tail.errors(outputs), dim=1)  # [C, m]
    left = mixture.factors.left
    inside = errors @ left  # [C, b]
    distance = (errors - inside @ left.T).norm(dim=1)
    best = int(distance.argmin())
    if not float(distance[best]) <= _SAME_ERROR:
        return None
    direction: Tensor = inside[best]
    if not mixture.layer.relu:
        return normalize(direction, dim=0)
    off = (outputs < -_OFF * outputs.square().mean().sqrt())[mixture.awake]
    rows = mixture.L[off]
    if len(rows):
        squares, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending
        kernel = max(1, int((squares <= _KERNEL**2 * squares[-1]).sum()))
        direction = vectors[:, :kernel] @ (vectors[:, :kernel].T @ direction)
    length = float(direction.norm() / inside[best].norm())
    return direction / direction.norm() if length > _KEPT else None
