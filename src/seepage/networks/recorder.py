"""What each torch function of a forward pass was given and gave, in the author's words."""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seepage.networks.functions import AFFINE, ATTENTION, LIKE_ANOTHER, NEW_TENSORS, function_name
from seepage.networks.products import Product, Weights
from seepage.networks.rectifiers import Rectifiers

__all__ = ["Call", "Recorder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One function call that the network's input has gone into.

    Args:
        name: the function's name without underscores: ``linear``, ``relu``, ``add``.
        words: the name a reader knows it by: ``BatchNorm2d bn1``, or the function's name.
        takes: the values that go in, by number; the network's input is value 0.
        gives: the values that come out.
        parameters: what else goes in, by parameter name, directly or computed from parameters alone.
        place: the function's name, and how many calls of that name came before this one.
        fed: of an affine call, the place of the product; that of the sum, where a bias is added after it, is ``place``.
        modules: paths of the modules whose output, as they handed it on, is the first value that comes out.
        weight: of an affine call, the weight parameter; ``None`` where it is no parameter, as it stands or transposed.
        transposed: whether that parameter is ``[inputs, outputs]``.
        bias: of an affine call, the bias parameter; of an addition to a value, the parameter that is added.
        weight_shape: ``(outputs, inputs, *kernel)`` of an affine call; of an addition of a parameter, its shape.
        input_shape, output_shape: of an affine call, with the batch wherever it stands.
    """

    name: str
    words: str
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    parameters: frozenset[str]
    place: tuple[str, int]
    fed: tuple[str, int] = ("", 0)
    modules: list[str] = field(default_factory=list)
    weight: str | None = None
    transposed: bool = False
    bias: str | None = None
    weight_shape: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()


class Recorder(TorchFunctionMode):
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
        self._counts: Counter[str] = Counter()
        self._place = ("", 0)
        self._weights = Weights(self._parameters)
        self._rectifiers = Rectifiers(self.values)
        for path, module in network.named_modules():
            if not isinstance(
                module, torch.jit.ScriptModule
            ):  # takes no hooks; its calls go unseen, and so unaccounted
                module.register_forward_pre_hook(self._entering(path), prepend=True)
                module.register_forward_hook(self._leaving)

    def _entering(self, path: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, _: self.modules.append((path, module))

    def _leaving(self, module: nn.Module, _: object, output: object) -> None:
        # Not reached when forward raises: the top then is where it happened. What a network catches is popped later.
        while self.modules:
            path, left = self.modules.pop()
            if left is module:
                number = self.values.get(id(output))
                call = next((one for one in reversed(self.calls) if number in one.gives[:1]), None) if number else None
                if call is not None:
                    call.modules.append(path)
                return

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        self._place = (name, self._counts[name])
        self._counts[name] += 1
        # Before the call: an in-place function gives back one of the tensors that it takes.
        given = list(_tensors((args, kwargs)))[: 1 if name in LIKE_ANOTHER else None]
        rectified = self._rectifiers.rectified(name, args, kwargs)
        if rectified is not None:
            name, given = "relu", [rectified]
        takes = tuple(self.values[id(tensor)] for tensor in given if id(tensor) in self.values)
        parameters = self._parameters_of(given)
        result = func(*args, **kwargs)
        gives = [args[0]] if name == "setitem" else list(_tensors(result))
        self._alive += gives
        self._rectifiers.saw(name, args, result)
        if name in NEW_TENSORS or name.startswith("new") or not gives:
            return result
        product = self._weights.product(name, args, kwargs) if takes else None
        if not takes:  # computed from parameters and constants alone: whoever takes it takes those parameters
            if name in AFFINE:
                self._write(name, takes, gives, parameters)
            self._origins |= {id(tensor): parameters for tensor in gives} if parameters else {}
            self._weights.saw(name, args, result)
        elif name == ATTENTION:
            self._write_attention(
                takes, gives, inspect.signature(nn.functional.multi_head_attention_forward).bind(*args, **kwargs)
            )
        elif product is not None:
            self._write_product(name if name in AFFINE else "linear", takes, gives, product)
        elif name == "add":
            self._write(name, takes, gives, parameters, **self._added(args, kwargs))
        else:
            self._write(name, takes, gives, parameters)
        return result

    def _added(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Of an addition: the one parameter that is added as it stands."""
        own = [one for one in args if isinstance(one, Tensor) and id(one) in self._parameters]
        if len(args) != 2 or len(own) != 1 or kwargs:
            return {}
        return {"bias": self._parameters[id(own[0])], "weight_shape": tuple(own[0].shape)}

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
        self.calls.append(
            Call(name=name, words=words, takes=takes, gives=numbers, parameters=parameters, place=self._place, **affine)
        )

    def _write_product(self, name: str, takes: tuple[int, ...], gives: list[Tensor], product: Product) -> None:
        self._write(
            name,
            takes,
            gives,
            self._parameters_of([product.data, product.matrix, product.bias]),
            fed=self._place,
            weight=product.weight,
            transposed=product.transposed,
            bias=self._parameters.get(id(product.bias)),
            weight_shape=product.shape,
            input_shape=tuple(product.data.shape),
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
        product = self._weights.product("linear", (mixed, *last), {})
        assert product is not None, "a linear function is affine"
        self._write_product("linear", taken, gives[:1], product)


def _tensors(thing: object) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping | list | tuple):
        for part in thing.values() if isinstance(thing, Mapping) else thing:
            yield from _tensors(part)
