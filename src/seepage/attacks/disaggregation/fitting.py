"""A whole batch fitted to the whole update: inputs that are nearly right moved until only rounding is left.

The notation is that of :mod:`seepage.attacks.disaggregation.mixture`; ``P [b, b]`` are inputs in the row space,
``X = P right``.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.disaggregation.mixture import Mixture
from seepage.attacks.disaggregation.precision import error_of_inputs, explains_bias
from seepage.attacks.disaggregation.replay import Replay, replay
from seepage.attacks.disaggregation.solution import Solution
from seepage.attacks.disaggregation.updatefit import UpdateFit
from seepage.types import Observation

__all__ = ["fitted"]

_NEAR = 0.1  # relative distance of every replayed error within which the linear steps begin
_MULTIPLE = 0.2  # relative distance of a share of the loss, of a faint example, from a multiple of one example's
_NO_FIT = "no shares of the loss, inputs and labels fit the whole update to its rounding"
_CUT_SHORT = "the fit to the whole update, without which nothing is evident, was cut short"


def fitted(
    observation: Observation,
    mixture: Mixture,
    solution: Solution,
    generator: torch.Generator,
    *,
    goes_on: Callable[[], bool] = lambda: True,
) -> Solution:
    """The solution with the inputs that fit all tensors of the update best, and what is left open of each.

    Directions that are the network's own errors are known to about 1e-6, and inputs, which divide by them, to that
    times the condition of the errors: of an example whose error is faint, or much like others', to per mille. The
    gradients of all layers know more: Gauss-Newton on ``b^2`` unknowns, each tensor weighed by its size, since rounding
    is a share of that. Errors are ``gW X^+`` from then on, the client's and not the network's: a replay compares two.

    What stays open is seen and not derived: the network itself, in the client's precision, is run on the fitted batch,
    moved at random as far as the fit has moved it, and that update is fitted from the same start. Without a fit, or
    with one that was cut short, nothing is evident.

    Args:
        observation: its latest round gives the network and the update.
        mixture: of the attacked layer, without noise.
        solution: with all directions known.
        generator: draws variants.
        goes_on: asked before each step; where it says no, the nearest inputs so far come back.

    Reference:
        docs/decisions/0017-fitted-batches.md.
    """
    if not bool(solution.evident.all()):
        return solution
    found = replay(observation, mixture.layer, solution.inputs, solution.errors, generator=generator)
    unproved = replace(solution, evident=torch.zeros_like(solution.evident), replayed=_NO_FIT)
    if not isinstance(found, Replay):
        return replace(unproved, replayed=found)
    shares = _shares(found.weights, observation.latest.batch_size)
    if shares is None or not bool((found.residual < _NEAR).all()):
        return unproved
    start = solution.inputs @ mixture.factors.right.T
    try:
        fit = UpdateFit(observation, mixture, found.labels, shares, goes_on)
        points = fit.towards(fit.update, start)
        left_open = fit.left_open(points, start, generator)
        closed = _closed(mixture, solution, points, left_open)
        return replace(closed, evident=unproved.evident, replayed=_CUT_SHORT) if fit.cut_short else closed
    except (RuntimeError, ValueError, NotImplementedError):  # what has no second derivative, or does not run in vmap
        return unproved


def _shares(weights: Tensor, announced: int | None) -> Tensor | None:
    """Shares of the loss ``[b]`` as multiples of one example's; ``None`` if they are not near any."""
    b = len(weights)
    sizes = torch.arange(b, 2 * b + 1) if announced is None else torch.tensor([announced])
    scaled = weights * sizes.to(weights)[:, None]  # [s, b]
    multiples = scaled.round().clamp_min(1)
    off = (scaled / multiples - 1).abs()
    best = int(off.median(dim=1).values.argmin())  # strong examples tell the size
    return multiples[best] / float(sizes[best]) if float(off[best].max()) <= _MULTIPLE else None


def _closed(mixture: Mixture, solution: Solution, points: Tensor, left_open: Tensor) -> Solution:
    factors = mixture.factors
    inputs = points @ factors.right
    mixing = factors.singular[:, None] * torch.linalg.inv(points)  # X = Q^-1 R
    errors = (factors.left @ mixing).T
    outside = error_of_inputs(mixture, mixing, inputs, replayed=torch.zeros_like(solution.evident))
    return replace(
        solution,
        inputs=inputs,
        errors=errors,
        evident=solution.evident & explains_bias(mixture, errors),
        input_error=(outside.square() + left_open.square()).sqrt(),
        error_tol=mixture.zero_tols(normalize(mixing.T, dim=1)),
    )
