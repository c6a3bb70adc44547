"""Captures in a plain training loop: a context manager around a torch optimizer."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from seepage.errors import InputError
from seepage.federated.fedavg import FedAvg
from seepage.federated.sinks import HeldBack, Known, Sink, decide
from seepage.federated.storage import Capture, UpdateKind
from seepage.networks.auditable import unwrapped

__all__ = ["capture_round", "capture_steps", "gradient_capture", "rule_of"]


@contextmanager
def capture_steps(
    optimizer: Optimizer, network: nn.Module, sink: Sink, *, known: Known | None = None, first_round: int = 0
) -> Iterator[None]:
    """Within it every ``optimizer.step()`` first hands its gradient and the network's state to ``sink``.

    For clients that send gradients. Gradients are taken as the optimizer finds them: accumulated, clipped and unscaled
    by then. Where the sink says no, ``step()`` raises and the parameters stay as they were.

    Args:
        optimizer: any whose ``step`` gets no closure.
        network: whose parameters it moves; of a wrapper (compiled, data-parallel) what is within is captured.
        sink: for example a ``BundleFolder`` or a ``LeakGate``.
        known: what to write of the client.
        first_round: number of the first step; later ones count up.

    Raises:
        HeldBack: from ``step()``; also if the sink broke.
        InputError: from ``step()``, if it is given a closure or there is no gradient.
    """
    about, number = known or Known(), first_round

    def before_step(_: Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal number
        if any(argument is not None for argument in (*arguments[1:], named.get("closure"))):
            raise InputError("`step` should get no closure where its gradient is captured; found one.")
        decision = decide(sink, gradient_capture(network, about, number=number, rule="fedsgd"))
        if not decision.release:
            raise HeldBack(f"The gradient of round {number} was held back: {decision.reason.rstrip('.')}.")
        number += 1

    handle = optimizer.register_step_pre_hook(before_step)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def capture_round(
    optimizer: Optimizer, network: nn.Module, sink: Sink, *, known: Known | None = None, number: int = 0
) -> Iterator[None]:
    """Hands the weights before and after to ``sink`` when it is left; learning rate and steps are counted along.

    For clients that train locally and send weights or differences (FedAvg). Send after the ``with``: where the sink
    says no, leaving it raises.

    Args:
        optimizer: SGD for an exact gradient; weight decay is written down, and momentum that starts from none. Others
            are captured under their name.
        network: whose parameters it moves; of a wrapper (compiled, data-parallel) what is within is captured.
        sink: for example a ``BundleFolder`` or a ``LeakGate``.
        known: what to write of the client.
        number: of the round.

    Raises:
        HeldBack: on leaving; also if the sink broke.
        InputError: on leaving, if no step was taken.
    """
    network = unwrapped(network)
    before = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    fresh, rates = not any(optimizer.state.values()), list[float]()

    def after_step(stepped: Optimizer, _: tuple[Any, ...], __: dict[str, Any]) -> None:
        found = {float(group["lr"]) for group in stepped.param_groups}
        rates.append(found.pop() if len(found) == 1 else float("nan"))

    handle = optimizer.register_step_post_hook(after_step)
    try:
        yield
    finally:
        handle.remove()
    if not rates:
        raise InputError("`optimizer` should take a step within the round that is captured; found none.")
    mean = sum(rates) / len(rates)  # NaN where groups of parameters differ: then there is no one rate
    written = _written(optimizer, rates) if fresh else None
    header = (known or Known()).header(
        UpdateKind.PAIR,
        rule=rule_of(optimizer) if written is None else written.name,
        learning_rate=mean if mean > 0 else None,
        local_steps=len(rates),
        number=number,
    )
    decision = decide(sink, Capture(header=header, before=before, after=network.state_dict()))
    if not decision.release:
        raise HeldBack(f"The update of round {number} was held back: {decision.reason.rstrip('.')}.")


def gradient_capture(network: nn.Module, known: Known, *, number: int, rule: str) -> Capture:
    """The gradients that the network's parameters hold now, and its state.

    Raises:
        InputError: no parameter has a gradient.
    """
    network = unwrapped(network)
    update = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    if not update:
        raise InputError("The network's parameters should have gradients at `step`; found none.")
    header = known.header(UpdateKind.GRADIENT, rule=rule, learning_rate=None, local_steps=1, number=number)
    return Capture(header=header, update=update, before=network.state_dict())


def _written(optimizer: Optimizer, rates: list[float]) -> FedAvg | None:
    """Momentum and weight decay in numbers, for a server can undo them; ``None`` without them, or with more to it."""
    groups, extras = optimizer.param_groups, ("momentum", "weight_decay")
    if not isinstance(optimizer, torch.optim.SGD) or len(set(rates)) > 1 or not 0 < rates[0] < math.inf:
        return None
    found = [{float(group[name]) for group in groups} for name in extras]
    more = any(group.get(name) for group in groups for name in ("dampening", "nesterov", "maximize"))
    if more or any(len(values) > 1 for values in found):
        return None
    momentum, decay = (values.pop() for values in found)
    if not (momentum or decay) or momentum >= 1:
        return None
    return FedAvg(epochs=len(rates), lr=rates[0], momentum=momentum, weight_decay=decay)


def rule_of(optimizer: Optimizer) -> str:
    """``sgd`` for a step that is minus learning rate times gradient, else the optimizer's class and what it adds."""
    extras = ("momentum", "weight_decay", "nesterov", "maximize")
    found = sorted({name for group in optimizer.param_groups for name in extras if group.get(name)})
    name = type(optimizer).__name__.lower()
    plain = isinstance(optimizer, torch.optim.SGD) and not found
    return "sgd" if plain else " with ".join([name, ", ".join(found)] if found else [name])
