"""GIT's recursion solved at the server's own weights: convolutions too, no training, no labels, one example."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.inverters.fixedsize import refuse_size, size_obstacles
from seepage.attacks.recursion.chain import read_chain
from seepage.attacks.recursion.layersystem import LayerSystem, Moments, moments
from seepage.attacks.recursion.link import Link
from seepage.attacks.walk.distances import Squared
from seepage.attacks.walk.objective import Objective, make_objective
from seepage.networks.layers import Activation
from seepage.types import INTERRUPTED, Observation, Obstacle, Outcome, Progress, Reconstruction, Stats, go_on

__all__ = ["SolvedGIT"]

_MATCHED = 1e-5  # of the update's size: no other damping would do better
_LOOKED_AT = 1000  # public inputs that decide a layer's mean and covariance
_FIXED = "the recursion divides by one example"
_LARGEST = 4096  # numbers in the input of a convolution: the normal equations are dense


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolvedGIT:
    """From the logits back to the input, each layer's input solved for from what is known of it.

    With ``d = dLoss/dz`` of a layer's output ``z``, its input ``x`` fulfils ``gW = d * x`` (linear in ``x``), and, as
    the layer above has given ``act(z)``, also ``z = W x + bias`` (where the activation can be inverted). Both are
    solved together in float64, without negative entries where the input has come out of a ReLU; what they leave open
    is filled as a Gaussian with the mean and covariance of that layer's input over public data would be. Then
    ``d = (W^T d) * act'(x)`` of the layer below.

    Approximate: at a network whose equations determine every layer's input the result is right up to rounding, and
    the gradients' distance ``residual`` is small, but nothing certifies it. FAILED if its gradient is no nearer to the
    update than nothing would be.

    Args:
        public: ``[N, *shape]`` inputs as the network sees them; without them smooth noise stands in.
        dampings: weights of the public data's statistics against the equations, tried in this order; the one whose
            reconstruction matches the update best is kept.

    Reference:
        Gradient Inversion Transcript, arXiv 2505.20026, Exact-GIT, there learned from pairs; the equation of ``z`` is
        that of R-GAP (Zhu and Blaschko, ICLR 2021). The statistics are ours.
    """

    public: Tensor | None = None
    dampings: tuple[float, ...] = (1e-12, 1e-8, 1e-5, 1e-2)

    def __post_init__(self) -> None:
        if not self.dampings or not all(0 < damping < math.inf for damping in self.dampings):
            raise ValueError(f"`dampings` should be positive numbers, at least one; found {self.dampings}.")

    @property
    def name(self) -> str:
        """``solved-git``."""
        return "solved-git"

    def obstacles(self, observation: Observation) -> Sequence[Obstacle]:
        """It needs the plain gradient of one example at a chain of linear layers and convolutions."""
        latest, found = observation.latest, []
        if observation.rule is not None and not observation.rule.is_gradient:
            found.append(Obstacle(where=f"rule {observation.rule.name}", reason="sends no plain gradient."))
        found += size_obstacles(observation, 1, why=_FIXED)
        if self.public is not None and tuple(self.public.shape[1:]) != tuple(observation.input_shape):
            shapes = f"{list(observation.input_shape)}; found {list(self.public.shape[1:])}"
            found.append(Obstacle(where="public inputs", reason=f"should have the shape {shapes}."))
        chain = read_chain(latest.network, observation.input_shape)
        if isinstance(chain, Obstacle):
            return [*found, chain]
        for link in chain:
            names = [link.weight_name, *([link.bias_name] if link is chain[-1] else [])]
            missing = [name for name in names if name is None or name not in latest.update]
            if missing:
                reason = "the update should hold this layer's gradient, and the last layer's bias."
                found.append(Obstacle(where=link.weight_name, reason=reason))
            if link.is_convolution and math.prod(link.input_shape) > _LARGEST:
                reason = f"its input has {math.prod(link.input_shape)} numbers; at most {_LARGEST} are solved for."
                found.append(Obstacle(where=link.weight_name, reason=reason))
        return found

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress = go_on
    ) -> Reconstruction:
        """See the class."""
        latest = observation.latest
        update = {name: value.double() for name, value in latest.update.items()}
        dtype = next(iter(latest.update.values())).dtype
        objective = make_objective(observation, distance=Squared(), priors=(), dtype=torch.float64)
        if not any(bool(part.any()) for part in objective.target):
            return Reconstruction(outcome=Outcome.FAILED, reason="The update is zero everywhere: it holds nothing.")
        refused = refuse_size(observation, 1, why=_FIXED, generator=generator, progress=progress)
        if refused is not None:
            return refused
        chain = read_chain(objective.network, observation.input_shape)
        if isinstance(chain, Obstacle):
            raise ValueError(f"`obstacles` should be asked first; {chain.where}: {chain.reason}")
        public = self.public if self.public is not None else _smooth(observation, generator)
        statistics = _statistics(objective, chain, public)
        label = update[str(chain[-1].bias_name)].argmin()[None]
        best: tuple[float, Tensor, float] | None = None
        stopped = False
        for turn, damping in enumerate(self.dampings):
            inputs = _recursion(chain, update, statistics, damping).reshape(1, *observation.input_shape)
            if objective.bounds is not None:
                inputs = inputs.clamp(*objective.bounds)
            residual = objective.residual(inputs, label) if bool(inputs.isfinite().all()) else math.inf
            if best is None or residual < best[0]:
                best = residual, inputs, damping
            stopped = not progress(turn + 1, len(self.dampings), f"residual {best[0]:.1e}")
            if stopped or best[0] <= _MATCHED:
                break
        return _told(best, label, dtype, stopped=stopped)


def _told(
    best: tuple[float, Tensor, float] | None, label: Tensor, dtype: torch.dtype, *, stopped: bool
) -> Reconstruction:
    stats: Stats = {} if best is None else {"residual": best[0], "damping": best[2]}
    if stopped:
        stats["stopped"] = INTERRUPTED
    if best is None or not best[0] < 1:
        reason = "Its gradient is no nearer to the update than nothing: more than one example, or a noised update."
        return Reconstruction(outcome=Outcome.FAILED, reason=reason, stats=stats)
    return Reconstruction(
        outcome=Outcome.APPROXIMATE,
        inputs=best[1].to(dtype),
        labels=label,
        certified=torch.zeros(1, dtype=torch.bool),
        reason=f"Its gradient differs from the update by {best[0]:.1e} of its size, which proves nothing.",
        stats=stats,
    )


def _statistics(objective: Objective, chain: Sequence[Link], public: Tensor) -> dict[str, Moments]:
    """Of the input of each convolution; a linear layer's needs none."""
    seen: dict[str, Tensor] = {}
    x = public[:_LOOKED_AT].to(objective.target[0])
    with torch.no_grad():
        for link in chain:
            x = x.reshape(len(x), *link.input_shape)
            if link.is_convolution:
                seen[link.weight_name] = x.flatten(1)
            x = link.activate(link.forward(x))
    return {name: moments(rows) for name, rows in seen.items()}


