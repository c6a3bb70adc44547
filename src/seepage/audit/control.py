"""The positive control: silence counts only beside the same attack succeeding where it must."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from seepage.attacks.auto import Auto
from seepage.audit.chances import chance
from seepage.audit.findings import ControlCase, Finding
from seepage.audit.run import Audit, Audited
from seepage.audit.scores.apart import TOO_EASY, tells_apart
from seepage.data.sources import draw_batch
from seepage.errors import InputError
from seepage.federated.rules import FedSGD
from seepage.types import Progress, go_on

__all__ = ["CONTROL_SIZES", "run_control", "with_control"]

CONTROL_SIZES = (4, 1)  # tried in this order, those below the audited size; 1 is the easiest case there is
_KEY = (2**32 - 1,)  # of the control's own seed: no batch has this index


def with_control(audit: Audit, *, done: frozenset[int] = frozenset(), progress: Progress = go_on) -> Iterator[Audited]:
    """Audit batch by batch; where an attack found nothing, run the control once and put it beside every such finding.

    Where ``auto`` matched gradients the control does so too: a layer that it inverts there says nothing of that.

    Args:
        audit: what to run.
        done: batches that need not be audited again.
        progress: told where the work is, the control's included.

    Raises:
        InputError: a batch does not fit the data or the network.
    """
    cases: dict[Auto | None, ControlCase] = {}
    for audited in audit(done=done, progress=progress):
        finding = audited.finding
        if not finding.silent:
            yield audited
            continue
        attack = audit.attack
        same = attack.by_the_way_of(finding.stats) if isinstance(attack, Auto) else attack
        key = same if isinstance(same, Auto) else None
        case = cases.get(key)
        if case is None or case.interrupted:
            case = cases[key] = run_control(replace(audit, attack=same), progress=progress)
        yield replace(audited, finding=finding.model_copy(update={"control": case}))


def run_control(audit: Audit, *, progress: Progress = go_on) -> ControlCase:
    """The same attack, network, data and knowledge, on a smaller batch whose plain gradient is sent undefended.

    The largest of ``CONTROL_SIZES`` comes first: the closer a case is to the audited one, the more its success says.
    It passes if every example is recovered: exactly, or recognisably by an attack that approximates. A likeness that
    any guess reaches, as of plain sky, is no success, and neither is one example alone where the network tells examples
    hardly apart (:func:`tells_apart`). An attack for one size alone, which refuses all smaller batches, gets one of the
    audited size.
    """
    seed = int(np.random.SeedSequence(audit.seed, spawn_key=_KEY).generate_state(1)[0])
    case, fits = None, False
    for size in (*(size for size in CONTROL_SIZES if size < audit.batch_size), audit.batch_size):
        if fits and size == audit.batch_size:
            break
        easy = replace(audit, batch_size=size, batches=1, seed=seed, defenses=(), rule=FedSGD())
        try:
            finding = next(iter(easy(progress=progress))).finding
            case, fits = _case(finding), fits or not finding.obstacles
        except InputError as error:  # batch norm in training mode takes no batch of one
            case, fits = case or _unfit(size, str(error)), True
        if case.passed or case.interrupted:
            break
    if case is not None and case.passed and case.batch_size == 1 < audit.batch_size and not _tells_apart(audit, seed):
        return case.model_copy(update={"passed": False, "reason": f"{case.reason} But {TOO_EASY}."})
    if case is None:
        raise ValueError(f"`batch_size` should be at least 1; found {audit.batch_size}.")
    return case


def _tells_apart(audit: Audit, seed: int) -> bool:
    size = min(CONTROL_SIZES[0], len(audit.dataset))
    batch, _ = draw_batch(audit.dataset, batch_size=size, generator=chance(seed, 0, "data"))
    network = copy.deepcopy(audit.network).to(audit.device, audit.dtype)
    return tells_apart(network, batch.inputs.to(audit.device, audit.dtype))


def _unfit(size: int, reason: str) -> ControlCase:
    return ControlCase(
        batch_size=size,
        rule=FedSGD().name,
        outcome=None,
        exact=0,
        recovered=0,
        passed=False,
        reason=f"It could not run: {reason}",
        seconds=0.0,
    )


def _case(finding: Finding) -> ControlCase:
    recovered = finding.given()
    if finding.obstacles:
        reason = "It could not run: " + " ".join(finding.obstacles)
    elif finding.error is not None:
        reason = f"It broke: {finding.error}"
    else:
        reason = finding.reason
    return ControlCase(
        batch_size=finding.batch_size,
        rule=finding.rule,
        outcome=finding.outcome,
        exact=finding.exact_examples,
        recovered=sum(recovered),
        passed=finding.ended and all(recovered),
        interrupted=finding.could_run and not finding.ended,
        reason=reason,
        seconds=finding.seconds,
    )
