"""Examples found by what they leave in later layers: rough inputs moved until it lies in those gradients' spans."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import normalize

from seepage.attacks.disaggregation.found import Found, Proposals
from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.spans import Spans
from seepage.linalg.levenberg import levenberg_marquardt

__all__ = ["Guess", "SpanSearch", "random_guesses"]

_STEPS = 40  # of a start, at most
_SIZES = (0.3, 0.5, 0.7, 1.0, 1.4)  # of the last few guesses, whose own is the average one
_LAST = 2  # with nothing given
_WAVE = 12  # starts that are walked together; the nearest to the spans first, since those that end well are among them
_GOES_ON = 0.25  # share of a wave that has to end well for the next
_DRAWN = 192  # random starts to choose from
_WORK = 2e12  # multiplications of a turn after which no step is begun: a minute, between two looks at the budget
_ENTRIES = 1 << 23  # of Jacobians held at once: 64 MiB
_NEAR, _STUCK = 1e-3, 3e-2  # relative distances from the spans to which float32 goes, and where it often ends beside
_PUSHES, _PUSH = 2, 0.05  # from there it starts again: how often, and how far away as a share of the input's length
_CONVERGED = 1e-6  # relative: what float32 leaves of the spans
_IN_SPAN, _SAME_ERROR = 1e-4, 1e-3  # relative distances beyond which a point is no example
_PRECISE = 1e-5  # distance of an error up to which its direction is as good as one from zeros
_NEARLY_PRECISE = 3e-5  # and without a ReLU, where a fit of the whole batch follows
_OFF = 1e-5  # pre-activation, as a share of its root mean square, below which a unit is clearly off
_KERNEL = 3e-3  # singular value, as a share of the largest, below which zeros say less than the error itself
_KEPT = 0.99  # of an error's length that the zeros of its off-units must leave

Guess = Callable[[Mixture, Found, torch.Generator], Tensor]  # rough inputs [s, b], up to sign


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSearch:
    """One arm: rough inputs moved until the activations that they cause lie in the spans; then their errors, replayed.

    Zeros say which units an example switches off; spans speak through those that it switches on. With ``k`` examples
    missing an input has ``k`` unknowns, and has to switch on that many units: where zeros are too few, there are
    enough. Half a batch missing, any start will do; before, rough inputs are needed.

    Args:
        spans: reads those of the later layers when they are first asked for; ``None`` if there are none.
        guess: where to start.
        doubting: whether nothing is given but what later layers have confirmed. Of examples that are much alike a
            combination passes for one now and then, and hides two. Here it hides nothing; what is found displaces it.
        patient: whether all of few good guesses are walked, however the nearest ended.
    """

    spans: Callable[[], Spans | None]
    guess: Guess
    doubting: bool = False
    patient: bool = False

    def __call__(self, mixture: Mixture, found: Found, generator: torch.Generator, *, effort: int) -> Proposals:
        """One turn; of ``effort`` times as many steps."""
        given = found.sure if self.doubting else found
        spans, basis = self.spans(), mixture.missing(given.directions)  # [k, b]
        if spans is None or not len(basis) or (self.doubting and len(given) == len(found)):
            return Proposals(directions=found.directions[:0], cost=0)
        rough = self.guess(mixture, given, generator)
        if not len(rough):
            return Proposals(directions=rough, cost=0)
        walks, single = _Walks(steps=effort * _STEPS), spans.to(torch.float32)
        starts = _nearest(single, (rough @ basis.T).float(), (spans.heights @ basis.T).float())
        likely = starts[: max(len(basis), _WAVE)]
        near = walks.in_waves(single, likely, basis, generator, least=0.0 if self.patient else _GOES_ON)
        ends, costs = walks.walk(spans, near.double(), basis, tol=_CONVERGED)
        inputs = ends[costs < _IN_SPAN] @ basis  # [e, b], as well known as the directions found
        walks.steps = _LAST  # better, with none of them given
        inputs, _ = walks.walk(spans, inputs, torch.eye(mixture.batch_size).to(inputs), tol=_CONVERGED)
        outputs = inputs @ spans.heights.T + spans.bias  # [e, m]
        proved = [one for row in outputs if (one := _direction(spans, mixture, row)) is not None]
        enough = _PRECISE if mixture.layer.relu else _NEARLY_PRECISE
        taken = [one for one in proved if one[1] <= enough]  # a rough one would make all later inputs rough,
        if not taken and not self.doubting:  # and pass for another example than its like in ``found``
            taken = proved
        directions = torch.stack([one for one, _ in taken]) if taken else found.directions[:0]
        return Proposals(directions=directions, cost=walks.starts, work=walks.work, replayed=True)


def random_guesses(mixture: Mixture, found: Found, generator: torch.Generator) -> Tensor:
    """``[s, b]`` of the size of normalised inputs, in the complement of what is found."""
    basis = mixture.missing(found.directions)
    draws = torch.randn(_DRAWN, len(basis), generator=generator, dtype=basis.dtype, device=generator.device)
    size: float = mixture.layer.weight.shape[1] ** 0.5
    return size * normalize(draws.to(basis), dim=1) @ basis


def _nearest(spans: Spans, starts: Tensor, heights: Tensor) -> Tensor:
    """Of each of ``starts [s, k]`` the sign that lies nearer to the spans, the nearest first; few in several sizes."""
    if len(starts) < _WAVE:
        starts = torch.cat([size * starts for size in _SIZES])
    both = torch.stack([starts, -starts])
    distances = vmap(vmap(spans.outside))(both @ heights.T + spans.bias).norm(dim=2)  # [2, s]
    least = distances.min(dim=0)
    return both[least.indices, torch.arange(len(starts), device=starts.device)][least.values.argsort()]


@dataclass(slots=True, kw_only=True)
class _Walks:
    """Walks of one turn, of so many ``steps`` each, and what they took: starts, and multiplications."""

    steps: int
    starts: int = 0
    work: float = 0.0

    def in_waves(
        self, spans: Spans, starts: Tensor, basis: Tensor, generator: torch.Generator, *, least: float
    ) -> Tensor:
        """``[e, k]``: where ``starts [s, k]``, the likeliest first, end near the spans.

        One that ends beside them goes on from around there. A wave follows the other while a share ``least`` ends well.
        """
        near = []
        for wave in torch.split(starts, _WAVE):
            ends, costs = self.walk(spans, wave, basis, tol=_NEAR)
            beside = ends[(costs > _NEAR) & (costs < _STUCK)]
            self.starts += len(wave) + _PUSHES * len(beside)
            freed, lengths = self.walk(spans, _pushed(beside, generator), basis, tol=_NEAR)
            near.append(torch.cat([ends[costs <= _NEAR], freed[lengths <= _NEAR]]))
            if len(near[-1]) < least * len(wave) or self.work > _WORK:
                break
        return torch.cat(near)

    def walk(self, spans: Spans, starts: Tensor, basis: Tensor, *, tol: float) -> tuple[Tensor, Tensor]:
        """Where ``starts [s, k]``, coordinates in ``basis [k, b]``, end, and how far from the spans."""
        heights = spans.heights @ basis.to(spans.heights).T  # [m, k]
        k, rows = heights.shape[1], len(heights) + sum(part.shape[1] for part in spans.bases)
        each = 2.0 * k * rows * (k + basis.shape[1])
        ends, costs, jacobians = levenberg_marquardt(
            lambda point: spans.outside(heights @ point + spans.bias),
            starts,
            steps=self.steps,
            tol=tol,
            chunk=max(1, _ENTRIES // (k * rows)),
            jacobians=max(1, int(_WORK / each)),
            halving=True,
        )
        self.work += each * jacobians
        return ends, costs


def _pushed(points: Tensor, generator: torch.Generator) -> Tensor:
    """Beside each of ``points [s, k]``, some of its units on the other side of their kinks, ``[2 s, k]``."""
    around = torch.randn(_PUSHES, *points.shape, generator=generator, device=generator.device).to(points)
    pushed: Tensor = points + _PUSH * points.norm(dim=1, keepdim=True) * normalize(around, dim=2)
    return pushed.flatten(0, 1)


def _direction(spans: Spans, mixture: Mixture, outputs: Tensor) -> tuple[Tensor, float] | None:
    """``[b]``: the error of the label that lies in the column space, zero where ``outputs [m]`` of a ReLU are off.

    And how far from there it lay.
    """
    errors = normalize(spans.tail.errors(outputs), dim=1)  # [C, m]
    left = mixture.factors.left
    inside = errors @ left  # [C, b]
    distance = (errors - inside @ left.T).norm(dim=1)
    least = distance.min(dim=0)
    best, apart = int(least.indices), float(least.values)
    if not apart <= _SAME_ERROR:
        return None
    direction: Tensor = inside[best]
    if not mixture.layer.relu:
        return normalize(direction, dim=0), apart
    off = (outputs < -_OFF * outputs.square().mean().sqrt())[mixture.awake]
    rows = mixture.L[off]
    if len(rows):
        squares, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending
        kernel = max(1, int((squares <= _KERNEL**2 * squares[-1]).sum()))
        direction = vectors[:, :kernel] @ (vectors[:, :kernel].T @ direction)
    length = float(direction.norm() / inside[best].norm())
    return (direction / direction.norm(), apart) if length > _KEPT else None