def _recursion(
    chain: Sequence[Link], update: dict[str, Tensor], statistics: dict[str, Moments], damping: float
) -> Tensor:
    """The network's input, flat."""
    zero = max(1e-5, math.sqrt(damping))  # below this share of the largest, an output of ReLU was zero
    errors = update[str(chain[-1].bias_name)]
    outputs: Tensor | None = None  # of the layer, after its activation; unknown for the logits
    for link, below in zip(chain[::-1], [*chain[-2::-1], None], strict=True):
        gradient = update[link.weight_name]
        if link.is_convolution:
            assert outputs is not None, "a chain ends with a linear layer"
            known, there = _before(link.activation, outputs, zero)
            inputs = LayerSystem(
                link=link,
                gradient=gradient,
                errors=errors,
                outputs=known,
                there=there,
                statistics=statistics[link.weight_name],
                nonnegative=below is not None and below.activation is Activation.RELU,
            ).solved(damping)
        else:
            errors = update.get(str(link.bias_name), errors)
            inputs = gradient.T @ errors / errors.square().sum().clamp_min(1e-60)
        if below is not None:
            errors = link.transposed(errors).flatten() * _slope(below.activation, inputs, zero)
        outputs = inputs
    assert outputs is not None
    return outputs


def _before(activation: Activation, outputs: Tensor, zero: float) -> tuple[Tensor, Tensor]:
    """What entered an activation, and where that can be said."""
    everywhere = torch.ones_like(outputs, dtype=torch.bool)
    if activation is Activation.SIGMOID:
        return outputs.clamp(1e-6, 1 - 1e-6).logit(), everywhere
    if activation is Activation.TANH:
        return outputs.clamp(1e-6 - 1, 1 - 1e-6).atanh(), everywhere
    if activation is Activation.RELU:
        return outputs, outputs > zero * outputs.max()
    return outputs, everywhere


def _slope(activation: Activation, outputs: Tensor, zero: float) -> Tensor:
    if activation is Activation.SIGMOID:
        return outputs * (1 - outputs)
    if activation is Activation.TANH:
        return 1 - outputs.square()
    if activation is Activation.RELU:
        return (outputs > zero * outputs.max()).to(outputs.dtype)
    return torch.ones_like(outputs)


def _smooth(observation: Observation, generator: torch.Generator) -> Tensor:
    """``[N, *shape]`` noise, for images with the spectrum of natural ones and like channels."""
    shape = observation.input_shape
    noise = torch.randn((_LOOKED_AT, *shape), dtype=torch.float64, generator=generator, device=generator.device)
    if len(shape) == 3:
        noise = 0.95 * noise[:, :1] + 0.3 * noise
        down, across = torch.fft.fftfreq(shape[1])[:, None], torch.fft.rfftfreq(shape[2])[None]
        size = (down.square() + across.square()).sqrt().clamp_min(1 / max(shape[1:])).to(noise)
        noise = torch.fft.irfft2(torch.fft.rfft2(noise) / size, s=tuple(shape[1:]))
    noise = noise / noise.std()
    if observation.bounds is None:
        return noise
    low, high = (bound.to(noise) for bound in observation.bounds)
    return ((low + high) / 2 + (high - low) * 0.25 * noise).clamp(low, high)
