"""Evidence, from what the server has alone, that reconstructed inputs are the client's own.

Four facts are asked of every example, none of which holds for an arbitrary factorisation of the gradient:

1. *Agreement*: its error is zero exactly at the units that the reconstructed input switches off.
2. *Pinned*: those units determine its direction with units to spare (:func:`seepage.linalg.nullspace.pinned`), so that
   it is no combination of several examples; a pair of examples that switch on the same units fails here. Where one of
   these units is indispensable, nothing less than the replay of the whole batch takes its place.
3. *Undisturbed*: where the first two fail for other examples of the batch, the directions in their place hold none of
   this example, so that it comes out the same whatever they should have been (:func:`undisturbed`).
4. *Replay*, where the update is a plain gradient: for one label, the network itself, run on the reconstructed input,
   gives the error back, and the gradient recomputed from all of them equals the update. Where it cannot be run, the
   first three certify only what :mod:`seepage.attacks.warrant` lets them.

All of them suppose that the bias gradient, which sets the scales, is the sum of the errors: it lies in their span
(:meth:`seepage.attacks.mixture.Mixture.explains_bias`), and where the replay runs it is no multiple of the sum either
(:func:`scale_is_known`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import poisson
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from seepage.attacks.recomputed import Batch, update_gap, within_rounding
from seepage.attacks.relulayer import ReLULayer
from seepage.types import Observation

__all__ = ["Agreement", "Replay", "agree", "explains_all", "replay", "scale_is_known", "undisturbed"]

_ERRORS_AT_ONCE = 2048  # replayed in one pass, examples times labels: each pass reads all weights
_CHANCE = 1e-5  # that a true example has more errors below the tolerance than are forgiven
_WHOLE = 1e-3  # relative distance of the whole batch's gradient from the update
_OTHER_SCALE, _TELLING = 1.1, 10.0  # a wrong scale, and how many tolerances away the error has to be there
_SHARE = 1e-3  # relative distance of a share of the loss from one example's
_AT_A_KINK = 1e-4  # relative distance of a replayed error beyond which a deeper unit may have fallen the other way

State = dict[str, Tensor]
ErrorOf = Callable[[Tensor, Tensor], Tensor]  # (one example, its label) -> its error [m]
Loss = Callable[[State, Tensor, Tensor, Tensor], Tensor]  # (free parameters, examples, labels, weights) -> scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Fact 1 for ``k`` examples.

    Args:
        score: ``[k]`` share of units where zeros and switched-off units agree; 1 explains everything.
        holds: ``[k]`` bool: no unit that is clearly off has an error, and of those that are clearly on no more have
            none than fall below the tolerance by chance (one; two or three in layers of thousands of units).
    """

    score: Tensor
    holds: Tensor


def agree(errors: Tensor, preactivations: Tensor, *, zero_tol: float | Tensor, margin: float = 1e-4) -> Agreement:
    """Sparsity matching (SPEAR, section 4.3) of ``errors [k, m]`` with ``preactivations [k, m]``.

    Args:
        errors: reconstructed ``dZ``, one row an example.
        preactivations: ``Z`` from the reconstructed inputs.
        zero_tol: an error counts as zero up to this share of its row's root mean square; one for all, or one for each,
            ``[k]``.
        margin: a pre-activation counts as clearly on or off beyond this share of its row's root mean square.
    """
    size = errors.abs() / _rms(errors)
    height = preactivations / _rms(preactivations)
    tols = torch.as_tensor(zero_tol, dtype=errors.dtype, device=errors.device).expand(len(errors))[:, None]
    unexplained = (size > 10 * tols) & (height < -margin)
    silent = (size <= tols) & (height > margin)
    by_chance = poisson.isf(_CHANCE, 0.3 * tols[:, 0].cpu().numpy() * errors.shape[1])
    silent_by_chance = torch.as_tensor(by_chance, device=errors.device).clamp_min(1)
    holds = ~unexplained.any(dim=1) & (silent.sum(dim=1) <= silent_by_chance)
    return Agreement(score=1 - (unexplained | silent).double().mean(dim=1), holds=holds)


