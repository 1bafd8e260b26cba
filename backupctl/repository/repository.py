"""An opened repository: the store, the master keys, and the index of every blob."""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from backupctl.clock import Clock
from backupctl.errors import (
    Corrupt,
    DamageError,
    Exists,
    NoSuchError,
    NotFound,
    UsageError,
    WrongKeyError,
)
from backupctl.repository import records
from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.format import FormatError
from backupctl.repository.format.config import RepositoryConfig, decode_config, encode_config, new_config
from backupctl.repository.format.crypto import Keys, SealError, derive, seal, unseal
from backupctl.repository.format.index import decode_index, encode_index
from backupctl.repository.format.keyfile import encode_keyfile, open_keyfile
from backupctl.repository.format.lock import LockInfo
from backupctl.repository.format.pack import (
    BlobKind,
    PackedBlob,
    decode_header,
    entry_bytes,
    pack_bytes,
    require_possible,
    sealed_header,
)
from backupctl.repository.format.snapshot import Snapshot, decode_snapshot, encode_snapshot
from backupctl.repository.format.unpacked import decode_unpacked, decompress, encode_unpacked
from backupctl.repository.locks import Lock, Locks, user_name
from backupctl.repository.memory_index import Location, MemoryIndex
from backupctl.storage.protocol import ObjectStore

MAX_KEYS = 20
CHECK = "run `backupctl check --read-data` to see what else is hit"
_HEX_ID = re.compile(r"[0-9a-f]{64}")
_HEADER_GUESS_BYTES = 1 << 16  # most pack headers are shorter

log = logging.getLogger(__name__)


def pack_name(pack_id: bytes) -> str:
    text = pack_id.hex()
    return f"data/{text[:2]}/{text}"


