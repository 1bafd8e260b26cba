"""An opened repository: the store, the master keys, and the index of every blob."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from backupctl.clock import Clock
from backupctl.errors import Corrupt, DamageError, LockedError, NoSuchError, NotFound, UserError
from backupctl.repository import opening, records
from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.cache import Cache, CachePlace
from backupctl.repository.format import FormatError
from backupctl.repository.format.config import RepositoryConfig
from backupctl.repository.format.crypto import Keys, derive, seal, unseal
from backupctl.repository.format.index import encode_index
from backupctl.repository.format.lock import LockInfo
from backupctl.repository.format.opening import BlobOpener
from backupctl.repository.format.pack import BlobKind, PackedBlob, require_possible
from backupctl.repository.format.snapshot import Snapshot, decode_snapshot, encode_snapshot
from backupctl.repository.format.unpacked import decode_unpacked, decompress, encode_unpacked
from backupctl.repository.index_loading import load_segments, rows_of
from backupctl.repository.locks import Lock, Locks
from backupctl.repository.memory_index import Location, MemoryIndex
from backupctl.repository.near_trees import NearTrees
from backupctl.repository.pool import Pool
from backupctl.repository.unlisted import unlisted_packs
from backupctl.storage.drafts import Draft
from backupctl.storage.protocol import ObjectStore

CHECK = "run `backupctl check --read-data`: it says what else is hit, and which `backupctl repair` helps"
Fallback = Callable[[BlobKind, bytes, DamageError], bytes | None]
"""Asked by `load_blob` for a blob's verified content when this repository cannot give it, and why; None: not there either."""
_HEX_ID = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


def pack_name(pack_id: bytes) -> str:
    text = pack_id.hex()
    return f"data/{text[:2]}/{text}"


