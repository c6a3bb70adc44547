"""Opacus: captures what a DP-SGD client sends, after clipping and noise."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from torch import nn

from seepage.errors import InputError
from seepage.federated.sinks import HeldBack, Known, Sink, decide, refuse
from seepage.federated.storage import Capture, UpdateKind

__all__ = ["capture_private_steps"]

_PREFIX = "_module."  # of GradSampleModule


def capture_private_steps(
    optimizer: Any, network: nn.Module, sink: Sink, *, known: Known | None = None, first_round: int = 0
) -> Callable[[], None]:
    """From now on every step of an Opacus optimizer first hands its noised gradient to ``sink``.

    The batch size in the header is the *expected* one, by which Opacus divides: batches are drawn by Poisson. Where the
    sink says no, ``step()`` raises before the parameters move.

    Args:
        optimizer: an ``opacus.optimizers.DPOptimizer``, as made by ``PrivacyEngine.make_private``. A step hook that
            was attached before is called first.
        network: the ``GradSampleModule``, or the network inside it.
        sink: for example a ``BundleFolder`` or a ``LeakGate``.
        known: what to write of the client.
        first_round: number of the first step; later ones count up.

    Returns:
        A function that ends the capture and puts back the step hook that was there.

    Raises:
        InputError: Opacus is missing, or this is no optimizer of it.
        HeldBack: from ``step()``; also if the sink broke.
    """
    try:
        from opacus.optimizers import DPOptimizer
    except ImportError as error:
        raise InputError("Opacus should be installed for this hook (pip install 'seepage[dp]').") from error
    if not isinstance(optimizer, DPOptimizer):
        raise InputError(f"`optimizer` should be an Opacus DPOptimizer; found {type(optimizer).__name__}.")
    about, number, earlier = known or Known(), first_round, optimizer.step_hook

    def before_step(stepped: Any) -> None:
        nonlocal number
        if earlier is not None:
            earlier(stepped)
        try:
            capture = _capture(stepped, network, about, number)
        except Exception as error:
            decision = refuse(f"no capture could be made: {type(error).__name__}: {error}")
        else:
            decision = decide(sink, capture)
        if not decision.release:
            raise HeldBack(f"The gradient of round {number} was held back: {decision.reason.rstrip('.')}.")
        number += 1

    def end() -> None:
        optimizer.attach_step_hook(earlier)

    optimizer.attach_step_hook(before_step)
    return end


def _capture(optimizer: Any, network: nn.Module, known: Known, number: int) -> Capture:
    update = {_plain(name): value.grad for name, value in network.named_parameters() if value.grad is not None}
    expected = optimizer.expected_batch_size
    header = known.header(
        UpdateKind.GRADIENT,
        rule=_rule(optimizer.max_grad_norm, optimizer.noise_multiplier),
        learning_rate=None,
        local_steps=1,
        number=number,
        batch_size=known.batch_size if expected is None else int(expected),
        versions={"opacus": version("opacus")},
    )
    state = {_plain(name): tensor for name, tensor in network.state_dict().items()}
    return Capture(header=header, update=update, before=state)


def _rule(clip: Any, noise: float) -> str:
    """As the command line takes it; clipping of each layer by itself is no rule that it knows."""
    if isinstance(clip, int | float):
        return f"dpsgd:clip={float(clip)},noise={float(noise)}"
    return f"dpsgd with noise {noise:g}, clipping each layer at {clip}"[:200]


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX)