class Repository:
    """Thread-safe for reading and for saving blobs. Storage errors (Denied, Full, Transient) pass through unchanged."""

    def __init__(self, store: ObjectStore, keys: Keys, config: RepositoryConfig, *, clock: Clock) -> None:
        self.store, self.keys, self.config, self.clock = store, keys, config, clock
        self.id = config.id
        self.locks = Locks(store, keys, clock)
        self._held: list[Lock] = []
        self._index: MemoryIndex | None = None
        self._index_files: set[str] = set()
        self._index_guard = threading.RLock()
        self._snapshots: dict[str, Snapshot] = {}
        self._distrusted: set[bytes] = set()  # packs
        self._bad_copies: set[tuple[bytes, bytes]] = set()  # pack, blob
        self._unlisted: MemoryIndex | None = None

    @classmethod
    def create(cls, store: ObjectStore, password: str, *, clock: Clock, scrypt_n: int = 32768) -> Repository:
        """A new repository in an empty place. Raises Exists when anything of one is there, UsageError for a password
        that other programs would read differently."""
        if not password or password != password.strip():
            raise UsageError(
                "a repository password may not be empty, nor begin or end with white space: restic trims files",
                next_step="choose another password, e.g. `openssl rand -base64 33`",
            )
        for prefix in ("config", "keys/", "snapshots/", "index/", "data/"):
            for info in store.list(prefix):
                raise Exists(
                    f"{store.location} already holds (part of) a repository: {info.name}",
                    name=info.name,
                    location=store.location,
                    next_step="open it"
                    if prefix == "config"
                    else "choose an empty place; if only `keys/` is there, an earlier init was cut off: delete that folder",
                )
        keys, config = Keys.random(), new_config()
        keyfile = encode_keyfile(
            keys, password, created=clock.now(), username=user_name(), hostname=socket.gethostname(), n=scrypt_n
        )
        key_name = f"keys/{hashlib.sha256(keyfile).hexdigest()}"
        store.put(key_name, keyfile)
        try:
            store.put("config", seal(keys, encode_config(config)), if_absent=True)
        except Exists:  # another one was made meanwhile: our key would open with its password, and fit nothing in it
            store.delete(key_name)
            raise
        return cls(store, keys, config, clock=clock)

    @classmethod
    def open(cls, store: ObjectStore, password: str, *, clock: Clock) -> Repository:
        """Raises NoSuchError when there is no config, WrongKeyError when no key opens with `password`, DamageError."""
        try:
            sealed = store.get("config")
        except NotFound:
            left = next((info.name for prefix in ("snapshots/", "data/") for info in store.list(prefix)), None)
            if left is not None:
                raise DamageError(
                    f"{store.location}: config is missing, although {left} is there",
                    name="config",
                    next_step="put `config` back from a copy of the repository; `backupctl init` cannot help",
                ) from None
            raise NoSuchError(
                f"{store.location} holds no repository", next_step="create it with `backupctl init`"
            ) from None
        keys = _find_keys(store, password)
        try:
            config = decode_config(unseal(keys, sealed))
        except FormatError as error:
            raise DamageError(
                f"{store.location}: config: {error}",
                name="config",
                next_step="put `config` back from a copy of the repository",
            ) from None
        return cls(store, keys, config, clock=clock)

    def derive(self, label: bytes, length: int) -> bytes:
        """`length` secret bytes that belong to this repository and `label`."""
        return derive(self.keys, label, length)

    # locks

    @contextmanager
    def lock(self, *, exclusive: bool = False) -> Iterator[Lock]:
        """Hold a lock. Raises LockedError, which names the holder. A lock held by this object already, of this kind or
        exclusive, is held on."""
        for held in self._held:
            if held.exclusive or not exclusive:
                held.require()
                yield held
                return
        with Lock(self.locks, exclusive=exclusive) as held:
            self._held.append(held)
            try:
                yield held
            finally:
                self._held.remove(held)

    def require_locks(self) -> None:
        """Raises LockedError when a lock we hold was lost; asked before everything that cannot be taken back."""
        for held in self._held:
            held.require()

    def list_locks(self) -> list[LockInfo]:
        return self.locks.present()

    def unlock(self) -> list[str]:
        """Remove stale locks only; their ids."""
        return self.locks.remove_stale()

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
            return decode_unpacked(unseal(self.keys, sealed))
        except (Corrupt, FormatError) as error:
            raise _damage(name, error) from None

    def save_file(self, prefix: str, data: bytes) -> str:
        """Seal and store an index or snapshot file; its id."""
        sealed = seal(self.keys, encode_unpacked(data))
        file_id = hashlib.sha256(sealed).hexdigest()
        self.store.put(prefix + file_id, sealed)
        return file_id

    # blobs

    @property
    def index(self) -> MemoryIndex:
        """Where every blob is; read from the store on first use. An index file that is bad is skipped with a warning:
        what only it listed is stored again by a writer, and found by `locate` all the same."""
        with self._index_guard:
            if self._index is None:
                self._read_index(index := MemoryIndex())
                self._index = index
            return self._index

    def _read_index(self, index: MemoryIndex) -> bool:
        """Add the index files not read yet; True when there were any."""
        fresh = [file_id for file_id in self.list_ids("index/") if file_id not in self._index_files]
        for file_id in fresh:
            name = f"index/{file_id}"
            try:
                for pack_id, blobs in list(decode_index(self.load_file(name))):
                    index.add_pack(pack_id, blobs)
            except NotFound:
                continue  # replaced by a prune between list and get: its successor is listed or comes with a reload
            except DamageError as error:
                log.warning("%s", error.message)
            except FormatError as error:
                log.warning("%s: %s", name, error)
            self._index_files.add(file_id)
        return bool(fresh)

    def reset_index(self) -> None:
        """Forget the index: the next use reads it again."""
        with self._index_guard:
            self._index = self._unlisted = None
            self._index_files = set()

    def save_index(self, packs: list[tuple[bytes, list[PackedBlob]]]) -> str:
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

    def distrust(self, packs: Iterable[bytes]) -> None:
        """What these packs hold no longer counts as stored, so that a writer stores it again while the source has it.
        Reading still tries them."""
        self._distrusted.update(packs)

    def lost_packs(self) -> dict[bytes, str]:
        """Indexed packs that are missing or have the wrong size, and which of both. One listing, no pack is read."""
        found = {info.name: info.size for info in self.store.list("data/")}
        sizes = {pack_id: pack_bytes(()) for pack_id in self.index.packs}
        for place in self.index:
            sizes[place.pack] += place.blob.length + entry_bytes(place.blob)
        lost = {}
        for pack_id, size in sizes.items():
            actual = found.get(pack_name(pack_id))
            if actual != size:
                lost[pack_id] = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
        return lost

    def locate(self, kind: BlobKind, blob_id: bytes) -> list[Location]:
        """Every copy of a blob. A blob that is not known makes us look for index files written meanwhile, and then
        into the headers of packs that no index lists: an index that was lost makes nothing unreadable."""
        copies = self.index.lookup(kind, blob_id)
        if not copies:
            with self._index_guard:
                if self._read_index(self.index):
                    copies = self.index.lookup(kind, blob_id)
                if not copies:
                    copies = self._unlisted_packs().lookup(kind, blob_id)
        return copies

    def _unlisted_packs(self) -> MemoryIndex:
        """The blobs of packs in no index, read from the packs themselves, once. Kept apart from the index: a snapshot
        must not rely on what no index lists."""
        if self._unlisted is None:
            self._unlisted = MemoryIndex()
            known = {pack_name(pack_id) for pack_id in self.index.packs}
            for info in self.store.list("data/"):
                pack_id = info.name.rpartition("/")[2]
                if info.name in known or not _HEX_ID.fullmatch(pack_id):
                    continue
                try:
                    self._unlisted.add_pack(bytes.fromhex(pack_id), self._read_header(info.name, info.size))
                except (NotFound, Corrupt, FormatError) as error:
                    log.warning("%s is in no index and its header cannot be read: %s", info.name, error)
        return self._unlisted

    def _read_header(self, name: str, size: int) -> list[PackedBlob]:
        """The blobs of a pack by its own header. Raises NotFound, Corrupt, FormatError."""
        tail = self.store.get(name, offset=max(0, size - _HEADER_GUESS_BYTES))
        try:
            header = sealed_header(tail)
        except FormatError:
            header = sealed_header(self.store.get(name))
        return decode_header(unseal(self.keys, header))

    def load_blob(self, kind: BlobKind, blob_id: bytes) -> bytes:
        """The blob's content, verified against its id. Tries every copy; raises DamageError naming the last pack."""
        problem = DamageError(
            f"{kind} blob {blob_id.hex()} is in no index", name=f"{kind}/{blob_id.hex()}", next_step=CHECK
        )
        for place in self.locate(kind, blob_id):
            try:
                return self.load_copy(place)
            except DamageError as error:
                problem = error
        raise problem

    def load_copy(self, place: Location) -> bytes:
        """The content of one copy of a blob, verified against its id. Raises DamageError that names the pack; that copy
        no longer counts for `has_blob`."""
        name = pack_name(place.pack)
        try:
            require_possible(place.blob)
            sealed = self.store.get(name, offset=place.blob.offset, length=place.blob.length)
            return self.open_blob(place.blob, sealed)
        except NotFound:
            self._bad_copies.add((place.pack, place.blob.id))
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

    def blob_saver(self) -> BlobSaver:
        return BlobSaver(self)

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
        """Store it, set its `id`, and return that. Everything it refers to must be durable: flush the saver first."""
        self.require_locks()
        snapshot.id = self.save_file("snapshots/", encode_snapshot(snapshot))
        return snapshot.id

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


def _find_keys(store: ObjectStore, password: str) -> Keys:
    """Try each key file. A damaged one does not hide a good one (it does in restic), but is named when none opens."""
    damage: DamageError | None = None
    names = [info.name for info in store.list("keys/") if _HEX_ID.fullmatch(info.name.removeprefix("keys/"))]
    for name in names[:MAX_KEYS]:
        data = store.get(name)
        try:
            if hashlib.sha256(data).hexdigest() != name.removeprefix("keys/"):
                raise FormatError("the stored bytes do not match their name")
            return open_keyfile(data, password)
        except SealError:
            continue
        except FormatError as error:
            damage = DamageError(
                f"{store.location}: {name}: {error}", name=name, next_step="restore the key from a copy"
            )
    if damage is not None:
        raise damage
    if not names:
        raise DamageError(
            f"{store.location}: there is a config but no file in keys/",
            name="keys/",
            next_step="put the key file back from a copy of the repository",
        )
    raise WrongKeyError(
        f"{store.location}: the password opens none of {len(names)} keys", next_step="check the password's source"
    )
