"""Shards as Slurm jobs, through submitit: handed in by ``sbatch``, results fetched from a shared folder."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seepage.audit.findings import Finding
from seepage.audit.sweeps.cell import Shard
from seepage.audit.sweeps.work import broken_rows
from seepage.audit.sweeps.worker import Remote, one_thread
from seepage.errors import InputError

__all__ = ["SlurmJobs", "slurm_executor"]

_JOBS = 32  # under way at most, if nothing is said: a queue is shared
_MINUTES = 60  # of a job, unless SBATCH_TIMELIMIT says otherwise
_POLL = 0.25  # seconds between two looks


class SlurmJobs:
    """One job a shard, one core each. Slurm reads ``SBATCH_PARTITION``, ``SBATCH_ACCOUNT``, ``SBATCH_TIMELIMIT``.

    What submitit writes (shards and findings, pickled) is removed as soon as it has been read; of a job that failed,
    its log stays.

    Args:
        folder: for submitit's files, seen by this machine and by the nodes; findings pass through it.
        workers: how many jobs are under way at most.
        executor: submitit's; Slurm's if left out.

    Raises:
        InputError: submitit is not installed, or there is no Slurm.
    """

    def __init__(self, folder: Path, workers: int | None = None, *, executor: Any = None) -> None:
        self._executor = slurm_executor(folder) if executor is None else executor
        self._workers = workers or _JOBS
        self._remote = Remote.here()
        self._under_way: list[tuple[Any, Shard]] = []

    @property
    def slots(self) -> int:
        """One for each job."""
        return self._workers

    def submit(self, shard: Shard) -> None:
        """Hand in one job."""
        with one_thread():  # sbatch hands its environment on to the job
            self._under_way.append((self._executor.submit(self._remote, shard), shard))

    def completed(self) -> Iterator[tuple[Shard, list[Finding]]]:
        """Wait for the next jobs to end."""
        while self._under_way:
            done = [one for one in self._under_way if one[0].done()]
            for job, shard in done:
                self._under_way.remove((job, shard))
                yield shard, _result(job, shard)
            if done:
                return
            time.sleep(_POLL)

    def __enter__(self) -> "SlurmJobs":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Drop what is under way."""
        for job, _ in self._under_way:
            job.cancel()
        self._under_way.clear()


def _result(job: Any, shard: Shard) -> list[Finding]:
    """A job's findings; its files hold them pickled, private cells included, and are removed."""
    error = job.exception()
    paths = job.paths
    rows: list[Finding] = broken_rows(shard, _why(error)) if error is not None else job.result()
    logs = [] if error is not None else [paths.stdout, paths.stderr]
    for path in (paths.result_pickle, paths.submitted_pickle, paths.submission_file, *logs):
        Path(path).unlink(missing_ok=True)
    return rows


def _why(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    return f"{type(error).__name__}: {lines[0] if lines else 'the job ended without a result'}"


def slurm_executor(folder: Path) -> Any:
    """Submitit's way to this machine's Slurm: jobs of one core.

    Raises:
        InputError: submitit is not installed, or there is no ``sbatch``.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("`--engine slurm` should have submitit installed: pip install 'seepage[slurm]'.") from error
    if shutil.which("sbatch") is None:
        raise InputError("`--engine slurm` should run where Slurm's `sbatch` is; found none on the path.")
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(job_name="seepage", cpus_per_task=1, ntasks_per_node=1, nodes=1, time=_MINUTES)
    return executor
