"""Flower: a wrapper around any strategy for the server, and a mod for the client that audits before it sends."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MethodType
from typing import Any

from torch import Tensor

from seepage.errors import InputError
from seepage.federated.sinks import Decision, Known, Sink, decide, refuse
from seepage.federated.storage import Capture, UpdateKind

__all__ = ["capture_mod", "capture_strategy"]

_FAILED_PRECONDITION = 6  # flwr.common.constant.ErrorCode.MOD_FAILED_PRECONDITION


def capture_strategy(
    strategy: Any,
    sink: Sink,
    *,
    learning_rate: float | None = None,
    local_steps: int | None = None,
    rule: str = "unknown",
    known: Known | None = None,
) -> Any:
    """A copy of ``strategy`` that hands every client's weights before and after training to ``sink``.

    Replies that the sink does not release are left out of the aggregate. That guards the aggregate alone: this server
    has seen them. A client that does not want to be seen uses :func:`capture_mod`.

    Args:
        strategy: any ``flwr.serverapp.strategy.Strategy`` whose replies hold whole weights under their names.
        sink: for example a ``BundleFolder``.
        learning_rate: that the clients were told to use.
        local_steps: that they were told to take.
        rule: how they were told to train; ``sgd`` if plainly.
        known: what to write of the clients; their node ids stand in for names.

    Raises:
        InputError: flwr is missing, or this is no such strategy.
    """
    _flwr()
    for name in ("configure_train", "aggregate_train"):
        if not callable(getattr(strategy, name, None)):
            raise InputError(f"`strategy` should be a flwr.serverapp strategy with `{name}`; found {type(strategy)}.")
    training = _Training(known=known or Known(), learning_rate=learning_rate, local_steps=local_steps, rule=rule)
    wrapped = copy.copy(strategy)
    configure, aggregate = (_method(strategy, wrapped, name) for name in ("configure_train", "aggregate_train"))
    sent: dict[int, Any] = {}  # the record that each node got

    def configure_train(server_round: int, arrays: Any, config: Any, grid: Any) -> list[Any]:
        messages = list(configure(server_round, arrays, config, grid))
        sent.clear()
        sent.update({message.metadata.dst_node_id: message for message in messages})
        return messages

    def aggregate_train(server_round: int, replies: Iterable[Any]) -> Any:
        kept = []
        for reply in replies:
            node = reply.metadata.src_node_id
            # What failed at the client goes on: the strategy counts failures itself.
            if (
                reply.has_error()
                or training.judge(sink, sent.get(node), reply, number=server_round, client=str(node)).release
            ):
                kept.append(reply)
        return aggregate(server_round, kept)

    wrapped.configure_train = configure_train
    wrapped.aggregate_train = aggregate_train
    return wrapped


def capture_mod(
    sink: Sink,
    *,
    learning_rate: float | None = None,
    local_steps: int | None = None,
    rule: str = "unknown",
    known: Known | None = None,
) -> Callable[[Any, Any, Any], Any]:
    """A mod for ``ClientApp(mods=[...])``, the last of them: nothing leaves this client but what ``sink`` releases.

    Instead of an update that is held back the server gets an error reply that says no more than that.

    Args:
        sink: a ``LeakGate``, or a ``BundleFolder`` to capture.
        learning_rate: that the client trains with.
        local_steps: that it takes in a round.
        rule: how it trains; ``sgd`` if plainly.
        known: what to write of the client.

    Raises:
        InputError: flwr is missing.
    """
    flwr = _flwr()
    training = _Training(known=known or Known(), learning_rate=learning_rate, local_steps=local_steps, rule=rule)

    def mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        if not str(message.metadata.message_type).startswith("train"):
            return call_next(message, context)
        received = copy.deepcopy(message)  # the client may work in place
        reply = call_next(message, context)
        if reply.has_error() or training.judge(sink, received, reply, number=_round(received), client=None).release:
            return reply
        refusal = flwr.Error(code=_FAILED_PRECONDITION, reason="held back by the client's audit")
        return flwr.Message(refusal, reply_to=message)

    return mod


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """What Flower's messages do not say of how the clients train."""

    known: Known
    learning_rate: float | None
    local_steps: int | None
    rule: str

    def judge(self, sink: Sink, received: Any, reply: Any, *, number: int | None, client: str | None) -> Decision:
        """Ask the sink; what cannot even be captured is held back as well."""
        try:
            header = self.known.header(
                UpdateKind.PAIR,
                rule=self.rule,
                learning_rate=self.learning_rate,
                local_steps=self.local_steps,
                number=number,
                client=client,
                versions={"flwr": version("flwr")},
            )
            capture = Capture(header=header, before=_weights(received), after=_weights(reply))
        except Exception as error:
            return refuse(f"no capture could be made: {type(error).__name__}: {error}")
        return decide(sink, capture)


def _method(strategy: Any, wrapped: Any, name: str) -> Callable[..., Any]:
    """The strategy's own method, working on the copy; that of an earlier wrapper where there is one."""
    found: Callable[..., Any] = vars(strategy).get(name) or MethodType(getattr(type(strategy), name), wrapped)
    return found


def _weights(message: Any) -> dict[str, Tensor]:
    """The one record of named arrays that a message holds."""
    if message is None:
        raise InputError("A reply should answer a message of this round; found none that was sent to its node.")
    records: Mapping[str, Any] = message.content.array_records
    if len(records) != 1:
        raise InputError(f"A training message should hold one ArrayRecord; found {len(records)}.")
    weights: dict[str, Tensor] = next(iter(records.values())).to_torch_state_dict()
    return weights


def _round(message: Any) -> int | None:
    for config in message.content.config_records.values():
        found = config.get("server-round")
        if isinstance(found, int) and found >= 0:
            return found
    return None


def _flwr() -> Any:
    try:
        import flwr.app
    except ImportError as error:
        raise InputError("Flower should be installed for this hook (pip install 'seepage[flower]').") from error
    return flwr.app
