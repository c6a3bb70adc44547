"""Labels of a client that took several local steps, from the two states between which it moved."""

import copy
from dataclasses import replace

import torch
from torch import nn

from seepage.attacks.labels.labelattack import silent
from seepage.attacks.labels.labelcounts import estimate
from seepage.attacks.labels.lastlayer import usable
from seepage.attacks.labels.pooled import pooled_probabilities
from seepage.errors import InputError
from seepage.types import GradientUpdate, LocalTraining, Observation, Reconstruction, Round

__all__ = ["network_after", "restore_between"]


def restore_between(
    before: nn.Module,
    after: nn.Module,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    examples: int,
    travelled: float,
) -> Reconstruction:
    """Estimated labels of all examples that a FedAvg client holds; it visits each equally often, by plain SGD.

    For who has the two states alone; where an observation names its rule, every label attack does the same by itself.

    For networks near their initial state, as :class:`PooledEmbedding`. Where the probabilities turn on the way (large
    steps, many epochs) the estimate is poor; its expected error does not know of it.

    Args:
        before: the state sent out.
        after: the state sent back, with the same parameters.
        input_shape: of one input.
        classes: how many there are.
        examples: the client's examples.
        travelled: learning rate times the number of local steps.

    Raises:
        InputError: the states differ in their parameters, there is no last layer to read, or a number is out of range.
    """
    if not travelled > 0 or examples < 1:
        raise InputError(f"`travelled` should be positive and `examples` at least 1; found {travelled} and {examples}.")
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
    if failed is not None:
        return failed
    layer = replace(layer, after=(layer.W - travelled * layer.gW, layer.b - travelled * layer.gb))
    return estimate(examples * (pooled_probabilities(layer) - layer.gb), examples, method="between")


def network_after(observation: Observation) -> nn.Module | None:
    """A copy of the latest round's network where the client's steps ended; ``None`` if it did not move."""
    latest, rule = observation.latest, observation.rule
    if rule is None or rule.is_gradient or not isinstance(rule, LocalTraining):
        return None
    moved = copy.deepcopy(latest.network)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if name in latest.update:
                end = rule.ended(parameter, latest.update[name], batch_size=latest.batch_size)
                if end is None:
                    return None
                parameter.copy_(end)
    return moved
