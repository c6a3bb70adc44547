"""One run carried out: into its folder, batch by batch, to the page and the exit code."""

import shlex
import sys
from pathlib import Path

from safetensors import SafetensorError

from seepage.audit.control import with_control
from seepage.audit.folder import RunFolder
from seepage.audit.record import Verdict, record, verdict
from seepage.audit.run import Audit
from seepage.cli.show import Watch, err, finding_line
from seepage.cli.show import out as console
from seepage.errors import InputError, SeepageError, readable
from seepage.report.html import write_report

__all__ = ["carry_out"]


def carry_out(
    plan: Audit,
    out: Path,
    *,
    redact: bool,
    threshold: float,
    budget: str,
    weights: Path | None,
    attack: str = "",
) -> Verdict:
    """Run the plan into its folder, write the report whatever happened, and say how it ended."""
    command = readable(shlex.join(["seepage", *sys.argv[1:]]))
    loaded = None if weights is None else readable(str(weights))
    described = record(plan, command=command, budget=budget, weights=loaded, attack=attack)
    folder = RunFolder.open(out, described)
    if folder.done:
        err.print(f"Taking up the run in {out}: {len(folder.done)} of {plan.batches} batches are there.", markup=False)
    try:
        with Watch(plan.batches) as watch:
            for audited in with_control(plan, done=folder.done, progress=watch.progress):
                watch.advance(finding_line(folder.add(audited)))
                if watch.interrupted:
                    break
    except InputError:
        folder.withdraw()
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SeepageError(
            f"{readable(str(out))} could not be written: {reason}. What was found before is kept, and the same command "
            "goes on from there."
        ) from error
    if not watch.interrupted:
        folder.close()
    if not folder.findings:
        return Verdict.NOT_AUDITED
    page = write_report(out, redact=redact)
    code = verdict(folder.findings, batches=plan.batches, threshold=threshold)
    console.print(f"report: {page}", markup=False, soft_wrap=True)
    return code
