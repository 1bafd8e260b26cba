"""Where a run's sealing is done: worker processes, or threads of ours when there shall be none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from backupctl.hosts.workers import Workers, worker_count
from backupctl.repository.known import KnownBlobs

T = TypeVar("T")


class Pool:
    """Starts with the first task. `ahead`: so many tasks keep everybody busy. `known`: the table its workers share."""

    def __init__(self) -> None:
        count = worker_count()
        self.ahead = 2 * (count or os.cpu_count() or 1)
        self._workers = Workers(count) if count else None
        self._threads: ThreadPoolExecutor | None = None
        self._known: KnownBlobs | None = None
        self.filled = False
        self.closed = False

    @property
    def known(self) -> KnownBlobs:
        if self._known is None:
            self._known = KnownBlobs()
        return self._known

    def fill(self, blob_ids: Iterable[bytes]) -> None:
        """Tell the table what the repository has."""
        self.known.fill(blob_ids)
        self.filled = True

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._workers is not None:
            return self._workers.submit(function, *arguments)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="walk")
        return self._threads.submit(function, *arguments)

    def close(self, *, kill: bool = False) -> None:
        """End the workers; with `kill` whatever they are doing."""
        self.closed = True
        if self._workers is not None:
            if kill:
                self._workers.kill()
            else:
                self._workers.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=kill)
            self._threads = None
        if self._known is not None:
            self._known.close()
            self._known = None