def undisturbed(zeros: Tensor, *, doubtful: Tensor) -> Tensor:
    """Fact 3: which examples come out right although some directions of the batch are wrong.

    ``x_i`` is fixed by being orthogonal (in the dual basis) to the span of all directions but its own. Where the
    doubtful ones span what the missing examples span, they all vanish on every unit that none of these switches on,
    whatever example ``i`` does there. Where they hold a part of ``q_i`` they can vanish on a unit that ``i`` switches
    on by accident only, and a direction has fewer than ``b`` accidents to give.

    Args:
        zeros: ``[b, m]`` bool, where each direction vanishes.
        doubtful: ``[b]`` bool, the directions that are not known to be true.

    Returns:
        ``[b]`` bool; all true if nothing is doubtful.
    """
    if not bool(doubtful.any()):
        return torch.ones_like(doubtful)
    silent = zeros[doubtful].all(dim=0)  # [m]
    return (~zeros & silent).sum(dim=1) >= len(zeros)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Fact 4 for ``k`` examples.

    Args:
        labels: ``[k]`` the label whose error matches best.
        weights: ``[k]`` each example's share of the loss: ``1 / b`` times how often it is in the batch.
        residual: ``[k]`` relative distance of the replayed error from the disaggregated one.
        elsewhere: ``[k]`` the same for inputs of another scale; near ``residual`` where the error tells no scale.
        update_residual: relative distance of the gradient of the whole reconstructed batch from the update.
    """

    labels: Tensor
    weights: Tensor
    residual: Tensor
    elsewhere: Tensor
    update_residual: float


def scale_is_known(found: Replay, *, sure: Tensor, tolerance: Tensor, sizes: Sequence[int]) -> bool:
    """Whether more than the bias gradient says that inputs have this scale and no other, which is one for all.

    A client that clips each tensor by itself, or gives biases a learning rate of their own, multiplies the bias
    gradient. With two classes and one hidden layer no error has a direction that notices. One of three has to hold: the
    gradient of the whole batch equals the update; the error of some example would be another at another scale; each
    example has the share of the loss that is one example's.

    Args:
        found: the replay of ``k`` examples.
        sure: ``[k]`` bool, those that all else speaks for.
        tolerance: ``[k]`` of their replayed errors.
        sizes: batch sizes that may be the client's.
    """
    if found.update_residual <= _WHOLE or not bool(sure.any()):
        return True
    if bool((found.elsewhere[sure] > _TELLING * tolerance[sure]).any()):
        return True
    return any(bool(((found.weights[sure] * size - 1).abs() <= _SHARE).all()) for size in sizes)


def explains_all(found: Replay, *, sure: Tensor) -> bool:
    """Whether all replayed examples are ``sure [k]`` bool, and together the whole update and the whole loss."""
    return bool(sure.all()) and found.update_residual <= _WHOLE and abs(float(found.weights.sum()) - 1) <= _WHOLE


def replay(
    observation: Observation, layer: ReLULayer, inputs: Tensor, errors: Tensor, *, generator: torch.Generator
) -> Replay | str:
    """Run the network on reconstructed inputs and compare errors and gradients; or say why that is not possible.

    Args:
        observation: its latest round gives the network and the update.
        layer: the attacked layer.
        inputs: ``[k, n]`` float64 inputs of ``layer``.
        errors: ``[k, m]`` float64 disaggregated ``dZ``.
        generator: draws variants of examples within rounding.
    """
    if observation.rule is None or not observation.rule.is_gradient:
        return "the update is not known to be a plain gradient"
    if not layer.reads_input:
        return "the attacked layer is not the first: its inputs cannot be fed to the network"
    network = observation.latest.network
    state = {name: value.detach() for name, value in (*network.named_parameters(), *network.named_buffers())}
    dtype = layer.weight.dtype
    examples = inputs.to(dtype, copy=True).reshape(-1, *observation.input_shape)
    known = observation.latest.labels
    classes = torch.arange(observation.classes) if known is None else torch.unique(known)
    classes = classes.to(inputs.device)

    def loss(free: State, batch: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        logits = functional_call(network, {**state, **free}, (batch,))
        return (weights * cross_entropy(logits, labels, reduction="none")).sum()

    error_of = _error_of(loss, state, layer, dtype)
    try:
        best, shares, residuals = _best_labels(error_of, examples, classes, errors)
        for index in (residuals > _AT_A_KINK).nonzero().flatten().tolist():
            examples[index], shares[index], residuals[index] = _at_a_kink(
                error_of, examples[index], best[index], errors[index], generator
            )
        other = vmap(error_of, chunk_size=_ERRORS_AT_ONCE)(_OTHER_SCALE * examples, best)
        batch = Batch(examples=examples, labels=best, weights=shares, errors=errors)
        gap = update_gap(observation, layer, batch, generator)
    # Batch norm or dropout in training mode: one example alone is not what was run, and may be refused.
    except (RuntimeError, ValueError) as raised:
        return f"the network cannot be run on one example at a time ({str(raised).splitlines()[0][:120]})"
    elsewhere, _ = _compare(other, errors)
    return Replay(labels=best, weights=shares, residual=residuals, elsewhere=elsewhere, update_residual=gap)


def _best_labels(error_of: ErrorOf, examples: Tensor, classes: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``k`` examples the label whose error matches best, its share of the loss, and the residual."""
    per_label = vmap(vmap(error_of, in_dims=(None, 0), chunk_size=_ERRORS_AT_ONCE), in_dims=(0, None))
    found = []
    for part, error in zip(
        *(torch.split(rows, max(1, _ERRORS_AT_ONCE // len(classes))) for rows in (examples, errors)), strict=True
    ):
        distance, weight = _compare(per_label(part, classes), error[:, None])
        least = distance.min(dim=1)
        found.append((classes[least.indices], weight.gather(1, least.indices[:, None])[:, 0], least.values))
    labels, weights, residuals = (torch.cat(parts) for parts in zip(*found, strict=True))
    return labels, weights, residuals


def _at_a_kink(
    error_of: ErrorOf, example: Tensor, label: Tensor, error: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The variant of the example within rounding that replays ``error [m]`` best, its share, and the residual."""
    variants = within_rounding(example, generator)
    distance, weight = _compare(vmap(error_of, in_dims=(0, None))(variants, label), error)
    best = int(distance.argmin())
    return variants[best], weight[best], distance[best]


def _error_of(loss: Loss, state: State, layer: ReLULayer, dtype: torch.dtype) -> ErrorOf:
    """The error ``[m]`` of one example with one label: the gradient of the layer's bias from it alone."""
    bias = {layer.bias_name: state[layer.bias_name]}
    one = torch.ones(1, dtype=dtype, device=layer.bias.device)

    def error_of(example: Tensor, label: Tensor) -> Tensor:
        gradients: State = grad(loss)(bias, example[None], label[None], one)
        return gradients[layer.bias_name]

    return error_of


def _compare(simulated: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Relative distance of ``error [..., m]`` from the nearest positive multiple of ``simulated [..., m]``."""
    simulated = simulated.double()
    weight = (simulated * error).sum(dim=-1) / simulated.square().sum(dim=-1).clamp_min(1e-300)
    distance = (error - weight[..., None] * simulated).norm(dim=-1) / error.norm(dim=-1)
    return torch.where((weight > 0) & distance.isfinite(), distance, torch.inf), weight


def _rms(rows: Tensor) -> Tensor:
    return rows.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-300)
