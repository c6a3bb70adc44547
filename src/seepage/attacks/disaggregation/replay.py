"""The network run on reconstructed inputs, and what that proves of them: fact 4 of the certificate."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy

from seepage.attacks.disaggregation.attackedlayer import AttackedLayer
from seepage.attacks.disaggregation.recomputed import Batch, update_gap, within_rounding
from seepage.networks.calling import call_with
from seepage.types import Observation

__all__ = ["Replay", "explains_all", "lone", "replay", "scale_is_known"]

_ERRORS_AT_ONCE = 2048  # replayed in one pass, examples times labels: each pass reads all weights
_WHOLE = 1e-3  # relative distance of the whole batch's gradient from the update
_OTHER_SCALE, _TELLING = 1.1, 10.0  # a wrong scale, and how many tolerances away the error has to be there
_SHARE = 1e-3  # relative distance of a share of the loss from one example's
_AT_A_KINK = 1e-4  # relative distance of a replayed error beyond which a deeper unit may have fallen the other way

State = dict[str, Tensor]
ErrorOf = Callable[[Tensor, Tensor], Tensor]  # (one example, its label) -> its error [m]
Loss = Callable[[State, Tensor, Tensor, Tensor], Tensor]  # (free parameters, examples, labels, weights) -> scalar


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


def lone(found: Replay, *, sure: Tensor, rank: int, announced: int | None) -> Tensor:
    """Which examples are one example of the client's and not the mean of several, ``[k]`` bool.

    Examples with parallel errors are one in the update: copies, near-copies whose errors differ by less than rounding,
    and with two classes any that switch on the same units. What comes out is their mean, pinned and replayed like an
    example, with a share of the loss that several have. As many traces as the client announced examples rule it
    out. A size that is not announced is taken from the shares; that all examples were merged alike they cannot exclude.

    Args:
        found: the replay of ``k`` examples.
        sure: ``[k]`` bool, those that all else speaks for.
        rank: how many traces the update holds.
        announced: how many examples the client says it has, ``None`` if it does not.

    Reference:
        docs/decisions/0014-means.md.
    """
    if announced == rank:
        return torch.ones_like(sure)
    sizes = found.weights.clamp_min(1e-9).reciprocal()  # [k], each if it is one example
    whole = (sizes / sizes.round().clamp_min(1) - 1).abs() <= _SHARE
    if announced is None:
        likely = Counter(sizes[sure & whole & (sizes.round() >= rank)].round().tolist())
        size = max(likely, key=lambda one: (likely[one], one), default=torch.inf)
    else:
        size = announced
    return (sizes / size - 1).abs() <= _SHARE


def explains_all(found: Replay, *, sure: Tensor) -> bool:
    """Whether all replayed examples are ``sure [k]`` bool, and together the whole update and the whole loss."""
    return bool(sure.all()) and found.update_residual <= _WHOLE and abs(float(found.weights.sum()) - 1) <= _WHOLE


def replay(
    observation: Observation, layer: AttackedLayer, inputs: Tensor, errors: Tensor, *, generator: torch.Generator
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
        logits = call_with(network, {**state, **free}, batch)
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


def _error_of(loss: Loss, state: State, layer: AttackedLayer, dtype: torch.dtype) -> ErrorOf:
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
