"""Labels of a client that took several local steps, from the two states between which it moved."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from seepage.attacks.labelcounts import estimate
from seepage.attacks.labels import LastLayer, silent, usable
from seepage.errors import InputError
from seepage.types import GradientUpdate, Observation, Reconstruction, Round

__all__ = ["counts_between", "restore_between"]


def restore_between(
    before: nn.Module,
    after: nn.Module,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    examples: int,
    travelled: float,
    points: int = 11,
) -> Reconstruction:
    """Estimated labels of all examples that a FedAvg client holds; it visits each equally often, by plain SGD.

    For networks near their initial state, as :class:`PooledEmbedding`. Where the probabilities turn on the way (large
    steps, many epochs) the estimate is poor; its expected error does not know of it.

    Args:
        before: the state sent out.
        after: the state sent back, with the same parameters.
        input_shape: of one input.
        classes: how many there are.
        examples: the client's examples.
        travelled: learning rate times the number of local steps.
        points: states along the line at which the probabilities are averaged, both ends included.

    Raises:
        InputError: the states differ in their parameters, there is no last layer to read, or a number is out of range.
    """
    if not travelled > 0 or examples < 1 or points < 2:
        raise InputError(
            f"`travelled` should be positive, `examples` at least 1 and `points` at least 2; "
            f"found {travelled}, {examples} and {points}."
        )
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    if {name: value.shape for name, value in old.items()} != {name: value.shape for name, value in new.items()}:
        raise InputError("`after` should have the parameters of `before`; found others, or other shapes.")
    update = GradientUpdate({name: (value - new[name]).detach() / travelled for name, value in old.items()})
    view = Observation(
        rounds=(Round(network=before, update=update, batch_size=examples),), input_shape=input_shape, classes=classes
    )
    layer = usable(view)
    if not layer.has_bias:
        raise InputError(f"`before` should end in a layer with a bias; found {layer.name} without.")
    failed = silent(layer, "between")
    return failed or estimate(counts_between(layer, travelled, points=points), examples, method="between")


def counts_between(layer: LastLayer, travelled: float, *, points: int = 11) -> Tensor:
    """``[C]``: ``n = K (p - gb)`` with ``p`` at the pooled embedding, averaged along the line between the states.

    Args:
        layer: at the state sent out, with the mean gradient of all steps and the number of examples.
        travelled: learning rate times steps: how far the state went along that gradient.
        points: states at which the probabilities are averaged.
    """
    if layer.examples is None:
        raise InputError("`layer` should know the number of examples; found None.")
    mu = layer.gW.T @ layer.gb / layer.gb.square().sum()
    p = torch.zeros_like(layer.gb)
    for share in torch.linspace(0, travelled, points).tolist():
        p += replace(layer, W=layer.W - share * layer.gW, b=layer.b - share * layer.gb).probabilities(mu) / points
    return layer.examples * (p - layer.gb)
