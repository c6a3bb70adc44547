"""From a capture to an observation: what the server has, and nothing else."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from seepage.audit.captures.claimed import claimed_rule
from seepage.errors import InputError
from seepage.federated.storage import Capture, Sign, UpdateKind
from seepage.types import GradientUpdate, Observation, Round, UpdateRule

__all__ = ["observe"]


def observe(
    capture: Capture,
    network: nn.Module,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    stated: UpdateRule | None = None,
) -> Observation:
    """What the server has, from a capture, and from what its user says of the client.

    Args:
        capture: a gradient, a difference of weights, or weights before and after.
        network: of the right architecture; its weights count where the capture holds no state of its own.
        input_shape: the shape of one input.
        classes: how many classes the network tells apart.
        stated: the client's rule by the user's word. See :func:`seepage.audit.captures.claimed.claimed_rule`.

    Raises:
        InputError: a tensor is not the network's, or of another shape, or the stated rule contradicts the capture; the
            message names it.
    """
    rule = claimed_rule(capture.header, stated)
    sent: Mapping[str, Tensor] = capture.gradient() if rule is None else _uphill(capture)
    dtype = next(iter(sent.values())).dtype
    server = copy.deepcopy(network).to(dtype)
    if capture.before:
        _put(server, capture)
    parameters, state = dict(server.named_parameters()), server.state_dict()
    for name, tensor in sent.items():
        if name not in state:  # differences hold buffers as well
            raise InputError(f"The update's `{name}` should be a parameter of the network; found no such parameter.")
        if name in parameters and tensor.shape != parameters[name].shape:
            raise InputError(
                f"The update's `{name}` should have shape {list(parameters[name].shape)}; found {list(tensor.shape)}."
            )
    update = GradientUpdate({name: tensor.to(dtype) for name, tensor in sent.items() if name in parameters})
    if not update:
        raise InputError("The update should hold a parameter of the network; found none.")
    size = capture.header.batch_size
    if rule is not None:
        update = rule.as_gradient(update, network=server, batch_size=size)
    rounds = (Round(network=server, update=update, batch_size=size),)
    return Observation(rounds=rounds, input_shape=input_shape, classes=classes, rule=rule)


def _uphill(capture: Capture) -> dict[str, Tensor]:
    """The update with the sign of a gradient: of weights, before minus after."""
    if capture.header.kind is UpdateKind.PAIR:
        floating = {name: tensor for name, tensor in capture.before.items() if tensor.is_floating_point()}
        return {name: tensor - capture.after[name] for name, tensor in floating.items()}
    turn = -1.0 if capture.header.sign is Sign.AFTER_MINUS_BEFORE else 1.0
    return {name: turn * tensor for name, tensor in capture.update.items()}


def _put(server: nn.Module, capture: Capture) -> None:
    """The captured state into the network: every parameter of it, and no others."""
    state = server.state_dict()
    odd = sorted(set(state) ^ set(capture.before))
    if odd:
        where = "the capture" if odd[0] in state else "the network"
        raise InputError(
            "The captured state should be that of the network; "
            f"found `before/{odd[0]}` missing in {where}: is it another network?"
        )
    for name, tensor in capture.before.items():
        if tensor.shape != state[name].shape:
            raise InputError(
                f"`before/{name}` should have shape {list(state[name].shape)}, as in the network; "
                f"found {list(tensor.shape)} in the capture."
            )
    server.load_state_dict(capture.before)
