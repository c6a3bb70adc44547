"""What the commands print: a line a batch, layers, theory, and the progress of long work."""

import signal
from types import FrameType, TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

from seepage.attacks.spear import expected_samples, failure_probability
from seepage.audit.findings import Finding
from seepage.audit.preflight import Preflight
from seepage.audit.unread import unread_words

__all__ = ["Watch", "err", "finding_line", "out", "print_layers", "print_theory", "tell_cast"]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Watch:
    """A progress bar on standard error; the first Ctrl-C asks the work to return what it has, the second ends it."""

    def __init__(self, total: int | None = None) -> None:
        """Of ``total`` batches; ``None``: of work that has none."""
        self.interrupted = False
        self._bar = Progress(
            SpinnerColumn(),
            *([] if total is None else [TextColumn("batch {task.fields[batch]} of {task.fields[batches]}")]),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} {task.description}"),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,  # it would leave an empty line in a log
        )
        self._task = self._bar.add_task("", total=1, batch=1, batches=total)
        self._batch = 1
        self._before: Any = None

    def __enter__(self) -> "Watch":
        self._before = signal.signal(signal.SIGINT, self._ask_to_stop)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._bar.stop()
        signal.signal(signal.SIGINT, self._before)

    def progress(self, done: int, total: int | None, note: str) -> bool:
        """The callback for long work: shows where it is, and says whether to go on."""
        self._bar.update(self._task, completed=done, total=total, description=note)
        return not self.interrupted

    def advance(self, line: str) -> None:
        """One batch is through: print its line on standard output."""
        self._batch += 1
        self._bar.update(self._task, batch=self._batch, completed=0)
        out.print(line, markup=False, soft_wrap=True)

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            signal.signal(signal.SIGINT, self._before)
            raise KeyboardInterrupt
        self.interrupted = True
        self._bar.console.print("Stopping; what was found so far is kept. Ctrl-C again to end at once.")


def finding_line(finding: Finding) -> str:
    head = f"batch {finding.batch}: "
    if finding.obstacles:
        return head + "could not be attacked. " + " ".join(finding.obstacles)
    if finding.error is not None:
        return head + f"the attack broke: {finding.error}"
    if finding.restores_labels:
        return head + _label_line(finding)
    certified = sum(finding.certified)
    seen = finding.recognisable_examples
    beside = f"{seen} recognisable, " if seen > finding.exact_examples else ""
    wrong = f" ({finding.wrong_certified} of them wrongly)" if finding.wrong_certified else ""
    return head + (
        f"{finding.outcome}, {finding.exact_examples} of {finding.batch_size} examples exact, {beside}"
        f"{certified} certified{wrong}, {finding.seconds:.1f} s. {finding.reason}{_control(finding)}"
    )


def _label_line(finding: Finding) -> str:
    size, sure, wrong = finding.batch_size, sum(finding.certified), finding.wrong_certified
    if finding.scores["exact_vector"] == 1.0:
        every = f"every class counted right, {sure} of {size} labels certified"
    else:
        every = f"{finding.right_labels} of {size} labels right, {sure} certified"
    return f"{every}{f', {wrong} wrongly' if wrong else ''}, {finding.seconds:.1f} s. {finding.reason}"


def _control(finding: Finding) -> str:
    case, rows = finding.control, finding.overlooked
    held = "1 example as a row of its own" if rows == 1 else f"{rows} examples as rows of their own"
    if not finding.silent and rows:
        return f" The update holds {held}, which the attack overlooked."
    if not finding.silent or case is None:
        return ""
    if case.passed and finding.unread:
        return f" Inconclusive: {unread_words(finding.unread)}."
    if case.passed and rows:
        return f" Inconclusive: the update holds {held}, which the attack overlooked."
    if case.passed:
        return f" Positive control passed: {case.recovered} of {case.batch_size} undefended examples recovered."
    return f" Inconclusive: of {case.batch_size} undefended examples it recovered {case.recovered}. {case.reason}"


