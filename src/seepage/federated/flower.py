"""Flower: a wrapper around any strategy for the server, and a mod for the client that audits before it sends."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from seepage.errors import InputError
from seepage.federated.sinks import Decision, Known, Sink, decide, refuse
from seepage.federated.storage import Capture, UpdateKind

__all__ = ["capture_mod", "capture_strategy"]


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
    wrapped = copy.copy(strategy)
    sent: dict[int, dict[str, Tensor]] = {}

    def configure_train(server_round: int, arrays: Any, config: Any, grid: Any) -> list[Any]:
        messages = list(type(strategy).configure_train(wrapped, server_round, arrays, config, grid))
        sent.clear()
        for message in messages:
            sent[message.metadata.dst_node_id] = _weights(message)
        return messages

    def aggregate_train(server_round: int, replies: Iterable[Any]) -> Any:
        kept = []
        for reply in replies:
            if reply.has_error():
                kept.append(reply)  # the strategy counts failures itself
                continue
            node = reply.metadata.src_node_id
            build = _pair(
                lambda node=node: sent[node],
                lambda reply=reply: _weights(reply),
                known=known or Known(),
                learning_rate=learning_rate,
                local_steps=local_steps,
                rule=rule,
                number=server_round,
                client=str(node),
            )
            if _decide(sink, build).release:
                kept.append(reply)
        return type(strategy).aggregate_train(wrapped, server_round, kept)

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

    def mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        if not str(message.metadata.message_type).startswith("train"):
            return call_next(message, context)
        try:
            before = _weights(message)  # read now: the client may work in place
        except Exception as error:
            before, failed = {}, error
        else:
            failed = None
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        build = _pair(
            lambda: _or_raise(before, failed),
            lambda: _weights(reply),
            known=known or Known(),
            learning_rate=learning_rate,
            local_steps=local_steps,
            rule=rule,
            number=_round(message),
            client=None,
        )
        if _decide(sink, build).release:
            return reply
        error = flwr.Error(code=6, reason="held back by the client's audit")  # ErrorCode.MOD_FAILED_PRECONDITION
        return flwr.Message(error, reply_to=message)

    return mod


def _pair(
    before: Callable[[], dict[str, Tensor]],
    after: Callable[[], dict[str, Tensor]],
    *,
    known: Known,
    learning_rate: float | None,
    local_steps: int | None,
    rule: str,
    number: int | None,
    client: str | None,
) -> Callable[[], Capture]:
    def build() -> Capture:
        header = known.header(
            UpdateKind.PAIR,
            rule=rule,
            learning_rate=learning_rate,
            local_steps=local_steps,
            number=number,
            client=client,
            versions={"flwr": _flwr_version()},
        )
        return Capture(header=header, before=before(), after=after())

    return build


def _decide(sink: Sink, build: Callable[[], Capture]) -> Decision:
    """``decide``, where a capture that cannot even be put together holds back as well."""
    try:
        capture = build()
    except Exception as error:
        return refuse(f"no capture could be made: {type(error).__name__}: {error}")
    return decide(sink, capture)


def _or_raise(weights: dict[str, Tensor], failed: Exception | None) -> dict[str, Tensor]:
    if failed is not None:
        raise failed
    return weights


def _weights(message: Any) -> dict[str, Tensor]:
    """The one record of named arrays that a message holds, as tensors of their own."""
    records: Mapping[str, Any] = message.content.array_records
    if len(records) != 1:
        raise InputError(f"A training message should hold one ArrayRecord; found {len(records)}.")
    record = next(iter(records.values()))
    return {name: tensor.clone() for name, tensor in record.to_torch_state_dict().items()}


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


def _flwr_version() -> str:
    from importlib.metadata import version

    return version("flwr")
