"""A gradient as a function of the whole batch behind it, and Gauss-Newton on that function.

The notation is that of :mod:`seepage.attacks.disaggregation.fitting`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap
from torch.nn.functional import cross_entropy, normalize

from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.recomputed import Batch, batch_gradient
from seepage.attacks.disaggregation.tail import Tail
from seepage.linalg.leastsquares import least_squares
from seepage.linalg.levenberg import load_forward_mode
from seepage.types import Observation

__all__ = ["UpdateFit"]

_ROUNDS, _STEPS = 6, 100  # of linearising, at most; products in each,
_STEPS_AN_UNKNOWN = 2  # of few unknowns no more than these: without rounding one is enough,
_TOL = 1e-2  # and the share of its slope that they leave
_SHARES = (1.0, 0.5, 0.25, 0.125)  # of a step, the first that comes nearer is taken
_SETTLED = 0.7  # share of the distance above which a round has gained nothing
_LEAST_SIZE = 1e-6  # of a tensor, as a share of the largest: one that is zero says nothing of its rounding
_DRAWN = 32  # fits to known inputs times unknowns of each: one of few may be small by chance
_MARGIN = 3.0  # times their error, which true ones were seen to exceed 2.9 times

Flat = Callable[[Tensor], Tensor]  # inputs [b, b] -> an update, all tensors in one [r]


class UpdateFit:
    """The update as a function of ``P [b, b]``, every tensor as a share of its size, and Gauss-Newton on it.

    Args:
        observation: its latest round.
        mixture: of the attacked layer.
        labels: ``[b]``.
        weights: ``[b]`` shares of the loss.
        goes_on: asked before each step.
    """

    def __init__(
        self,
        observation: Observation,
        mixture: Mixture,
        labels: Tensor,
        weights: Tensor,
        goes_on: Callable[[], bool],
    ) -> None:
        load_forward_mode()
        self.cut_short, self._asked = False, goes_on
        self.observation, self.mixture, self.labels, self.weights = observation, mixture, labels, weights
        tail = Tail(observation, mixture.layer, ())
        update = observation.latest.update
        own = (mixture.layer.read.weight, mixture.layer.bias_name)
        self.later = [name for name in update if name not in own and name in tail.state]
        sent = self._tensors(update)
        sizes = [float(value.square().mean().sqrt()) for value in sent]
        self.sizes = [max(size, _LEAST_SIZE * max(sizes)) for size in sizes]
        self.update = self._flat(sent)
        self.exact = self._model(tail, torch.float64)
        self.quick = self._model(tail.to(torch.float32), torch.float32)

    def towards(self, update: Tensor, points: Tensor) -> Tensor:
        """``[b, b]``: from ``points`` on, what comes nearest to ``update [r]``; never farther away."""
        rest = update - self.exact(points)
        for _ in range(_ROUNDS):
            if not self._goes_on():
                break
            size = float(rest.norm())
            step = size * self._step(points, rest / max(size, 1e-300))
            trials = ((one, update - self.exact(one)) for one in (points + share * step for share in _SHARES))
            better = next((trial for trial in trials if float(trial[1].norm()) < size), None)
            if better is None:
                break
            points, rest = better
            if float(rest.norm()) > _SETTLED * size:
                break
        return points

    def left_open(self, points: Tensor, start: Tensor, generator: torch.Generator) -> Tensor:
        """``[b]`` how far the fit may be from the truth, as a share of each input's length; zero if cut short."""
        moved = (points - start).norm(dim=1, keepdim=True)
        squares = torch.zeros_like(moved[:, 0])
        draws = math.ceil(_DRAWN / len(points))
        for _ in range(draws):
            if self.cut_short:
                break
            draw = torch.randn(points.shape, generator=generator, dtype=points.dtype, device=generator.device)
            truth = points + moved * normalize(draw.to(points), dim=1)
            squares += (self.towards(self._simulated(truth), points) - truth).square().sum(dim=1)
        share: Tensor = _MARGIN * (squares / draws).sqrt() / points.norm(dim=1)
        return torch.zeros_like(share) if self.cut_short else share

    def _simulated(self, points: Tensor) -> Tensor:
        """``[r]``: what the client would send of these inputs, in its own precision."""
        layer = self.mixture.layer
        inputs = (points @ self.mixture.factors.right).to(layer.weight.dtype)
        examples = inputs.reshape(-1, *self.observation.input_shape)
        nothing = layer.bias.double().expand(len(inputs), -1)
        batch = Batch(examples=examples, labels=self.labels, weights=self.weights, errors=nothing)
        gradient, _ = batch_gradient(self.observation, layer, batch)
        sent: Tensor = self._flat(self._tensors(gradient))
        return sent

    def _step(self, points: Tensor, rest: Tensor) -> Tensor:
        """Least squares for ``rest [r]`` in float32; unknowns are steps times errors, which are made orthonormal."""
        factors, near = self.mixture.factors, points.float()
        pull: Callable[[Tensor], tuple[Tensor]] = vjp(self.quick, near)[1]
        errors = factors.left @ (factors.singular[:, None] * torch.linalg.inv(points))  # [m, b]
        triangle = torch.linalg.qr(errors).R / errors.norm() * len(points) ** 0.5
        inverse = torch.linalg.inv(triangle).float()

        def product(y: Tensor) -> Tensor:
            moved: Tensor = jvp(self.quick, (near,), (inverse @ y,))[1]
            return moved

        step = least_squares(
            product,
            lambda r: inverse.T @ pull(r)[0],
            rest.float(),
            steps=min(_STEPS, _STEPS_AN_UNKNOWN * points.numel()),
            tol=_TOL,
            goes_on=self._goes_on,
        )
        moved_by: Tensor = (inverse @ step).double()
        return moved_by

    def _goes_on(self) -> bool:
        self.cut_short = self.cut_short or not self._asked()
        return not self.cut_short

    def _model(self, tail: Tail, kind: torch.dtype) -> Flat:
        """``P [b, b]`` to the update ``[r]``; all of it in ``kind``."""
        layer = self.mixture.layer
        heights = layer.heights(self.mixture.factors.right).to(kind)  # [m, b]
        bias, weights = layer.bias.to(kind), self.weights.to(kind)

        def loss(free: dict[str, Tensor], outputs: Tensor) -> Tensor:
            logits, _ = vmap(tail.holding(free))(outputs)
            return (weights * cross_entropy(logits, self.labels, reduction="none")).sum()

        def update(points: Tensor) -> Tensor:
            free = {name: tail.state[name] for name in self.later}
            gradients, errors = grad(loss, argnums=(0, 1))(free, points @ heights.T + bias)
            flat: Tensor = self._flat([errors.T @ points, errors.sum(dim=0), *(gradients[n] for n in self.later)])
            return flat

        return update

    def _tensors(self, update: Mapping[str, Tensor]) -> list[Tensor]:
        """The first layer's weight gradient in the row space ``[m, b]``, its bias's, and those of all later tensors."""
        layer = self.mixture.layer
        weight = layer.read.matrix(update).double() @ self.mixture.factors.right.T
        return [weight, update[layer.bias_name].double(), *(update[name].double() for name in self.later)]

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([value.flatten() / size for value, size in zip(tensors, self.sizes, strict=True)])
