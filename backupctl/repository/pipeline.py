"""Batches of a restore under way: fetched by threads of ours, so that retry and limits apply; opened and written by
worker processes where the target is a directory of this machine, else only opened, for the caller to write. Workers read the
packs themselves where those too are files of this machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from backupctl.errors import Corrupt, NotFound
from backupctl.hosts.protocol import LocalRoot
from backupctl.hosts.workers import WorkerDiedError, Workers
from backupctl.repository.fetching import Run
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.unpacking import DamagedBlob, Ranges, Trouble, opened, place_batch
from backupctl.repository.windows import Batch
from backupctl.storage.nearby import directory_of

Parts = list[tuple[int, bytes]]
_OPENED_BATCHES = 4  # under way, or waiting to be written by the caller


class Outcome:
    """Of one batch. `trouble` by the position of a file; `contents` is None when workers have written the files."""

    def __init__(
        self,
        batch: Batch,
        trouble: list[Trouble],
        warnings: list[str] | None = None,
        contents: list[Parts] | None = None,
    ) -> None:
        self.batch = batch
        self.trouble = {one.file: one.blob for one in trouble}
        self.warnings = warnings or []
        self.contents = contents


class Pipeline:
    def __init__(self, repository: Repository, root: LocalRoot | None, workers: int) -> None:
        """With a `root` of this machine, batches are placed by that many workers."""
        self._repository = repository
        self._root = root
        self._workers = Workers(workers) if root is not None else None
        self._directory = directory_of(repository.store) if root is not None else None
        # in workers' time a thread holds the sealed bytes of one batch: that bounds memory
        self._threads = ThreadPoolExecutor(2 * workers + 2 if root is not None else _OPENED_BATCHES, "batch")
        self._waiting: deque[Batch] = deque()
        self._running: deque[Future[Outcome]] = deque()

    @property
    def divides(self) -> bool:
        """Whether files may be written in several batches."""
        return self._root is not None

    def submit(self, batches: list[Batch]) -> None:
        self._waiting.extend(batches)
        self._advance()

    def _advance(self) -> None:
        while self._waiting and (self._root is not None or len(self._running) < _OPENED_BATCHES):
            self._running.append(self._threads.submit(self._run, self._waiting.popleft()))

    @property
    def outstanding(self) -> int:
        """Batches whose outcome was not taken yet."""
        return len(self._waiting) + len(self._running)

    def outcomes(self, *, leave: int | None = None) -> Iterator[Outcome]:
        """In the order submitted: those that are there; with `leave`, wait until no more than that are outstanding.
        Raises what the store raised."""
        while self._running and (self._running[0].done() or (leave is not None and self.outstanding > leave)):
            outcome = self._running.popleft().result()
            self._advance()
            yield outcome

    def _run(self, batch: Batch) -> Outcome:
        keys = self._repository.keys
        ranges: list[bytes] | Ranges
        try:
            if self._directory is not None:
                ranges = Ranges(self._directory, [(pack_name(run.pack), run.start, run.end) for run in batch.runs])
            else:
                ranges = [self._fetch(run) for run in batch.runs]
        except (NotFound, Corrupt):  # a lost pack: each of its files is told about it, if no other copy helps
            return Outcome(batch, [Trouble(number, b"") for number in range(len(batch.files))])
        if self._workers is None or self._root is None:
            assert not isinstance(ranges, Ranges)
            found = opened(keys, ranges, batch.blobs, batch.files)
            trouble = [Trouble(number, one.blob) for number, one in enumerate(found) if isinstance(one, DamagedBlob)]
            return Outcome(batch, trouble, contents=[[] if isinstance(one, DamagedBlob) else one for one in found])
        root = self._root
        task = self._workers.submit(
            place_batch, keys, root.path, (root.device, root.inode), ranges, batch.blobs, batch.files
        )
        del ranges  # they are the worker's now
        try:
            return Outcome(batch, *task.result())
        except WorkerDiedError:
            return Outcome(batch, [Trouble(number, b"") for number in range(len(batch.files))])

    def _fetch(self, run: Run) -> bytes:
        return self._repository.store.get(pack_name(run.pack), offset=run.start, length=run.end - run.start)

    def close(self) -> None:
        """Wait for what is under way, drop the rest."""
        self._waiting.clear()
        self._threads.shutdown(cancel_futures=True)  # what a worker has begun it ends, so that no half file stays
        if self._workers is not None:
            self._workers.close()
