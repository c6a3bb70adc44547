"""What holds wherever a shard is computed: one thread, and the folder and modules of whoever started the sweep."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from seepage.audit.findings import Finding
from seepage.audit.sweeps.cell import Shard
from seepage.audit.sweeps.work import run_shard

__all__ = ["DIED", "ONE_THREAD", "Remote", "one_thread"]

DIED = "WorkerDied: the process that computed this shard was killed or crashed (out of memory?)"

# One thread a worker: how a sum is split among threads would move results with the machine.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started inside inherit an environment of one thread."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """:func:`run_shard` for a process that the sweep did not start itself; it can be called and pickled.

    Args:
        folder: where relative paths start from; on another machine it should be a shared folder, else paths absolute.
        modules: the search path of users' own ``module:factory``.
    """

    folder: str
    modules: tuple[str, ...]

    @classmethod
    def here(cls) -> "Remote":
        """From where this process stands."""
        return cls(folder=os.getcwd(), modules=tuple(sys.path))

    def __call__(self, shard: Shard) -> list[Finding]:
        """Audit the shard's batches."""
        torch.set_num_threads(1)
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        sys.path.extend(one for one in self.modules if one not in sys.path)
        return run_shard(shard)
