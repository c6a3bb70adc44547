"""One forward pass of a network, written down call by call without touching the network."""

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seepage.errors import InputError
from seepage.networks.functions import AFFINE, AFFINE_ARGUMENTS, ATTENTION, LIKE_ANOTHER, NEW_TENSORS, function_name

__all__ = ["Call", "Trace", "trace_forward"]

_BATCH = 7  # a prime: tells the batch apart from heads, tokens and channels, even once it is merged with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One function call that the network's input has gone into.

    Args:
        name: the function's name without underscores: ``linear``, ``relu``, ``add``.
        words: the name a reader knows it by: ``BatchNorm2d bn1``, or the function's name.
        takes: the values that go in, by number; the network's input is value 0.
        gives: the values that come out.
        parameters: what else goes in, by parameter name, directly or computed from parameters alone.
        weight: of an affine call, the weight parameter; ``None`` where the weight is no parameter as it stands.
        bias: of an affine call, the bias parameter.
        weight_shape: ``(outputs, inputs, *kernel)`` of an affine call.
        input_shape, output_shape: of an affine call, with the batch wherever it stands.
    """

    name: str
    words: str
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    parameters: frozenset[str]
    weight: str | None = None
    bias: str | None = None
    weight_shape: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()


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
    recorder = _Recorder(network, inputs)
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
        raise InputError(f"The network's output should be a tensor [b, classes]; found {found}.")
    last = recorder.values.get(id(output))
    return Trace(calls=tuple(recorder.calls), output=last, classes=output.shape[1], batch=len(inputs))


class _Recorder(TorchFunctionMode):
    """Sees every torch function in the order called. A value is a tensor that the network's input has gone into."""

    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.modules: list[tuple[str, nn.Module]] = []
        self.values = {id(inputs): 0}
        self._fresh = itertools.count(1)
        self._alive: list[Tensor] = [inputs]  # an id stays unique only as long as its tensor lives
        self._parameters = {id(parameter): name for name, parameter in network.named_parameters()}
        self._origins = {identity: frozenset({name}) for identity, name in self._parameters.items()}
        for path, module in network.named_modules():
            if not isinstance(
                module, torch.jit.ScriptModule
            ):  # takes no hooks; its calls go unseen, and so unaccounted
                module.register_forward_pre_hook(self._entering(path), prepend=True)
                module.register_forward_hook(self._leaving)

    def _entering(self, path: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, _: self.modules.append((path, module))

    def _leaving(self, module: nn.Module, *_: object) -> None:
        # Not reached when forward raises: the top then is where it happened. What a network catches is popped later.
        while self.modules and self.modules.pop()[1] is not module:
            pass

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        # Before the call: an in-place function gives back one of the tensors that it takes.
        given = list(_tensors((args, kwargs)))[: 1 if name in LIKE_ANOTHER else None]
        takes = tuple(self.values[id(tensor)] for tensor in given if id(tensor) in self.values)
        parameters = self._parameters_of(given)
        result = func(*args, **kwargs)
        gives = [args[0]] if name == "setitem" else list(_tensors(result))
        self._alive += gives
        if name in NEW_TENSORS or name.startswith("new") or not gives:
            return result
        if not takes:  # computed from parameters and constants alone: whoever takes it takes those parameters
            if name in AFFINE:
                self._write(name, takes, gives, parameters)
            self._origins |= {id(tensor): parameters for tensor in gives} if parameters else {}
        elif name == ATTENTION:
            self._write_attention(
                takes, gives, inspect.signature(nn.functional.multi_head_attention_forward).bind(*args, **kwargs)
            )
        elif name in AFFINE:
            self._write_affine(name, takes, gives, {**dict(zip(AFFINE_ARGUMENTS, args, strict=False)), **kwargs})
        else:
            self._write(name, takes, gives, parameters)
        return result

    def _parameters_of(self, tensors: Sequence[Tensor | None]) -> frozenset[str]:
        return frozenset().union(*(self._origins.get(id(tensor), frozenset()) for tensor in tensors))

    def _write(
        self, name: str, takes: tuple[int, ...], gives: list[Tensor], parameters: frozenset[str], **affine: Any
    ) -> None:
        path, module = self.modules[-1] if self.modules else ("", None)
        leaf = module is not None and (name == ATTENTION or not any(module.children()))
        known = leaf and type(module).__module__.startswith("torch.nn.modules")
        numbers = tuple(next(self._fresh) for _ in gives)
        if takes:
            self.values |= {id(tensor): number for tensor, number in zip(gives, numbers, strict=True)}
        words = f"{type(module).__name__} {path}".strip() if known else name
        self.calls.append(Call(name=name, words=words, takes=takes, gives=numbers, parameters=parameters, **affine))

    def _write_affine(
        self, name: str, takes: tuple[int, ...], gives: list[Tensor], arguments: Mapping[str, Any]
    ) -> None:
        data, weight, bias = arguments["input"], arguments["weight"], arguments.get("bias")
        self._write(
            name,
            takes,
            gives,
            self._parameters_of([data, weight, bias]),
            weight=self._parameters.get(id(weight)),
            bias=self._parameters.get(id(bias)),
            weight_shape=tuple(weight.shape),
            input_shape=tuple(data.shape),
            output_shape=tuple(gives[0].shape),
        )

    def _write_attention(self, takes: tuple[int, ...], gives: list[Tensor], bound: inspect.BoundArguments) -> None:
        """Attention ends in a linear layer of its own, hidden inside the one call: two calls are written."""
        arguments = bound.arguments
        last = [arguments["out_proj_weight"], arguments["out_proj_bias"]]
        own = [tensor for tensor in _tensors(arguments) if all(tensor is not other for other in last)]
        mixed = gives[0].new_empty(*gives[0].shape[:-1], last[0].shape[1])  # what the heads hand to that layer
        self._alive.append(mixed)
        self._write(ATTENTION, takes, [mixed, *gives[1:]], self._parameters_of(own))
        taken = (self.values[id(mixed)],)
        self._write_affine("linear", taken, gives[:1], {"input": mixed, "weight": last[0], "bias": last[1]})


def _tensors(thing: object) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping | list | tuple):
        for part in thing.values() if isinstance(thing, Mapping) else thing:
            yield from _tensors(part)
