"""Where every blob of a repository is, in at most 59 bytes per blob: no Python object each.

Records of 48 bytes stand in fixed slabs; an open-addressing table of u32 (load between 3/8 and 3/4) finds them. Ids
are SHA-256, so their first bytes are the hash. One million blobs take about 59 MB.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backupctl.repository.format.pack import BlobKind, PackedBlob

_RECORD = struct.Struct("<32sIIII")  # id, pack number << 1 | is tree, offset, length, plain length
_SLAB_RECORDS = 4096
_EMPTY = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Location:
    pack: bytes
    blob: PackedBlob


class MemoryIndex:
    """Thread-safe. Blobs are added by whole packs and never removed."""

    def __init__(self) -> None:
        self._slabs: list[bytearray] = []
        self._count = 0
        self._table = self._empty_table(1024)
        self._packs: list[bytes] = []
        self._pack_numbers: dict[bytes, int] = {}
        self._lock = threading.Lock()

    @staticmethod
    def _empty_table(slots: int) -> array[int]:
        return array("I", b"\xff" * 4 * slots)

    def __len__(self) -> int:
        return self._count

    @property
    def packs(self) -> list[bytes]:
        return self._packs

    def add_pack(self, pack_id: bytes, blobs: Iterable[PackedBlob]) -> None:
        """A pack that is known already is ignored: packs never change."""
        with self._lock:
            if pack_id in self._pack_numbers:
                return
            number = self._pack_numbers[pack_id] = len(self._packs)
            self._packs.append(pack_id)
            for blob in blobs:
                if self._count * 4 >= len(self._table) * 3:
                    self._grow()
                position = self._count % _SLAB_RECORDS
                if position == 0:
                    self._slabs.append(bytearray(_SLAB_RECORDS * _RECORD.size))
                reference = number << 1 | (blob.kind == "tree")
                _RECORD.pack_into(
                    self._slabs[-1],
                    position * _RECORD.size,
                    blob.id,
                    reference,
                    blob.offset,
                    blob.length,
                    blob.plain_length,
                )
                self._table[self._free_slot(self._table, blob.id)] = self._count
                self._count += 1

    @staticmethod
    def _free_slot(table: array[int], blob_id: bytes) -> int:
        mask = len(table) - 1
        slot = int.from_bytes(blob_id[:8], "little") & mask
        while table[slot] != _EMPTY:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        table = self._empty_table(len(self._table) * 2)
        for number in range(self._count):
            slab, start = self._place(number)
            table[self._free_slot(table, bytes(slab[start : start + 8]))] = number
        self._table = table

    def _place(self, number: int) -> tuple[bytearray, int]:
        return self._slabs[number // _SLAB_RECORDS], number % _SLAB_RECORDS * _RECORD.size

    def _records(self, kind: BlobKind, blob_id: bytes) -> Iterator[tuple[int, int, int, int, int]]:
        """(record, pack number, offset, length, plain length) of each copy. The caller holds the lock."""
        mask = len(self._table) - 1
        slot = int.from_bytes(blob_id[:8], "little") & mask
        wanted = int(kind == "tree")
        while (number := self._table[slot]) != _EMPTY:
            slab, start = self._place(number)
            if slab.startswith(blob_id, start):
                _, reference, offset, length, plain_length = _RECORD.unpack_from(slab, start)
                if reference & 1 == wanted:
                    yield number, reference >> 1, offset, length, plain_length
            slot = (slot + 1) & mask

    def __contains__(self, key: tuple[BlobKind, bytes]) -> bool:
        with self._lock:
            return next(self._records(*key), None) is not None

    def lookup(self, kind: BlobKind, blob_id: bytes) -> list[Location]:
        """Every copy of the blob; empty when there is none."""
        with self._lock:
            return [
                Location(self._packs[pack], PackedBlob(kind, blob_id, offset, length, plain_length))
                for _, pack, offset, length, plain_length in self._records(kind, blob_id)
            ]

    def numbers(self, kind: BlobKind, blob_id: bytes) -> list[int]:
        """The positions of every copy in the order of `__iter__`, ascending."""
        with self._lock:
            return sorted(record[0] for record in self._records(kind, blob_id))

    def blob_size(self, kind: BlobKind, blob_id: bytes) -> int | None:
        """Bytes of content, None when the blob is not there."""
        copies = self.lookup(kind, blob_id)
        return copies[0].blob.size if copies else None

    def __iter__(self) -> Iterator[Location]:
        """Every copy of every blob, in the order added."""
        return map(self.at, range(self._count))

    def at(self, number: int) -> Location:
        """The copy at a position of `__iter__`."""
        slab, start = self._place(number)
        blob_id, reference, offset, length, plain_length = _RECORD.unpack_from(slab, start)
        kind: BlobKind = "tree" if reference & 1 else "data"
        return Location(self._packs[reference >> 1], PackedBlob(kind, blob_id, offset, length, plain_length))