def tell_cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Weights of few digits are audited in more of them than their client sends; more may leak so."""
    names = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    for one in {parameter.dtype for parameter in network.parameters()} & set(names):
        has, gets = (str(kind).removeprefix("torch.") for kind in (one, dtype))
        err.print(
            f"The network's weights are {has}, and audited as {gets}: `--defense {names[one]}` rounds the update as "
            "such a client sends it.",
            markup=False,
            soft_wrap=True,
        )


def print_layers(found: Preflight) -> None:
    table = Table(title=f"{found.parameters:,} parameters", title_justify="left")
    for heading in ("layer", "kind", "inputs", "outputs", "followed by", "exact inversion"):
        table.add_column(heading, overflow="fold")
    for layer, obstacle in zip(found.reading.layers, found.obstacles, strict=True):
        verdict = "possible" if obstacle is None else "by later layers" if layer == found.spanned else obstacle
        table.add_row(layer.name, layer.kind, str(layer.inputs), str(layer.outputs), layer.followed_by, verdict)
    out.print(table)
    if found.reading.others:
        out.print(f"no affine layers: {', '.join(found.reading.others)}", markup=False)
    if found.reading.unaccounted:
        out.print(
            f"not understood: {', '.join(found.reading.unaccounted)}. There may be a layer that gives examples away: "
            "an audit that finds nothing in this network is inconclusive.",
            markup=False,
            soft_wrap=True,
        )


def print_theory(found: Preflight, batch_size: int) -> None:
    _print_spear(found, batch_size)
    _print_labels(found, batch_size)


def _print_spear(found: Preflight, batch_size: int) -> None:
    layer, spanned = found.attackable, found.spanned
    if spanned is not None:
        out.print(
            f"PRISM at layer {spanned.name}: no ReLU is needed where later layers tell its inputs apart. Batches below "
            f"{min(spanned.inputs, spanned.outputs, found.span_limit)} examples, certified all or none. Measured whole "
            "to 160 behind GELU, 16 behind sigmoid, at 400 units (benchmarks/results/activations.md). auto takes it.",
            markup=False,
            soft_wrap=True,
        )
    if layer is None and spanned is None:
        out.print(
            "SPEAR: no layer fits. auto matches gradients instead (ig): approximations, no certificate; it needs the "
            "batch size (--knows batch-size) where the labels do not tell it. One image of a vision transformer with "
            "learned positions it solves for (vit-patches).",
            markup=False,
            soft_wrap=True,
        )
    if layer is None:
        return
    limit = min(layer.inputs, layer.outputs)
    out.print(
        f"SPEAR at layer {layer.name}, b = {batch_size}, m = {layer.outputs}, n = {layer.inputs} "
        f"(half of the units off for each example, independently):",
        markup=False,
    )
    if batch_size >= limit:
        out.print(f"  not possible: b should be below min(m, n) = {limit}.", markup=False)
        return
    table = Table("batch size", "expected samples", "failure probability at most")
    for size in sorted({batch_size, *(size for size in (4, 8, 12, 16, 20, 24, 28) if size < limit)}):
        chance = failure_probability(size, layer.outputs)
        table.add_row(str(size), f"{expected_samples(size, layer.outputs):.1e}", f"{chance:.1e}")
    out.print(table)


def _print_labels(found: Preflight, batch_size: int) -> None:
    """What the last layer says of labels, whatever stands before it."""
    if found.label_obstacle is not None:
        out.print(f"labels: not restored. {found.label_obstacle}", markup=False, soft_wrap=True)
        return
    last, half = found.reading.layers[-1].name, found.classes // 2
    can = (
        f"b = {batch_size} is within: labels, embeddings and b itself can come out with a certificate"
        if batch_size <= half
        else f"b = {batch_size} is beyond: estimated where the server knows b (`--knows batch-size`)"
    )
    out.print(
        f"labels: from the gradient of {last}, {found.classes} classes, any activation. Exact up to about C/2 = {half} "
        f"examples; {can}.",
        markup=False,
        soft_wrap=True,
    )
