"""What ``seepage inspect`` says of each exact attack: to what batch size, at what cost, and under the client's rule."""

from rich.table import Table

from seepage.audit.preflight import Preflight
from seepage.audit.reach import REACHES, Reach
from seepage.cli.show import out
from seepage.types import Traces, UpdateRule

__all__ = ["print_reach", "print_rule"]

_TRACES = {
    Traces.AT_START: "no replay, but single examples stay visible: certificates are possible at any layer",
    Traces.ALONG_THE_WAY: "no replay; single examples stay visible along the way: certificates at the first layer only",
    Traces.NONE: "noise, or no linear function of gradients: nothing can be certified, and exactness is not expected",
}


def print_reach(found: Preflight, *, batch_size: int) -> None:
    """A line an attack, at the first layer that fits."""
    layer = found.attackable
    if layer is None:
        return
    layers, units = len(found.reading.layers), layer.outputs
    table = Table(title=f"exact attacks at layer {layer.name}, {units} units, under fedsgd", title_justify="left")
    for heading in ("--attack", "measured up to b", "about up to b", f"at b = {batch_size}", "expected cost"):
        table.add_column(heading, overflow="fold")
    for reach in REACHES:
        table.add_row(*_row(reach, layers=layers, units=units, batch_size=batch_size))
    out.print(table)
    for reach in REACHES:
        out.print(f"  {reach.title}: about = {reach.because}; measured in {reach.source}", markup=False, soft_wrap=True)
    out.print(
        "  Measured on images (CIFAR-10); seconds on shared cores. What was not measured may still leak.", markup=False
    )


def _row(reach: Reach, *, layers: int, units: int, batch_size: int) -> tuple[str, ...]:
    misfit = reach.misfit(layers=layers)
    if misfit:
        return (reach.title, "–", "–", misfit, "–")
    at = reach.expect(units, batch_size)
    measured = reach.measured_up_to(units)
    cost = f"{at.seconds:g} s" if at.seconds is not None else "not measured"
    return (reach.title, str(measured or "not measured"), str(reach.about(units)), at.words, cost)


def print_rule(rule: UpdateRule) -> None:
    """What the rule takes from the figures, which are those of a plain gradient."""
    if rule.is_gradient:
        words = "a plain gradient, as all figures are measured on: a certificate can rest on a replay"
    else:
        words = f"{_TRACES[rule.traces]}; figures are measured on fedsgd and are at best a bound"
    clients = getattr(rule, "clients", 1)
    whole = f" The batch size is that of all {clients} clients together." if clients > 1 else ""
    out.print(f"rule {rule.name}: {words}.{whole}", markup=False, soft_wrap=True)
