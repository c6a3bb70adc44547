"""What every rule does around its gradients: a copy of the network in the right mode, chance, statistics, checks."""

import copy
import enum
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seepage.errors import InputError

__all__ = ["BatchNorm", "chance", "client_copy", "demand", "statistics_change"]

_Norm = nn.modules.batchnorm._BatchNorm  # the one base of all batch norms


class BatchNorm(enum.StrEnum):
    """How batch norm runs at the client: as the network was sent, on the batch's statistics, or on the running ones."""

    AS_SENT = "as-sent"
    TRAIN = "train"
    EVAL = "eval"


def client_copy(network: nn.Module, batch_norm: BatchNorm) -> nn.Module:
    """A copy of the network that the client may change, its batch norms in the mode asked for.

    Raises:
        InputError: none of its parameters is trained.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("The network should have a parameter that is trained; found none with `requires_grad`.")
    client = copy.deepcopy(network)
    client.register_forward_pre_hook(_on_copies)  # a network that works in place would change the client's data
    if batch_norm is not BatchNorm.AS_SENT:
        for module in client.modules():
            if isinstance(module, _Norm):
                module.train(batch_norm is BatchNorm.TRAIN)
    return client


def _on_copies(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(one.clone() for one in given)


@contextmanager
def chance(generator: torch.Generator) -> Iterator[None]:
    """Whatever draws inside (dropout) draws from ``generator``; the global state comes back as it was."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        yield


def statistics_change(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """Floating-point buffers, before minus after, keyed as ``named_buffers()``."""
    ended = dict(after.named_buffers())
    return {name: (value - ended[name]).detach() for name, value in before.named_buffers() if value.is_floating_point()}


def demand(name: str, value: float, *, least: float, strictly: bool = False, most: float = math.inf) -> None:
    """Refuse an option outside its range.

    Raises:
        InputError: it names the option, the range and the value.
    """
    if not (least < value <= most or (value == least and not strictly)) or math.isinf(value):
        bound = f"above {least}" if strictly else f"at least {least}"
        upper = "" if math.isinf(most) else f" and at most {most}"
        raise InputError(f"`{name}` should be {bound}{upper}; found {value}.")
