"""``--engine`` and ``--workers``: who computes a sweep's shards."""

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from seepage.audit.sweeps.engines import Engine, LocalPool
from seepage.audit.sweeps.rayengine import RayCluster
from seepage.audit.sweeps.slurmengine import SlurmJobs

__all__ = ["EngineName", "EngineOption", "WorkersOption", "open_engine"]


class EngineName(enum.StrEnum):
    """Who computes: results are the same."""

    LOCAL = "local"
    RAY = "ray"
    SLURM = "slurm"


EngineOption = Annotated[
    EngineName,
    typer.Option("--engine", help="Processes of this machine, tasks of a Ray cluster, or Slurm jobs; same results."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Shards at a time, one thread each; one a core (slurm: 32) if left out."),
]


def open_engine(name: EngineName, workers: int | None, folder: Path) -> Engine:
    """An engine to use in a ``with`` statement; it ends there, with its workers.

    Args:
        name: which.
        workers: shards at a time.
        folder: the sweep's, for what an engine has to write.

    Raises:
        InputError: its extra is not installed, or there is no cluster.
    """
    if name is EngineName.RAY:
        return RayCluster(workers)
    if name is EngineName.SLURM:
        return SlurmJobs(folder / "submitit", workers)
    return LocalPool(workers or os.cpu_count() or 1)
