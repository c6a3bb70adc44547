"""One forward pass of a network, written down call by call without touching the network."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seepage.errors import InputError
from seepage.networks.recorder import Call, Recorder

__all__ = ["Trace", "trace_forward"]

_BATCH = 7  # a prime: tells the batch apart from heads, tokens and channels, even once it is merged with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A forward pass: its calls in the order met, the value that is the output, its ``classes``, the ``batch`` used."""

    calls: tuple[Call, ...]
    output: int | None
    classes: int
    batch: int


def trace_forward(network: nn.Module, input_shape: tuple[int, ...]) -> Trace:
    """Follows one batch through a copy of the network, in the training or evaluation mode that it is in.

    The copy lives on the ``meta`` device. Where that cannot answer (control flow that depends on values, NumPy), a copy
    with the real weights is given uniform noise instead; of two branches, the one that the noise takes is then read.

    Raises:
        InputError: the forward pass fails for ``input_shape``, or its output is not ``[b, classes]``.
    """
    if not input_shape or any(size < 1 for size in input_shape):
        raise InputError(f"`input_shape` should hold positive sizes; found {list(input_shape)}.")
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    # Dropout of the copy may draw; the caller's random state is put back.
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            inputs = torch.empty(_BATCH, *input_shape, dtype=parameter.dtype, device="meta")
            return _follow(_copy(network, meta=True), inputs)
        except Exception:  # whatever the meta device cannot do, and whatever is wrong for real: the second try tells
            noise = torch.rand(_BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
            return _follow(_copy(network, meta=False), noise.to(parameter.device, parameter.dtype))


def _copy(network: nn.Module, *, meta: bool) -> nn.Module:
    memo: dict[int, Any] = {}
    try:
        for tensor in (*network.parameters(), *network.buffers()) if meta else ():
            # `.to("meta")` would tear tied parameters apart; deepcopy's memo keeps them tied and copies no numbers.
            empty = torch.empty_like(tensor, device="meta")
            own = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if own else empty
        return copy.deepcopy(network, memo)
    except Exception as error:
        raise InputError(f"The network should be copyable, so that reading it leaves it as it is; {error}") from error


def _follow(network: nn.Module, inputs: Tensor) -> Trace:
    recorder = Recorder(network, inputs)
    try:
        with recorder:
            output = network(inputs)
    except Exception as error:
        path, module = recorder.modules[-1] if recorder.modules else ("", network)
        place = f"layer `{path}` ({type(module).__name__})" if path else "its forward"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"The network should take inputs of shape {['b', *inputs.shape[1:]]}; {place} failed: {reason}."
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(inputs):
        found = f"shape {['b', *output.shape[1:]]}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"The network's output should be a tensor [b, classes]; found {found}: wrap it in a module that "
            "returns the logits."
        )
    last = recorder.values.get(id(output))
    return Trace(calls=tuple(recorder.calls), output=last, classes=output.shape[1], batch=len(inputs))
