"""Moving blobs into new packs: pieces of packs are read by several threads, each blob is verified, and what is sealed
stays sealed. Memory: per thread a piece of at most 16 MiB (or one blob) and a pack on its way; two open packs per kind.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from backupctl.errors import Corrupt, NotFound
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import seal
from backupctl.repository.format.pack import (
    TARGET_BYTES,
    BlobKind,
    PackedBlob,
    decode_header,
    encode_header,
    encode_trailer,
    entry_bytes,
)
from backupctl.repository.format.unpacked import compress
from backupctl.repository.repository import Repository, pack_name

READERS = 3
PIECE_BYTES = 16 << 20
GAP_BYTES = 256 << 10  # reading so much in vain costs less than asking once more
OPEN_PACKS = 2  # as in the saver: which pack a blob goes to is drawn by lot


class _OpenPack:
    def __init__(self) -> None:
        self.blobs: list[PackedBlob] = []
        self.pieces: list[bytes] = []
        self.size = 0  # of the blobs and their header entries
        self.end = 0

    def add(self, kind: BlobKind, blob_id: bytes, plain_length: int, sealed: bytes) -> None:
        blob = PackedBlob(kind, blob_id, self.end, len(sealed), plain_length)
        self.blobs.append(blob)
        self.pieces.append(sealed)
        self.end += len(sealed)
        self.size += len(sealed) + entry_bytes(blob)


class Repacker:
    """`move` and `finish` belong to one thread. The first failure is raised by the next of them; after it nothing more
    is read or stored. Packs that were stored by then are in no index."""

    def __init__(
        self, repository: Repository, *, target_bytes: int = TARGET_BYTES, choose: random.Random | None = None
    ) -> None:
        self._repository = repository
        self._target_bytes = target_bytes
        self._choose: random.Random = choose or random.SystemRandom()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="repack")
        self._running: deque[Future[None]] = deque()
        self._guard = threading.Lock()
        self._join_guard = threading.Lock()
        self._open: dict[BlobKind, list[_OpenPack]] = {"data": [], "tree": []}
        self._stored: list[tuple[bytes, bytes]] = []  # pack id, plain header: compact
        self.stored_bytes = 0

    def __enter__(self) -> Repacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers.shutdown(cancel_futures=True)

    def move(self, pack_id: bytes, blobs: Sequence[PackedBlob]) -> None:
        """Store these blobs of one pack again, by and by; `blobs` in the order of their offsets. Waits while enough is
        under way. Raises what an earlier one failed with: DamageError, errors of the store."""
        for piece in _pieces(blobs):
            while len(self._running) >= 2 * READERS:
                self._running.popleft().result()
            self._running.append(self._readers.submit(self._move, pack_id, piece))

    def add(self, kind: BlobKind, blob_id: bytes, plain: bytes) -> None:
        """Store a blob that came from elsewhere. Raises what an earlier one failed with."""
        while len(self._running) >= 2 * READERS:
            self._running.popleft().result()
        self._running.append(self._readers.submit(self._seal, kind, blob_id, plain))

    def _seal(self, kind: BlobKind, blob_id: bytes, plain: bytes) -> None:
        """Runs in a reader."""
        self._add(kind, blob_id, *self._sealed(kind, blob_id, plain))

    def finish(self) -> Iterator[tuple[bytes, list[PackedBlob]]]:
        """The new packs, all durable when this returns, and in no index yet."""
        while self._running:
            self._running.popleft().result()
        for packs in self._open.values():
            if sum(pack.size for pack in packs) <= self._target_bytes:
                for other in packs[1:]:  # small ones of a kind together
                    for blob, sealed in zip(other.blobs, other.pieces, strict=True):
                        packs[0].add(blob.kind, blob.id, blob.plain_length, sealed)
                del packs[1:]
            self._running.extend(self._readers.submit(self._store, pack) for pack in packs)
            packs.clear()
        while self._running:
            self._running.popleft().result()
        return ((pack_id, decode_header(header)) for pack_id, header in self._stored)

    def _move(self, pack_id: bytes, piece: Sequence[PackedBlob]) -> None:
        """Runs in a reader."""
        start = piece[0].offset
        try:
            data = self._repository.store.get(
                pack_name(pack_id), offset=start, length=piece[-1].offset + piece[-1].length - start
            )
        except (NotFound, Corrupt):
            data = b""  # every blob is then looked for elsewhere, or the damage is named
        for blob in piece:
            sealed = data[blob.offset - start : blob.offset - start + blob.length]
            self._add(blob.kind, blob.id, *self._verified(blob, sealed))

    def _verified(self, blob: PackedBlob, sealed: bytes) -> tuple[int, bytes]:
        """(plain length or 0, sealed bytes). A tree must be compressed: stock restic would repack it for ever."""
        try:
            plain = self._repository.open_blob(blob, sealed)
            if blob.plain_length or blob.kind == "data" or not plain:
                return blob.plain_length, sealed
        except FormatError:
            plain = self._repository.load_blob(blob.kind, blob.id)
        return self._sealed(blob.kind, blob.id, plain)

    def _sealed(self, kind: BlobKind, blob_id: bytes, plain: bytes) -> tuple[int, bytes]:
        """(plain length or 0, sealed bytes)."""
        compressed = compress(plain) if plain else plain
        plain_length = len(plain) if plain and (kind == "tree" or len(compressed) < len(plain)) else 0
        sealed = seal(self._repository.keys, compressed if plain_length else plain)
        try:
            self._repository.open_blob(PackedBlob(kind, blob_id, 0, len(sealed), plain_length), sealed)
        except FormatError as error:
            raise RuntimeError(
                f"blob {blob_id.hex()} cannot be opened right after sealing ({error}): bad memory or a broken library"
            ) from error
        return plain_length, sealed

    def _add(self, kind: BlobKind, blob_id: bytes, plain_length: int, sealed: bytes) -> None:
        with self._guard:
            packs = self._open[kind]
            if len(packs) < OPEN_PACKS:
                packs.append(pack := _OpenPack())
            else:
                pack = self._choose.choice(packs)
            pack.add(kind, blob_id, plain_length, sealed)
            if pack.size < self._target_bytes:
                return
            packs.remove(pack)
        self._store(pack)

    def _store(self, pack: _OpenPack) -> None:
        header = encode_header(pack.blobs)
        with self._join_guard:  # one pack at a time is in memory twice
            data = b"".join((*pack.pieces, encode_trailer(seal(self._repository.keys, header))))
            pack.pieces.clear()
        pack_id = hashlib.sha256(data).digest()
        self._repository.store.put(pack_name(pack_id), data)
        with self._guard:
            self._stored.append((pack_id, header))
            self.stored_bytes += len(data)


def _pieces(blobs: Iterable[PackedBlob]) -> Iterator[list[PackedBlob]]:
    """Neighbours, to be read in one go: nearly the whole pack where nearly all of it is used."""
    piece: list[PackedBlob] = []
    for blob in blobs:
        if piece:
            end = piece[-1].offset + piece[-1].length
            if blob.offset - end > GAP_BYTES or blob.offset + blob.length - piece[0].offset > PIECE_BYTES:
                yield piece
                piece = []
        piece.append(blob)
    if piece:
        yield piece
