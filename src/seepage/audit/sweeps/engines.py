"""Who computes shards: submit, take them as they are done, cancel. Here, a pool of spawned processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from types import FrameType
from typing import NoReturn, Protocol, Self

import torch

from seepage.audit.findings import Finding
from seepage.audit.sweeps.cell import Shard
from seepage.audit.sweeps.work import broken_rows, run_shard
from seepage.audit.sweeps.worker import DIED, one_thread

__all__ = ["Engine", "LocalPool"]


class Engine(Protocol):
    """Anything that computes shards. A result depends on its shard alone, so engines may be exchanged."""

    @property
    def slots(self) -> int:
        """How many shards it is worth having under way."""
        ...

    def submit(self, shard: Shard) -> None:
        """Take on one shard."""
        ...

    def completed(self) -> Iterator[tuple[Shard, list[Finding]]]:
        """Wait until at least one shard is done and yield those that are; nothing if none is under way."""
        ...

    def cancel(self) -> None:
        """Drop what is under way, and end the workers."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """As :meth:`cancel`."""
        ...


class LocalPool:
    """A pool of spawned processes on this machine. They end with their parent, however it ends.

    A worker that dies takes the whole pool with it, and does not say which shard it had: those under way are then
    tried one by one, each in a process of its own, and the one that dies again becomes rows that say so.

    Args:
        workers: how many processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._before = set(multiprocessing.active_children())
        self._pool = _pool(workers)
        self._under_way: dict[Future[list[Finding]], Shard] = {}
        self._suspects: list[Shard] = []
        self._listens = False

    @property
    def slots(self) -> int:
        """One for each worker, and one waiting for whoever is done first."""
        return self._workers + 1

    def submit(self, shard: Shard) -> None:
        """Take on one shard."""
        try:
            with one_thread(), _deaf_to_interrupts():
                self._under_way[self._pool.submit(run_shard, shard)] = shard
        except BrokenProcessPool:
            self._suspects.append(shard)

    def completed(self) -> Iterator[tuple[Shard, list[Finding]]]:
        """Wait for the next shards to be done."""
        done = wait(self._under_way, return_when=FIRST_COMPLETED).done if self._under_way else set()
        for future in done:
            shard = self._under_way.pop(future)
            try:
                yield shard, future.result()
            except BrokenProcessPool:
                self._suspects.append(shard)
        if self._suspects:
            yield from self._try_suspects()

    def __enter__(self) -> "LocalPool":
        ours = threading.current_thread() is threading.main_thread()  # which alone may set what signals do
        self._listens = ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self._listens:
            signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.cancel()
        finally:
            if self._listens:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def cancel(self) -> None:
        """Drop what is under way, and end the workers."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._before:
            process.terminate()
        self._pool.shutdown(wait=True)
        self._under_way.clear()

    def _try_suspects(self) -> Iterator[tuple[Shard, list[Finding]]]:
        wait(self._under_way)  # a broken pool has failed them all; those that were done before keep their results
        for future, shard in self._under_way.items():
            if isinstance(future.exception(), BrokenProcessPool):
                self._suspects.append(shard)
            else:
                yield shard, future.result()
        self._under_way.clear()
        self._pool.shutdown()
        while self._suspects:
            shard = self._suspects.pop()
            with _pool(1) as alone, one_thread():
                try:
                    with _deaf_to_interrupts():
                        future = alone.submit(run_shard, shard)
                    rows = future.result()
                except BrokenProcessPool:
                    rows = broken_rows(shard, DIED)
            yield shard, rows
        self._pool = _pool(self._workers)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    """End as a shell says of that signal, but by way of ``with``: Python complains of semaphores that a pool leaves."""
    sys.exit(128 + number)


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, be it while they import; this one sees it when it is out again."""
    if not hasattr(signal, "pthread_sigmask"):  # not a Unix
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle; a parent that was killed takes its workers with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
