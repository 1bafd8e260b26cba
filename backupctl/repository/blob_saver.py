"""Saving blobs: compress, seal, verify, pack and upload in the background, in bounded memory.

Large blobs are sealed in threads of ours, many small ones (`save_all`) in the worker processes of a `Pool`, where there is one:
threads that take microseconds for each of them fight over the interpreter lock. Memory in flight: 8 MiB of blobs waiting to be
sealed, 2 open packs of trees and 2 packs on their way, of 16 MiB each; and 2 open packs of content, of which a store that takes
them while they grow has all but a mebibyte.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from backupctl.hosts.workers import WorkerDiedError
from backupctl.repository.format.crypto import seal
from backupctl.repository.format.pack import (
    KINDS,
    TARGET_BYTES,
    BlobKind,
    decode_header,
    encode_entry,
    encode_trailer,
    iterate_header,
)
from backupctl.repository.format.sealing import BlobSealer, Run, seal_all
from backupctl.repository.memory import return_freed_memory
from backupctl.repository.open_packs import OpenPack, OpenPacks
from backupctl.repository.pool import Pool
from backupctl.repository.walk_messages import Blob

if TYPE_CHECKING:
    from backupctl.repository.repository import Repository

UPLOADS = 2
MAX_WORKERS = 3  # each needs up to six times its blob
WAITING_BYTES = 8 << 20
POOL_FROM_BYTES = 4 << 20  # of small blobs: fewer are sealed here before a worker has started
INDEX_BLOBS = 50_000
INDEX_SECONDS = 600.0


@dataclass(slots=True)
class SaverStats:
    new_blobs: int = 0
    new_bytes: int = 0  # content of new blobs
    stored_bytes: int = 0  # the same as stored: compressed and sealed
    duplicate_blobs: int = 0
    new_trees: int = 0  # of the new blobs


class BlobSaver:
    """`save` is thread-safe; `flush` and `abort` belong to one thread, when no other saves. The first failure of a worker
    is raised by the next `save` and by `flush`; after it nothing more is uploaded."""

    def __init__(
        self,
        repository: Repository,
        *,
        target_bytes: int = TARGET_BYTES,
        workers: int | None = None,
        choose: random.Random | None = None,
        pool: Pool | None = None,
    ) -> None:
        return_freed_memory()
        self._repository = repository
        self._worker_count = workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._pool = pool
        self._small_bytes = 0
        self.stats = SaverStats()
        self._guard = threading.Condition()
        self._pending: dict[BlobKind, set[bytes]] = {kind: set() for kind in KINDS}
        self._waiting_bytes = 0
        self._open = OpenPacks(target_bytes, choose)
        self._full: deque[OpenPack] = deque()  # waiting for an upload: a signal that ends the wait must not lose them
        self._under_way: deque[Future[None]] = deque()
        self._last_write: Future[None] | None = None
        self._failure: BaseException | None = None
        self._aborted = False
        self._upload_slots = threading.BoundedSemaphore(UPLOADS)
        self._workers: ThreadPoolExecutor | None = None
        self._uploader: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._join_guard = threading.Lock()
        self._index_guard = threading.Lock()
        self._unindexed: dict[bytes, bytes] = {}  # pack id → plain header: compact
        self._unindexed_blobs = 0
        self._last_index = repository.clock.monotonic()

    def save(self, kind: BlobKind, data: bytes, *, again: bool = False) -> bytes:
        """The blob's id, at once; durable only after `flush`. Raises what an earlier blob failed with. `again` stores a
        blob that the index knows already (prune does)."""
        blob_id = hashlib.sha256(data).digest()
        with self._guard:
            self._raise_failure()
            if blob_id in self._pending[kind] or (not again and self._repository.has_blob(kind, blob_id)):
                self.stats.duplicate_blobs += 1
                return blob_id
            while self._waiting_bytes and self._waiting_bytes + len(data) > WAITING_BYTES:
                self._guard.wait()
                self._raise_failure()
            if blob_id in self._pending[kind]:  # another thread, while we waited
                self.stats.duplicate_blobs += 1
                return blob_id
            self._pending[kind].add(blob_id)
            self._waiting_bytes += len(data)
            self._count_new(kind, 1, len(data))
            self._forget_done()
            self._under_way.append(self._start().submit(self._seal, kind, blob_id, data))
        return blob_id

    def save_all(self, kind: BlobKind, data: bytes, sizes: Sequence[int]) -> list[bytes]:
        """`save` for blobs that stand one after the other in `data`, and less work for many small ones."""
        if len(sizes) == 1:
            return [self.save(kind, data)]
        view, starts = memoryview(data), list(accumulate(sizes, initial=0))
        ids = [hashlib.sha256(view[start:end]).digest() for start, end in pairwise(starts)]
        with self._guard:
            self._raise_failure()
            new = set(self._repository.lacking(kind, ids)) - self._pending[kind]
            self.stats.duplicate_blobs += len(ids) - len(new)
            if not new:
                return ids
            self._pending[kind] |= new
            if len(new) < len(ids):
                first = {blob_id: number for number, blob_id in enumerate(ids) if blob_id in new}
                data = b"".join([view[starts[number] : starts[number + 1]] for number in first.values()])
                sizes = [sizes[number] for number in first.values()]
                task_ids = b"".join(first)
            else:
                task_ids = b"".join(ids)
            self._count_new(kind, len(new), len(data))
            while self._waiting_bytes and self._waiting_bytes + len(data) > WAITING_BYTES:
                self._guard.wait()
                self._raise_failure()
            self._waiting_bytes += len(data)
            self._small_bytes += len(data)
            self._forget_done()
            threads = self._start()
        submit = threads.submit if self._pool is None or self._small_bytes < POOL_FROM_BYTES else self._pool.submit
        sealing = partial(seal_all, self._repository.keys, kind, data, sizes, task_ids)
        task = submit(sealing)
        taken: Future[None] = Future()
        self._under_way.append(taken)  # a task is done before who waits for it has had his turn
        task.add_done_callback(lambda task: self._take_sealed(task, kind, sealing, len(data), taken))
        return ids

    def add_sealed(self, blobs: Collection[Blob]) -> None:
        """Blobs that another process has compressed, sealed and opened again. Waits while enough packs are on their
        way. Raises what an earlier blob failed with."""
        with self._guard:
            self._raise_failure()
            self._start()
            full: list[OpenPack] = []
            lacking = {
                kind: set(self._repository.lacking(kind, [blob[1] for blob in blobs if blob[0] == kind]))
                for kind in KINDS
            }
            for kind, blob_id, size, plain_length, sealed in blobs:
                if blob_id not in lacking[kind] or blob_id in self._pending[kind]:
                    self.stats.duplicate_blobs += 1
                    continue
                self._pending[kind].add(blob_id)
                self._count_new(kind, 1, size)
                full += self._pack(kind, [(encode_entry(kind, blob_id, len(sealed), plain_length), sealed)])
            wide = self._open.wide()
        self._upload_later(full)
        if wide:
            self._write_later(wide)

    def _count_new(self, kind: BlobKind, blobs: int, size: int) -> None:
        self.stats.new_blobs += blobs
        self.stats.new_bytes += size
        if kind == "tree":
            self.stats.new_trees += blobs

    def _forget_done(self) -> None:
        while self._under_way and self._under_way[0].done():
            self._under_way.popleft()

    def knows(self, kind: BlobKind, blob_id: bytes) -> bool:
        """Whether the blob is stored, or will be by the next `flush`."""
        with self._guard:
            return blob_id in self._pending[kind] or self._repository.has_blob(kind, blob_id)

    def _start(self) -> ThreadPoolExecutor:
        if self._workers is None:
            self._workers = ThreadPoolExecutor(self._worker_count, thread_name_prefix="seal")
            self._uploader = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
        return self._workers

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._aborted:
            raise RuntimeError("the saver was aborted")

    def _fail(self, error: BaseException) -> None:
        with self._guard:
            self._failure = self._failure or error
            self._guard.notify_all()

    def _stopped(self) -> bool:
        return self._aborted or self._failure is not None

    def _seal(self, kind: BlobKind, blob_id: bytes, data: bytes) -> None:
        """Runs in a worker."""

        def seal() -> list[Run]:
            plain_length, sealed = self._sealer().encode(kind, blob_id, data)
            return [(encode_entry(kind, blob_id, len(sealed), plain_length), sealed)]

        self._take(kind, seal, len(data))

    def _take(self, kind: BlobKind, seal: Callable[[], Sequence[Run]], size: int) -> None:
        """Pack what `seal` gives; what it raises is kept for the caller. `size` waits no longer then."""
        try:
            if not self._stopped():
                runs = seal()
                with self._guard:
                    full = self._pack(kind, runs)
                    wide = self._open.wide()
                del runs
                self._write(wide)
                self._upload_later(full)
        except BaseException as error:  # noqa: BLE001 — kept and raised by the caller's next save or flush
            self._fail(error)
        finally:
            with self._guard:
                self._waiting_bytes -= size
                self._guard.notify_all()

    def _sealer(self) -> BlobSealer:
        """This thread's own."""
        sealer: BlobSealer | None = getattr(self._local, "sealer", None)
        if sealer is None:
            sealer = self._local.sealer = BlobSealer(self._repository.keys)
        return sealer

    def _take_sealed(
        self,
        task: Future[list[Run]],
        kind: BlobKind,
        sealing: Callable[[], list[Run]],
        size: int,
        taken: Future[None],
    ) -> None:
        """What `sealing` gave. Runs wherever the task was done."""
        self._take(kind, lambda: self._sealed_anyhow(task, sealing), size)
        taken.set_result(None)

    def _sealed_anyhow(self, task: Future[list[Run]], sealing: Callable[[], list[Run]]) -> list[Run]:
        try:
            return task.result()
        except WorkerDiedError:
            if self._pool is None or not self._pool.closed:
                raise
            return sealing()  # we ended it, to keep what was read by now

    def _pack(self, kind: BlobKind, runs: Sequence[Run]) -> list[OpenPack]:
        """Put sealed blobs into packs; those that are full. The caller holds the guard."""
        self.stats.stored_bytes += sum(len(sealed) for _, sealed in runs)
        return self._open.add(kind, runs)

    def _write_later(self, packs: Sequence[OpenPack]) -> None:
        """`_write` in a thread of ours; waits until what was to be written before is."""
        if self._last_write is not None:
            self._last_write.result()
        self._last_write = self._start().submit(self._write, packs)
        self._under_way.append(self._last_write)

    def _write(self, packs: Sequence[OpenPack]) -> None:
        """What waits in them, where the store takes a pack while it grows."""
        try:
            for pack in [] if self._stopped() else packs:
                pack.write(self._repository.store)
        except BaseException as error:  # noqa: BLE001 — kept and raised by the caller's next save or flush
            self._fail(error)

    def _upload_later(self, packs: Iterable[OpenPack]) -> None:
        """Hand full packs to the uploader; waits while enough are on their way."""
        for pack in packs:
            self._full.append(pack)
            self._upload_next()

    def _upload_next(self) -> None:
        assert self._uploader is not None
        self._upload_slots.acquire()
        try:
            self._under_way.append(self._uploader.submit(self._upload, self._full.popleft()))
        except BaseException:
            self._upload_slots.release()
            raise

    def _upload(self, pack: OpenPack) -> None:
        """Runs in the uploader."""
        try:
            if self._stopped():
                return
            pack.absorb()
            if pack.kind == "data":
                pack.write(self._repository.store, last=True)
            if pack.draft is None:
                pack_id, header = self._put(pack)
            else:
                header = bytes(pack.header)
                pack_id = pack.end(encode_trailer(seal(self._repository.keys, header)))
                self._repository.finish_pack(pack_id, pack.draft)
            rows = list(iterate_header(header))
            self._repository.index.add_listed(pack_id, rows)
            with self._guard:
                self._pending[pack.kind].difference_update([row[4] for row in rows])
            with self._index_guard:
                self._unindexed[pack_id] = header
                self._unindexed_blobs += len(rows)
                age_seconds = self._repository.clock.monotonic() - self._last_index
                if self._unindexed_blobs >= INDEX_BLOBS or age_seconds >= INDEX_SECONDS:
                    self._write_index()
        except BaseException as error:  # noqa: BLE001 — kept and raised by the caller's next save or flush
            self._fail(error)
        finally:
            self._upload_slots.release()

    def _put(self, pack: OpenPack) -> tuple[bytes, bytes]:
        """Upload it as a whole; its id and its plain header."""
        header = b"".join([entries for entries, _ in pack.runs])
        with self._join_guard:  # one pack at a time is in memory twice
            pieces = [sealed for _, sealed in pack.runs]
            pieces.append(encode_trailer(seal(self._repository.keys, header)))
            pack.runs.clear()
            data = b"".join(pieces)
            pieces.clear()
        pack_id = hashlib.sha256(data).digest()
        self._repository.put_pack(pack.kind, pack_id, data)
        return pack_id, header

    def _write_index(self) -> None:
        """The caller holds the index guard."""
        if self._unindexed:
            self._repository.save_index((pack_id, decode_header(header)) for pack_id, header in self._unindexed.items())
            self._unindexed.clear()
            self._unindexed_blobs = 0
        self._last_index = self._repository.clock.monotonic()

    def flush(self) -> None:
        """Everything saved so far is durable and indexed when this returns; saving may go on. Raises what went wrong."""
        if self._workers is not None:
            self._settle()
            self._workers.shutdown()
            self._full.extend(self._open.take())
            while self._full:
                self._upload_next()
            self._settle()
            self._stop_uploader()
        self._raise_failure()
        with self._index_guard:
            self._write_index()

    def _settle(self) -> None:
        """Wait for all that is under way. Joining threads is not enough: in Python 3.11 a join that a signal interrupted
        takes the thread for ended from then on, and a flush after the signal would leave packs out of the index."""
        while self._under_way:
            self._under_way[0].result()
            self._under_way.popleft()

    def _stop_uploader(self) -> None:
        assert self._uploader is not None
        self._uploader.shutdown()
        self._workers = self._uploader = None

    def abort(self) -> None:
        """Drop what is not uploaded yet. Packs already uploaded stay as orphans until the next prune."""
        with self._guard:
            self._aborted = True
            self._guard.notify_all()
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
            self._stop_uploader()
        self._full.clear()
        self._under_way.clear()
        self._open.take()
