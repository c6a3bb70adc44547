"""What happens to values between the calls of a forward pass: where they come from, and what they go into."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from seepage.networks.functions import (
    AFFINE,
    DROPOUTS,
    OTHER_ACTIVATIONS,
    REORDERS,
    RESHAPES,
    UNDERSTOOD,
    WORDS,
    Activation,
)
from seepage.networks.recorder import Call
from seepage.networks.tracing import Trace

__all__ = ["Flow", "is_layer", "stray_parameters"]


class Flow:
    """The calls of a pass that the output depends on, and who makes and takes each value.

    Args:
        trace: the pass.
    """

    def __init__(self, trace: Trace) -> None:
        self.calls = _live_calls(trace)
        self._output = trace.output
        self._makers = {value: call for call in self.calls for value in call.gives}
        self._takers: dict[int, list[Call]] = defaultdict(list)
        for call in self.calls:
            for value in dict.fromkeys(call.takes):
                self._takers[value].append(call)

    def followed_by(self, group: Iterable[Call]) -> tuple[Activation, str]:
        """What the outputs of these calls go into, also in words: a sum or several things are no activation."""
        followers = list(dict.fromkeys(found for call in group for found in self._followers(call.gives[0])))
        kinds = {activation for activation, _ in followers}
        words = " and ".join(dict.fromkeys(word for _, word in followers))
        return (kinds.pop() if len(kinds) == 1 else Activation.OTHER), words

    def is_input(self, takes: tuple[int, ...]) -> bool:
        """Whether the first value taken is the network's input, at most reshaped."""
        value = takes[0]
        while value != 0 and self._makers[value].name in RESHAPES:
            value = self._makers[value].takes[0]
        return value == 0

    def _followers(self, value: int, note: str = "") -> list[tuple[Activation, str]]:
        found = [(Activation.NONE, "output" + note)] if value == self._output else []
        for call in self._takers[value]:
            if call.name in RESHAPES | REORDERS | DROPOUTS:
                after = " (after dropout)" if call.name in DROPOUTS else note
                found += self._followers(call.gives[0], after)
            elif call.name in {activation.value for activation in WORDS}:
                activation = Activation(call.name)
                found.append((activation, WORDS[activation] + note))
            else:
                other = call.name in OTHER_ACTIVATIONS
                found.append((Activation.OTHER if other else Activation.NONE, call.words + note))
        return found


def is_layer(call: Call) -> bool:
    """Whether a call is affine in a parameter."""
    return call.name in AFFINE and call.weight is not None and (call.name != "linear" or len(call.weight_shape) == 2)


def stray_parameters(calls: Iterable[Call]) -> set[str]:
    """Parameters with a use that is not understood, or with two uses of which one is a layer's or turned over."""
    stray: set[str] = set()
    affine: set[str] = set()
    other: set[str] = set()
    turned: tuple[set[str], set[str]] = (set(), set())
    for call in calls:
        if is_layer(call) and call.weight is not None:
            turned[call.transposed].add(call.weight)
        own = {name for name in (call.weight, call.bias) if name} if is_layer(call) else set()
        affine |= own
        other |= call.parameters - own
        if call.name not in UNDERSTOOD:
            stray |= call.parameters - own
    return stray | (affine & other) | (turned[False] & turned[True])


def _live_calls(trace: Trace) -> list[Call]:
    """The calls that the output depends on, in order: an auxiliary head or a printed norm gives no gradient.

    A bias that is added to a product is part of the affine call.
    """
    wanted = {trace.output}
    live: list[Call] = []
    for call in reversed(trace.calls):
        if wanted & set(call.gives) or (not call.takes and call.name in AFFINE):
            wanted |= set(call.takes)
            live.append(call)
    return _joined(live[::-1], trace.output)


def _joined(calls: list[Call], output: int | None) -> list[Call]:
    makers = {call.gives[0]: call for call in calls if is_layer(call) and call.name == "linear" and call.bias is None}
    uses = Counter(value for call in calls for value in call.takes)
    joined: list[Call] = []
    for call in calls:
        maker = makers.get(call.takes[0]) if call.name == "add" and call.bias and len(call.takes) == 1 else None
        alone = maker is not None and uses[maker.gives[0]] == 1 and maker.gives[0] != output
        if maker is not None and alone and call.weight_shape == maker.weight_shape[:1]:
            joined.remove(maker)
            both = maker.parameters | call.parameters
            call = replace(  # noqa: PLW2901 - the product and its bias are one call
                maker, gives=call.gives, place=call.place, modules=call.modules, bias=call.bias, parameters=both
            )
        joined.append(call)
    return joined
