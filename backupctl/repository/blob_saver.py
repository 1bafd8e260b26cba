"""Saving blobs: compress, seal, verify, pack and upload in the background, in bounded memory.

Two packs per kind are open at a time and each blob goes into one of them at random, which hides chunk sizes from
whoever sees the packs (restic 0.18; https://eprint.iacr.org/2025/532). Memory in flight: 4 open packs of 16 MiB, 2
packs on their way, and 16 MiB of blobs waiting for a worker.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backupctl.repository.format.crypto import seal
from backupctl.repository.format.pack import (
    TARGET_BYTES,
    BlobKind,
    PackedBlob,
    decode_header,
    encode_header,
    encode_trailer,
)
from backupctl.repository.format.sealing import BlobSealer
from backupctl.repository.memory import return_freed_memory

if TYPE_CHECKING:
    from backupctl.repository.repository import Repository

OPEN_PACKS = 2
UPLOADS = 2
MAX_WORKERS = 3  # each needs up to six times its blob
WAITING_BYTES = 16 << 20
INDEX_BLOBS = 50_000
INDEX_SECONDS = 600.0
_ENTRY_BYTES = 41


@dataclass(slots=True)
class SaverStats:
    new_blobs: int = 0
    new_bytes: int = 0  # content of new blobs
    stored_bytes: int = 0  # the same as stored: compressed and sealed
    duplicate_blobs: int = 0
    new_trees: int = 0  # of the new blobs


@dataclass(slots=True)
class _OpenPack:
    kind: BlobKind
    blobs: list[tuple[bytes, int, bytes]] = field(default_factory=list)  # id, plain length (0: plain), sealed
    size: int = 0

    def add(self, blob_id: bytes, plain_length: int, sealed: bytes) -> None:
        self.blobs.append((blob_id, plain_length, sealed))
        self.size += len(sealed) + _ENTRY_BYTES

    def entries(self) -> list[PackedBlob]:
        entries, offset = [], 0
        for blob_id, plain_length, sealed in self.blobs:
            entries.append(PackedBlob(self.kind, blob_id, offset, len(sealed), plain_length))
            offset += len(sealed)
        return entries


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
    ) -> None:
        return_freed_memory()
        self._repository = repository
        self._target_bytes = target_bytes
        self._worker_count = workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._choose: random.Random = choose or random.SystemRandom()
        self.stats = SaverStats()
        self._guard = threading.Condition()
        self._pending: set[tuple[BlobKind, bytes]] = set()
        self._waiting_bytes = 0
        self._open: dict[BlobKind, list[_OpenPack]] = {"data": [], "tree": []}
        self._full: deque[_OpenPack] = deque()  # waiting for an upload: a signal that ends the wait must not lose them
        self._under_way: deque[Future[None]] = deque()
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
        key = (kind, blob_id)
        with self._guard:
            self._raise_failure()
            if key in self._pending or (not again and self._repository.has_blob(kind, blob_id)):
                self.stats.duplicate_blobs += 1
                return blob_id
            while self._waiting_bytes and self._waiting_bytes + len(data) > WAITING_BYTES:
                self._guard.wait()
                self._raise_failure()
            if key in self._pending:  # another thread, while we waited
                self.stats.duplicate_blobs += 1
                return blob_id
            self._pending.add(key)
            self._waiting_bytes += len(data)
            self.stats.new_blobs += 1
            self.stats.new_bytes += len(data)
            if kind == "tree":
                self.stats.new_trees += 1
            while self._under_way and self._under_way[0].done():
                self._under_way.popleft()
            self._under_way.append(self._start().submit(self._seal, kind, blob_id, data))
        return blob_id

    def add_sealed(self, kind: BlobKind, blob_id: bytes, size: int, plain_length: int, sealed: bytes) -> None:
        """A blob that another process has compressed, sealed and opened again. Waits while enough packs are on their
        way. Raises what an earlier blob failed with."""
        with self._guard:
            self._raise_failure()
            if (kind, blob_id) in self._pending or self._repository.has_blob(kind, blob_id):
                self.stats.duplicate_blobs += 1
                return
            self._pending.add((kind, blob_id))
            self.stats.new_blobs += 1
            self.stats.new_bytes += size
            if kind == "tree":
                self.stats.new_trees += 1
            self._start()
        if full := self._pack(kind, blob_id, plain_length, sealed):
            self._upload_later(full)

    def knows(self, kind: BlobKind, blob_id: bytes) -> bool:
        """Whether the blob is stored, or will be by the next `flush`."""
        with self._guard:
            return (kind, blob_id) in self._pending or self._repository.has_blob(kind, blob_id)

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
        try:
            if not self._stopped():
                plain_length, sealed = self._sealer().encode(kind, blob_id, data)
                if full := self._pack(kind, blob_id, plain_length, sealed):
                    self._upload_later(full)
        except BaseException as error:  # noqa: BLE001 — kept and raised by the caller's next save or flush
            self._fail(error)
        finally:
            with self._guard:
                self._waiting_bytes -= len(data)
                self._guard.notify_all()

    def _sealer(self) -> BlobSealer:
        """This thread's own."""
        sealer: BlobSealer | None = getattr(self._local, "sealer", None)
        if sealer is None:
            sealer = self._local.sealer = BlobSealer(self._repository.keys)
        return sealer

    def _pack(self, kind: BlobKind, blob_id: bytes, plain_length: int, sealed: bytes) -> _OpenPack | None:
        """Put a sealed blob into an open pack; the pack when it is full."""
        with self._guard:
            self.stats.stored_bytes += len(sealed)
            packs = self._open[kind]
            if len(sealed) >= self._target_bytes:
                pack = _OpenPack(kind)
            elif len(packs) < OPEN_PACKS:
                packs.append(pack := _OpenPack(kind))
            else:
                pack = self._choose.choice(packs)
            pack.add(blob_id, plain_length, sealed)
            if pack.size < self._target_bytes:
                return None
            packs[:] = [other for other in packs if other is not pack]
            return pack

    def _upload_later(self, pack: _OpenPack) -> None:
        """Hand a full pack to the uploader; waits while enough are on their way."""
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

    def _upload(self, pack: _OpenPack) -> None:
        """Runs in the uploader."""
        try:
            if self._stopped():
                return
            entries = pack.entries()
            header = encode_header(entries)
            with self._join_guard:  # one pack at a time is in memory twice
                pieces = [sealed for _, _, sealed in pack.blobs]
                pieces.append(encode_trailer(seal(self._repository.keys, header)))
                pack.blobs.clear()
                data = b"".join(pieces)
                pieces.clear()
            pack_id = hashlib.sha256(data).digest()
            self._repository.put_pack(entries[0].kind, pack_id, data)  # a pack holds one kind
            del data
            self._repository.index.add_pack(pack_id, entries)
            with self._guard:
                self._pending.difference_update((blob.kind, blob.id) for blob in entries)
            with self._index_guard:
                self._unindexed[pack_id] = header
                self._unindexed_blobs += len(entries)
                age_seconds = self._repository.clock.monotonic() - self._last_index
                if self._unindexed_blobs >= INDEX_BLOBS or age_seconds >= INDEX_SECONDS:
                    self._write_index()
        except BaseException as error:  # noqa: BLE001 — kept and raised by the caller's next save or flush
            self._fail(error)
        finally:
            self._upload_slots.release()

    def _write_index(self) -> None:
        """The caller holds the index guard."""
        if self._unindexed:
            self._repository.save_index(
                [(pack_id, decode_header(header)) for pack_id, header in self._unindexed.items()]
            )
            self._unindexed.clear()
            self._unindexed_blobs = 0
        self._last_index = self._repository.clock.monotonic()

    def flush(self) -> None:
        """Everything saved so far is durable and indexed when this returns; saving may go on. Raises what went wrong."""
        if self._workers is not None:
            self._settle()
            self._workers.shutdown()
            self._full.extend(self._leftovers())
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

    def _leftovers(self) -> list[_OpenPack]:
        """The packs still open, small ones of a kind together."""
        leftovers: list[_OpenPack] = []
        for packs in self._open.values():
            if sum(pack.size for pack in packs) <= self._target_bytes:
                for pack in packs[1:]:
                    packs[0].blobs.extend(pack.blobs)
                del packs[1:]
            leftovers.extend(packs)
            packs.clear()
        return leftovers

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
        for packs in self._open.values():
            packs.clear()
