"""NVFlare: a filter that captures a client's result, or audits it, before it is sent. Import needs the extra."""

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seepage.errors import InputError
from seepage.federated.sinks import BundleFolder, Decision, Known, Sink, decide, refuse
from seepage.federated.storage import Capture, UpdateKind

try:
    from nvflare.apis.dxo import DataKind, from_shareable
    from nvflare.apis.filter import Filter, FilterChainType, FilterContextKey
    from nvflare.apis.fl_constant import ReturnCode
    from nvflare.apis.shareable import make_reply
except ImportError as error:
    raise InputError("NVFlare should be installed for this filter (pip install 'seepage[nvflare]').") from error

__all__ = ["CaptureFilter"]

_SENT = "seepage.sent"  # weights that the server sent, kept in the client's own context


class CaptureFilter(Filter):  # type: ignore[misc]
    """Place it on the client for the training task, on task data *and* on task results.

    From the data it keeps the weights that were sent out; the result, weights or differences, goes to the sink. What
    is held back, and any result that cannot be captured, becomes an error reply. Arguments are plain values, as a job's
    configuration has them.

    Args:
        folder: write bundles there; give this or ``gate``.
        gate: ``module:function``, called once without arguments; returns a sink such as a ``LeakGate``.
        learning_rate: that the client trains with.
        local_steps: that it takes in a round.
        rule: how it trains; ``sgd`` if plainly.
        input_shape: the shape of one input.
        classes: how many classes the network tells apart.

    Raises:
        InputError: neither or both of ``folder`` and ``gate`` are given.
    """

    def __init__(
        self,
        *,
        folder: str | None = None,
        gate: str | None = None,
        learning_rate: float | None = None,
        local_steps: int | None = None,
        rule: str = "unknown",
        input_shape: list[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if (folder is None) == (gate is None):
            raise InputError(f"Either `folder` or `gate` should be given; found {folder!r} and {gate!r}.")
        self.folder, self.gate = folder, gate
        self.learning_rate, self.local_steps, self.rule = learning_rate, local_steps, rule
        self.input_shape, self.classes = input_shape, classes

    def process(self, shareable: Any, fl_ctx: Any) -> Any:
        """NVFlare calls this with what comes in and with what is to go out."""
        if self.get_prop(FilterContextKey.CHAIN_TYPE) == FilterChainType.TASK_DATA_CHAIN:
            self._remember(shareable, fl_ctx)
            return shareable
        if shareable.get_return_code() != ReturnCode.OK or self._judge(shareable, fl_ctx).release:
            return shareable
        return make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)

    def _remember(self, shareable: Any, fl_ctx: Any) -> None:
        """The weights sent out and their round; nothing if they cannot be read, and then no result passes."""
        try:
            sent = (_tensors(from_shareable(shareable).data), shareable.get_header("current_round"))
        except Exception as error:
            refuse(f"the weights sent out could not be read: {type(error).__name__}: {error}", place="the next result")
            sent = None  # of an earlier round would be worse than nothing
        fl_ctx.set_prop(_SENT, sent, private=True, sticky=True)

    def _judge(self, shareable: Any, fl_ctx: Any) -> Decision:
        try:
            sink, capture = self._sink(), self._capture(shareable, fl_ctx)
        except Exception as error:
            return refuse(f"no capture could be made: {type(error).__name__}: {error}")
        return decide(sink, capture)

    def _sink(self) -> Sink:
        if self.folder is not None:
            return BundleFolder(Path(self.folder))
        module, _, name = str(self.gate).partition(":")
        made: Sink = getattr(importlib.import_module(module), name)()
        return made

    def _capture(self, shareable: Any, fl_ctx: Any) -> Capture:
        result = from_shareable(shareable)
        sent: tuple[dict[str, Tensor], object] | None = fl_ctx.get_prop(_SENT)
        if result.data_kind not in (DataKind.WEIGHT_DIFF, DataKind.WEIGHTS):
            raise InputError(f"A result should hold WEIGHTS or WEIGHT_DIFF; found {result.data_kind}.")
        if sent is None:
            raise InputError("The filter should be placed on task data as well; found no weights that were sent out.")
        (before, number), pair = sent, result.data_kind == DataKind.WEIGHTS
        known = Known(
            client=fl_ctx.get_identity_name(),
            input_shape=None if self.input_shape is None else tuple(self.input_shape),
            classes=self.classes,
        )
        header = known.header(
            UpdateKind.PAIR if pair else UpdateKind.DELTA,
            rule=self.rule,
            learning_rate=self.learning_rate,
            local_steps=self.local_steps,
            number=number if isinstance(number, int) else None,
            versions={"nvflare": version("nvflare")},
        )
        found = _tensors(result.data)
        if pair:
            return Capture(header=header, before=before, after=found)
        update = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
        return Capture(header=header, update=update, before=before)


def _tensors(data: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value).detach().clone() for name, value in data.items()}
