"""Shards as tasks of a Ray cluster: the one that is running, or one that starts and ends with the sweep."""

import os
from collections.abc import Iterator
from typing import Any

from seepage.audit.findings import Finding
from seepage.audit.sweeps.cell import Shard
from seepage.audit.sweeps.work import broken_rows
from seepage.audit.sweeps.worker import DIED, ONE_THREAD, Remote
from seepage.errors import InputError

__all__ = ["RayCluster"]

_SILENT = {  # the library is silent: Ray's own notices are for who runs the cluster
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RayCluster:
    """Tasks of one core each. ``RAY_ADDRESS`` or a cluster running on this machine is joined, else one is started.

    seepage should be installed on every node, in the same version. A task whose process dies is tried once more; then
    it becomes rows that say so.

    Args:
        workers: how many shards are under way at most; as many as the cluster has cores, if left out.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._ray = _import_ray()
        self._joined = self._ray.is_initialized()
        if not self._joined:
            _start(self._ray)
        run = self._ray.remote(num_cpus=1, max_retries=1, runtime_env={"env_vars": ONE_THREAD})
        self._run = run(_task)
        self._remote = self._ray.put(Remote.here())
        self._workers = workers or int(self._ray.cluster_resources().get("CPU", 1))
        self._under_way: dict[Any, Shard] = {}

    @property
    def slots(self) -> int:
        """One for each worker."""
        return self._workers

    def submit(self, shard: Shard) -> None:
        """Take on one shard."""
        self._under_way[self._run.remote(self._remote, shard)] = shard

    def completed(self) -> Iterator[tuple[Shard, list[Finding]]]:
        """Wait for the next shards to be done."""
        if not self._under_way:
            return
        done, _ = self._ray.wait(list(self._under_way), num_returns=1)
        for task in done:
            shard = self._under_way.pop(task)
            try:
                yield shard, self._ray.get(task)
            except self._ray.exceptions.WorkerCrashedError:
                yield shard, broken_rows(shard, DIED)
            except self._ray.exceptions.RayError as error:
                first = (str(error).strip().splitlines() or [""])[-1]
                yield shard, broken_rows(shard, f"{type(error).__name__}: {first}")

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Drop what is under way; leave a cluster that was joined, end one that was started."""
        for task in self._under_way:
            self._ray.cancel(task, force=True)
        self._under_way.clear()
        if not self._joined:
            self._ray.shutdown()


def _task(remote: Remote, shard: Shard) -> list[Finding]:
    return remote(shard)


def _import_ray() -> Any:
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError("`--engine ray` should have Ray installed: pip install 'seepage[ray]'.") from error
    return ray


def _start(ray: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"`--engine ray` should reach a Ray cluster, or start one; found: {first}") from error
