"""What a worker does with one shard; whatever happens, there is a row for each of its batches."""

from dataclasses import replace

from seepage.audit.control import with_control
from seepage.audit.environment import versions
from seepage.audit.findings import Finding
from seepage.audit.sweeps.cell import Cell, Shard, build_audit

__all__ = ["broken_rows", "run_shard"]


def run_shard(shard: Shard) -> list[Finding]:
    """Audit the shard's batches, controls included. An exception becomes rows that say so, never fewer rows."""
    cell = shard.cell
    try:
        audit = replace(build_audit(cell), batches=shard.batches[-1] + 1)
        done = frozenset(range(shard.batches[0]))
        return [audited.finding for audited in with_control(audit, done=done)]
    except Exception as error:  # of the set-up or of seepage itself: those of an attack are rows already
        return broken_rows(shard, f"{type(error).__name__}: {error}")


def broken_rows(shard: Shard, error: str) -> list[Finding]:
    """One row a batch that says what went wrong."""
    return [_row(shard.cell, batch, error) for batch in shard.batches]


def _row(cell: Cell, batch: int, error: str) -> Finding:
    return Finding(
        attack=cell.attack,
        network=cell.network,
        rule=cell.rule,
        defenses=list(cell.defenses),
        threat_model=cell.threat_model.name,
        data=cell.data,
        normalize=cell.normalize,
        batch_size=cell.batch_size,
        batch=batch,
        seed=cell.seed,
        outcome=None,
        error=error,
        seconds=0.0,
        peak_memory_mib=None,
        device="cpu",
        versions=versions(),
    )