class Repository:
    """Thread-safe for reading and for saving blobs. Storage errors (Denied, Full, Transient) pass through unchanged."""

    def __init__(
        self,
        store: ObjectStore,
        keys: Keys,
        config: RepositoryConfig,
        *,
        clock: Clock,
        cache: CachePlace | None = None,
    ) -> None:
        self.store, self.keys, self.config, self.clock = store, keys, config, clock
        self.id = config.id
        self.cache = Cache(cache, config.id, self.derive(b"cache", 32)) if cache else None
        self.locks = Locks(store, keys, clock)
        self._held: list[Lock] = []
        self._lock_ahead: Lock | None = None
        self._index: MemoryIndex | None = None
        self._unproven_index: MemoryIndex | None = None  # read before the lock that we hold now
        self._index_files: set[str] = set()
        self._bad_index_files: set[str] = set()  # said once, not tried again
        self._index_guard = threading.RLock()
        self._snapshots: dict[str, Snapshot] = {}
        self._distrusted: set[bytes] = set()  # packs
        self._bad_copies: set[tuple[bytes, bytes]] = set()  # pack, blob
        self._unlisted: MemoryIndex | None = None
        self._near = NearTrees(self._read_range)
        self._local = threading.local()
        self.fallback: Fallback | None = None

    @classmethod
    def create(cls, store: ObjectStore, password: str, *, clock: Clock, scrypt_n: int = 32768) -> Repository:
        """A new repository in an empty place. Raises Exists when anything of one is there, UsageError for a password
        that other programs would read differently."""
        keys, config = opening.create(store, password, clock=clock, scrypt_n=scrypt_n)
        return cls(store, keys, config, clock=clock)

    @classmethod
    def open(cls, store: ObjectStore, password: str, *, clock: Clock, cache: CachePlace | None = None) -> Repository:
        """Raises NoSuchError when there is no config, WrongKeyError when no key opens with `password`, DamageError."""
        keys, config = opening.unlock(store, password)
        return cls(store, keys, config, clock=clock, cache=cache)

    def derive(self, label: bytes, length: int) -> bytes:
        """`length` secret bytes that belong to this repository and `label`."""
        return derive(self.keys, label, length)

    # locks

    @contextmanager
    def lock(self, *, exclusive: bool = False, settled: bool = True) -> Iterator[Lock]:
        """Hold a lock. Raises LockedError, which names the holder. A lock held by this object already, of this kind or
        exclusive, is held on. One that need not be `settled` yet is settled before the first write."""
        for held in self._held:
            if held.exclusive or not exclusive:
                held.require()
                yield held
                return
        if exclusive:
            self.release_ahead()
        ahead, self._lock_ahead = self._lock_ahead, None
        self._doubt_index()
        with ahead or self._new_lock(exclusive=exclusive, settled=settled) as held:
            if settled:
                held.settle()
            self._held.append(held)
            try:
                yield held
            finally:
                self._held.remove(held)

    def _new_lock(self, *, exclusive: bool = False, settled: bool = False) -> Lock:
        return Lock(self.locks, exclusive=exclusive, settled=settled, settling=self._confirm_index)

    def lock_ahead(self) -> None:
        """Write the shared lock that the next `lock` will hold: it settles meanwhile. Raises LockedError. Without
        `release_ahead` one that nobody asked for stays."""
        self._lock_ahead = self._new_lock().__enter__()

    def release_ahead(self) -> None:
        if self._lock_ahead is not None:
            self._lock_ahead.__exit__(None, None, None)
            self._lock_ahead = None

    def settle_locks(self) -> None:
        """Raises LockedError when a lock was written in the same moment as one of ours, or when the index that was read since has
        lost a file: a prune was about to end. Whatever writes here asks this first."""
        for held in self._held:
            held.settle()

    def require_locks(self) -> None:
        """Raises LockedError when a lock we hold was lost; asked before everything that cannot be taken back."""
        for held in self._held:
            held.require()

    def list_locks(self) -> list[LockInfo]:
        return self.locks.present()

    def unlock(self) -> list[str]:
        """Remove stale locks only; their ids."""
        return self.locks.remove_stale()

    def require_writable(self) -> None:
        """Raises UserError for a repository of version 1, which we only read."""
        if self.config.version < 2:
            raise UserError(
                f"{self.store.location} is a repository of version 1: it can be read, restored, checked and copied from, "
                "but not written to",
                next_step="upgrade it in place: restic migrate upgrade_repo_v2; or copy it into a new repository",
            )

    # files

    def list_ids(self, prefix: str) -> list[str]:
        """The ids of the files under `prefix` ("snapshots/", "index/", "keys/"), other names ignored."""
        names = (info.name.removeprefix(prefix) for info in self.store.list(prefix))
        return [name for name in names if _HEX_ID.fullmatch(name)]

    def load_file(self, name: str) -> bytes:
        """The content of an index or snapshot file. Raises NotFound, DamageError."""
        wanted = name.rpartition("/")[2]
        try:
            sealed = self.store.get(name)
            if hashlib.sha256(sealed).hexdigest() != wanted:
                sealed = self.store.get(name)  # once more: it may have been the line
                if hashlib.sha256(sealed).hexdigest() != wanted:
                    raise FormatError("the stored bytes do not match their name")
            packed = unseal(self.keys, sealed)
            del sealed  # an index is 3 MB, three times that when unpacked
            return decode_unpacked(packed)
        except (Corrupt, FormatError) as error:
            raise _damage(name, error) from None

    def save_file(self, prefix: str, data: bytes) -> str:
        """Seal and store an index or snapshot file; its id. Raises UserError as `require_writable`, LockedError as
        `settle_locks`."""
        self.require_writable()
        self.settle_locks()
        sealed = seal(self.keys, encode_unpacked(data))
        file_id = hashlib.sha256(sealed).hexdigest()
        self.store.put(prefix + file_id, sealed)
        return file_id

    # blobs

    @property
    def index(self) -> MemoryIndex:
        """Where every blob is; read from the store, or the cache, on first use, and looked at again on first use under a
        new lock. An index file that is bad is skipped with a warning: what only it listed is stored again by a writer,
        and found by `locate` all the same."""
        index = self._index
        if index is not None:
            return index
        with self._index_guard:
            if self._index is None:
                known = self._unproven_index
                if known is None or not self._add_new_files(known):
                    known = self._load_index()
                self._index, self._unproven_index = known, None
            return self._index

    def _doubt_index(self) -> None:
        """Before we had this lock a prune may have deleted what the index we know says."""
        with self._index_guard:
            self._index, self._unproven_index = None, self._index or self._unproven_index
            self._unlisted = None

    def _load_index(self) -> MemoryIndex:
        listed = self.list_ids("index/")
        segments, self._index_files = load_segments(listed, self._load_index_file, self.cache)
        index = MemoryIndex(segments)
        if self.cache is not None:
            self.cache.tidy(listed, segments, index.packs.__contains__)
        return index

    def _add_new_files(self, index: MemoryIndex) -> bool:
        """Add the index files written meanwhile; False when a file is gone, and with it perhaps what it listed."""
        listed = self.list_ids("index/")
        for file_id in listed:
            if file_id in self._index_files or file_id in self._bad_index_files:
                continue
            if (found := self._load_index_file(file_id)) is not None:
                index.add_rows(*found)
                self._index_files.add(file_id)
        return self._index_files.issubset(listed)

    def _load_index_file(self, file_id: str) -> tuple[list[bytes], bytes] | None:
        """Its packs and rows. None when it is bad, or gone: replaced by a prune between list and get, and its successor is
        listed or comes with a reload."""
        name = f"index/{file_id}"
        try:
            return rows_of(self.load_file(name))
        except NotFound:
            return None
        except DamageError as error:
            log.warning("%s", error.message)
        except FormatError as error:
            log.warning("%s: %s", name, error)
        self._bad_index_files.add(file_id)
        return None

    def _confirm_index(self) -> None:
        with self._index_guard:
            if self._index is not None and not self._index_files.issubset(self.list_ids("index/")):
                raise LockedError(f"{self.store.location} was pruned in this very moment", next_step="run it again")

    def reset_index(self) -> None:
        """Forget the index: the next use reads it again."""
        with self._index_guard:
            self._index = self._unproven_index = self._unlisted = None
            self._index_files, self._bad_index_files = set(), set()

    def bypass_cache(self) -> None:
        """From now on everything comes from the store. For whoever proves that the store alone is enough."""
        self.cache = None
        self._near.clear()
        self.reset_index()

    def save_index(self, packs: Iterable[tuple[bytes, Iterable[PackedBlob]]]) -> str:
        """Write an index file for packs that are in the store."""
        file_id = self.save_file("index/", encode_index(packs))
        with self._index_guard:
            self._index_files.add(file_id)
        return file_id

    def has_blob(self, kind: BlobKind, blob_id: bytes) -> bool:
        """Whether a copy is in an index, in a pack that is not distrusted, and was not found bad by us."""
        if not self._distrusted and not self._bad_copies:
            return (kind, blob_id) in self.index
        return any(
            copy.pack not in self._distrusted and (copy.pack, blob_id) not in self._bad_copies
            for copy in self.index.lookup(kind, blob_id)
        )

    def lacking(self, kind: BlobKind, ids: Iterable[bytes]) -> list[bytes]:
        """Those for which `has_blob` says no, in less time."""
        if not self._distrusted and not self._bad_copies:
            return self.index.lacking(kind, ids)
        return [blob_id for blob_id in ids if not self.has_blob(kind, blob_id)]

    def distrust(self, packs: Iterable[bytes]) -> None:
        """What these packs hold no longer counts as stored, so that a writer stores it again while the source has it.
        Reading still tries them."""
        self._distrusted.update(packs)

    @property
    def distrusted(self) -> frozenset[bytes]:
        """The packs that `distrust` was told of."""
        return frozenset(self._distrusted)

    def locate(self, kind: BlobKind, blob_id: bytes) -> list[Location]:
        """Every copy of a blob. A blob that is not known makes us look for index files written meanwhile, and then
        into the headers of packs that no index lists: an index that was lost makes nothing unreadable."""
        copies = self.index.lookup(kind, blob_id)
        if not copies:
            with self._index_guard:
                index = self.index
                self._add_new_files(index)
                copies = index.lookup(kind, blob_id)
                if not copies:
                    if self._unlisted is None:  # kept apart: a snapshot must not rely on what no index lists
                        self._unlisted = unlisted_packs(self.store, self.keys, index)
                    copies = self._unlisted.lookup(kind, blob_id)
        return copies

    def load_blob(self, kind: BlobKind, blob_id: bytes) -> bytes:
        """The blob's content, verified against its id. Tries every copy; raises DamageError naming the last pack."""
        problem: DamageError | None = None
        for place in self.locate(kind, blob_id):
            if kind == "tree" and (near := self._near_tree(place)) is not None:
                return near
            try:
                return self.load_copy(place)
            except DamageError as error:
                problem = error
        if problem is None:
            name = f"{kind}/{blob_id.hex()}"
            problem = DamageError(f"{kind} blob {blob_id.hex()} is in no index", name=name, next_step=CHECK)
        if self.fallback is not None and (found := self.fallback(kind, blob_id, problem)) is not None:
            return found
        raise problem

    def _near_tree(self, place: Location) -> bytes | None:
        """A tree by way of the cache, or out of a part of its pack, verified; None when it has to be read by itself."""
        blob = place.blob
        try:
            require_possible(blob)
            if self.cache is not None and self.cache.keeps_trees:
                sealed = self.cache.tree(place.pack, blob.offset, blob.length, partial(self._whole_pack, place.pack))
            else:
                end = max(blob.offset + blob.length, self.index.end_of(place.pack))
                sealed = self._near.sealed(place.pack, blob.offset, blob.length, end)
            if sealed is None:
                return None
            found = self._opener().open(memoryview(sealed), blob.length, blob.plain_length, blob.id)
        except FormatError:
            found = None
        except (NotFound, Corrupt):
            return None  # `load_copy` finds the same and names it
        if found is None:
            self._near.clear()
            if self.cache is not None and self.cache.keeps_trees:
                self.cache.drop_trees(place.pack)
        return found

    def read_sealed(self, pack: bytes, offset: int, length: int) -> bytes:
        """A part of a pack of trees as it lies there, not verified. Raises NotFound, Corrupt."""
        if self.cache is not None and self.cache.keeps_trees:
            try:
                found = self.cache.tree(pack, offset, length, partial(self._whole_pack, pack))
            except FormatError as error:
                raise Corrupt(f"{pack_name(pack)}: {error}") from None
            if found is not None:
                return found
        return self._read_range(pack, offset, length)

    def _opener(self) -> BlobOpener:
        """This thread's own."""
        opener: BlobOpener | None = getattr(self._local, "opener", None)
        if opener is None:
            opener = self._local.opener = BlobOpener(self.keys)
        return opener

    def _read_range(self, pack: bytes, offset: int, length: int) -> bytes:
        return self.store.get(pack_name(pack), offset=offset, length=length)

    def _whole_pack(self, pack: bytes) -> bytes:
        data = self.store.get(pack_name(pack))
        if hashlib.sha256(data).digest() != pack:
            raise FormatError("the pack is not what its name says")
        return data

    def put_pack(self, kind: BlobKind, pack: bytes, data: bytes) -> None:
        """Store a pack that is in no index yet. Trees stay in the cache, for the next run to compare with. Raises LockedError as
        `settle_locks`."""
        self.settle_locks()
        self.store.put(pack_name(pack), data)
        if kind == "tree" and self.cache is not None:
            self.cache.save_trees(pack, data)

    def finish_pack(self, pack: bytes, draft: Draft) -> None:
        """`put_pack` for a pack of content that was written while it grew."""
        self.settle_locks()
        draft.finish(pack_name(pack))

    def load_copy(self, place: Location) -> bytes:
        """The content of one copy of a blob, verified against its id. Raises DamageError that names the pack; that copy
        no longer counts for `has_blob`."""
        name = pack_name(place.pack)
        try:
            require_possible(place.blob)
            sealed = self.store.get(name, offset=place.blob.offset, length=place.blob.length)
            return self.open_blob(place.blob, sealed)
        except NotFound:
            self.distrust([place.pack])  # nothing else that it held is there either
            raise DamageError(f"the pack {name} is missing", name=name, next_step=CHECK) from None
        except (Corrupt, FormatError) as error:
            self._bad_copies.add((place.pack, place.blob.id))
            raise _damage(name, error, f"{place.blob.kind} blob {place.blob.id.hex()}: ") from None

    def open_blob(self, blob: PackedBlob, sealed: bytes) -> bytes:
        """The content of a blob as stored in a pack. Raises FormatError when it is not the one that `blob` names."""
        require_possible(blob)
        data = unseal(self.keys, sealed)
        if blob.plain_length:
            data = decompress(data, max_bytes=blob.plain_length)
        if hashlib.sha256(data).digest() != blob.id:
            raise FormatError("the content does not match its id")
        return data

    def blob_saver(self, pool: Pool | None = None) -> BlobSaver:
        """Raises UserError as `require_writable`. In `pool` many small blobs are sealed."""
        self.require_writable()
        return BlobSaver(self, pool=pool)

    # snapshots

    def snapshot_ids(self) -> list[str]:
        return self.list_ids("snapshots/")

    def snapshots(self) -> list[Snapshot]:
        """Every snapshot, oldest first. Raises DamageError for one that cannot be read."""
        return sorted(self._present_snapshots(), key=lambda snapshot: (snapshot.time, snapshot.id))

    def _present_snapshots(self) -> Iterator[Snapshot]:
        for snapshot_id in self.snapshot_ids():
            try:
                yield self.read_snapshot(snapshot_id)
            except NotFound:
                continue  # deleted between list and get

    def read_snapshot(self, snapshot_id: str) -> Snapshot:
        """The snapshot with exactly this id. Raises NotFound, DamageError."""
        return self._snapshots.get(snapshot_id) or self.reread_snapshot(snapshot_id)

    def reread_snapshot(self, snapshot_id: str) -> Snapshot:
        """The same from the store, whatever was read before."""
        name = f"snapshots/{snapshot_id}"
        data = self.load_file(name)
        try:
            self._snapshots[snapshot_id] = decode_snapshot(data, snapshot_id)
        except FormatError as error:
            raise _damage(name, error) from None
        return self._snapshots[snapshot_id]

    def load_snapshot(self, id_or_prefix: str) -> Snapshot:
        """Raises NoSuchError when no snapshot, or more than one, begins so."""
        found = [
            snapshot_id for snapshot_id in self.snapshot_ids() if id_or_prefix and snapshot_id.startswith(id_or_prefix)
        ]
        if len(found) != 1:
            what = f"{len(found)} snapshots begin with" if found else "no snapshot"
            raise NoSuchError(
                f"{self.store.location}: {what} {id_or_prefix!r}", next_step="list them: backupctl snapshots"
            )
        return self.read_snapshot(found[0])

    def save_snapshot(self, snapshot: Snapshot) -> str:
        """Store it, set its `id`, and return that. Everything it refers to must be durable: flush the saver first. Raises
        LockedError when a lock we hold was lost: a prune may have deleted what the snapshot relies on."""
        self.confirm_locks()
        snapshot.id = self.save_file("snapshots/", encode_snapshot(snapshot))
        return snapshot.id

    def confirm_locks(self) -> None:
        """Raises LockedError when a lock we hold is no longer in the store."""
        for held in self._held:
            held.confirm()

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Idempotent. What only it referred to stays until the next prune."""
        self.require_locks()
        self.store.delete(f"snapshots/{snapshot_id}")
        self._snapshots.pop(snapshot_id, None)

    # records

    def save_record(self, kind: str, data: bytes) -> str:
        self.require_locks()
        return records.save_record(self.store, self.keys, kind, data)

    def load_record(self, kind: str, record_id: str) -> bytes:
        """Raises NoSuchError, DamageError."""
        return records.load_record(self.store, self.keys, kind, record_id)

    def records(self, kind: str) -> list[str]:
        return records.list_records(self.store, kind)

    def delete_record(self, kind: str, record_id: str) -> None:
        """Idempotent."""
        self.store.delete(records.record_name(kind, record_id))


def _damage(name: str, error: Corrupt | FormatError, what: str = "") -> DamageError:
    message = error.message if isinstance(error, Corrupt) else error
    return DamageError(f"{name}: {what}{message}", name=name, next_step=CHECK)
