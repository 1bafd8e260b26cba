"""Where every blob of a repository is, without a Python object for each.

What index files list stands in segments (at most 56 bytes per blob and 40 per pack, file-backed where there is a cache);
what this process adds goes into a table of its own: records of 48 bytes in slabs, found through open addressing with u32
(load between 3/8 and 3/4, at most 59 bytes per blob, 64 while it grows).
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload

from backupctl.repository.format.pack import BlobKind, PackedBlob, Row
from backupctl.repository.segment import ID_BYTES, RECORD, Segment

_SLAB_RECORDS = 4096
_EMPTY = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Location:
    pack: bytes
    blob: PackedBlob


class MemoryIndex:
    """Thread-safe. Blobs are added by whole packs and never removed; the number of a copy, and that of a pack, never
    changes. Numbers go pack by pack and, within a pack, as it was added: by offset where it comes from an index file."""

    def __init__(self, segments: Sequence[Segment] = ()) -> None:
        """`segments` have no pack in common."""
        self._segments = tuple(segments)
        self._first = list(accumulate((segment.count for segment in segments), initial=0))
        self._first_pack = list(accumulate((segment.pack_count for segment in segments), initial=0))
        self._added = _Added()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._first[-1] + self._added.count

    @property
    def packs(self) -> Packs:
        """Their ids by pack number."""
        return Packs(self)

    def add_pack(self, pack_id: bytes, blobs: Iterable[PackedBlob]) -> None:
        """A pack that is known already is ignored: packs never change."""
        self.add_listed(
            pack_id, ((blob.kind == "tree", blob.offset, blob.length, blob.plain_length, blob.id) for blob in blobs)
        )

    def add_listed(self, pack_id: bytes, rows: Iterable[Row]) -> None:
        """The same for what a pack's header lists."""
        if pack_id in self.packs:
            return
        with self._lock:
            self._added.add_pack(pack_id, rows)

    def add_rows(self, packs: Sequence[bytes], rows: bytes) -> None:
        """The same for rows as in RECORD, whose pack numbers count in `packs`."""
        blobs: list[list[PackedBlob]] = [[] for _ in packs]
        for record in RECORD.iter_unpack(rows):
            kind: BlobKind = "tree" if record[1] & 1 else "data"
            blobs[record[1] >> 1].append(PackedBlob(kind, *_placed(record)))
        for pack_id, listed in zip(packs, blobs, strict=True):
            self.add_pack(pack_id, listed)

    def _numbers(self, kind: BlobKind, blob_id: bytes) -> Iterator[tuple[int, tuple[bytes, int, int, int, int]]]:
        """(number, record with a pack number of the whole index) of each copy, ascending."""
        wanted = int(kind == "tree")
        for segment, first, first_pack in zip(self._segments, self._first, self._first_pack, strict=False):
            for row in segment.blobs.find(blob_id):
                record = segment.record(row)
                if record[1] & 1 == wanted:
                    yield first + row, (blob_id, record[1] + 2 * first_pack, *record[2:])
        if self._added.count:
            with self._lock:
                rows = sorted(self._added.find(blob_id))
            for row in rows:
                record = self._added.record(row)
                if record[1] & 1 == wanted:
                    yield self._first[-1] + row, (blob_id, record[1] + 2 * self._first_pack[-1], *record[2:])

    def __contains__(self, key: tuple[BlobKind, bytes]) -> bool:
        kind, blob_id = key
        wanted = kind == "tree"
        for segment in self._segments:
            for row in segment.blobs.find(blob_id):
                if segment.references[row] & 1 == wanted:
                    return True
        if not self._added.count:
            return False
        with self._lock:
            return any(self._added.record(row)[1] & 1 == wanted for row in self._added.find(blob_id))

    def lacking(self, kind: BlobKind, ids: Iterable[bytes]) -> list[bytes]:
        """Those that are not here."""
        for segment in self._segments:
            ids = segment.lacking(ids, tree=kind == "tree")
        if not self._added.count:
            return list(ids)
        with self._lock:
            return self._added.lacking(ids, tree=kind == "tree")

    def lookup(self, kind: BlobKind, blob_id: bytes) -> list[Location]:
        """Every copy of the blob; empty when there is none."""
        return [self._location(record) for _, record in self._numbers(kind, blob_id)]

    def first(self, kind: BlobKind, blob_id: bytes) -> tuple[int, int, int, int] | None:
        """(pack number, offset, length, plain length) of the first copy: `lookup` without an object for each."""
        wanted = int(kind == "tree")
        for segment, first_pack in zip(self._segments, self._first_pack, strict=False):
            for row in segment.blobs.find(blob_id):
                _, reference, offset, length, plain_length = segment.record(row)
                if reference & 1 == wanted:
                    return (reference >> 1) + first_pack, offset, length, plain_length
        for _, (_, reference, offset, length, plain_length) in (
            self._numbers(kind, blob_id) if self._added.count else ()
        ):
            return reference >> 1, offset, length, plain_length
        return None

    def numbers(self, kind: BlobKind, blob_id: bytes) -> list[int]:
        """The positions of every copy in the order of `__iter__`, ascending."""
        return [number for number, _ in self._numbers(kind, blob_id)]

    def blob_size(self, kind: BlobKind, blob_id: bytes) -> int | None:
        """Bytes of content, None when the blob is not there."""
        for _, record in self._numbers(kind, blob_id):
            return PackedBlob(kind, *_placed(record)).size
        return None

    def __iter__(self) -> Iterator[Location]:
        """Every copy of every blob by number, so pack by pack."""
        return map(self._location, self.records())

    def records(self) -> Iterator[tuple[bytes, int, int, int, int]]:
        """The same as `__iter__` in a tenth of its time: (blob id, pack number << 1 | is tree, offset, length, plain
        length), by number."""
        for segment, first_pack in zip(self._segments, self._first_pack, strict=False):
            if first_pack == 0:
                yield from segment.records()
            else:
                shift = 2 * first_pack
                for blob_id, reference, offset, length, plain_length in segment.records():
                    yield blob_id, reference + shift, offset, length, plain_length
        shift = 2 * self._first_pack[-1]
        for row in range(self._added.count):
            blob_id, reference, offset, length, plain_length = self._added.record(row)
            yield blob_id, reference + shift, offset, length, plain_length

    def at(self, number: int) -> Location:
        """The copy at a position of `__iter__`."""
        part = bisect_right(self._first, number) - 1
        row = number - self._first[part]
        source = self._segments[part] if part < len(self._segments) else self._added
        record = source.record(row)
        return self._location((record[0], record[1] + 2 * self._first_pack[part], *record[2:]))

    def _location(self, record: tuple[bytes, int, int, int, int]) -> Location:
        kind: BlobKind = "tree" if record[1] & 1 else "data"
        return Location(self.pack(record[1] >> 1), PackedBlob(kind, *_placed(record)))

    def pack(self, number: int) -> bytes:
        """The id of the pack with this number."""
        part = bisect_right(self._first_pack, number) - 1
        source = self._segments[part] if part < len(self._segments) else self._added
        return source.pack(number - self._first_pack[part])

    def pack_number(self, pack_id: bytes) -> int | None:
        """None for a pack that is not known."""
        for segment, first in zip(self._segments, self._first_pack, strict=False):
            if found := segment.packs.find(pack_id):
                return first + found[0]
        row = self._added.pack_numbers.get(pack_id)
        return None if row is None else self._first_pack[-1] + row

    def blobs_of(self, packs: Collection[bytes]) -> dict[bytes, list[PackedBlob]]:
        """What lies in these packs, in the order of the offsets. A pack that is not known is left out."""
        found = {}
        for pack_id in packs:
            number = self.pack_number(pack_id)
            if number is not None:
                blobs = [self.at(row).blob for row in self._rows_of(number)]
                found[pack_id] = sorted(blobs, key=lambda blob: blob.offset)
        return found

    def end_of(self, pack_id: bytes) -> int:
        """Where the last blob listed of a pack ends; 0 for a pack that is not known."""
        number = self.pack_number(pack_id)
        rows = self._rows_of(number) if number is not None else range(0)
        if not rows:
            return 0
        blob = self.at(rows[-1]).blob
        return blob.offset + blob.length

    def rows_between(self, pack: int, start: int, end: int) -> bytes:
        """What begins in these bytes of the pack with this number, as RECORD. Pack numbers in it mean nothing; an index
        whose rows are not in the order of the offsets may give others."""
        part = bisect_right(self._first_pack, pack) - 1
        own = pack - self._first_pack[part]
        source = self._segments[part] if part < len(self._segments) else self._added
        rows = source.rows_of(range(own, own + 1))
        first = bisect_left(rows, start, key=lambda row: source.record(row)[2])
        last = bisect_left(rows, end, lo=first, key=lambda row: source.record(row)[2])
        return b"".join(RECORD.pack(*source.record(row)) for row in rows[first:last])

    def _rows_of(self, pack: int) -> range:
        part = bisect_right(self._first_pack, pack) - 1
        own = pack - self._first_pack[part]
        source = self._segments[part] if part < len(self._segments) else self._added
        rows = source.rows_of(range(own, own + 1))
        return range(rows.start + self._first[part], rows.stop + self._first[part])


class Packs(Sequence[bytes]):
    """The ids of an index's packs, by number; membership costs about a microsecond."""

    def __init__(self, index: MemoryIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return self._index._first_pack[-1] + len(self._index._added.packs)

    @overload
    def __getitem__(self, number: int) -> bytes: ...
    @overload
    def __getitem__(self, number: slice) -> list[bytes]: ...
    def __getitem__(self, number: int | slice) -> bytes | list[bytes]:
        if isinstance(number, slice):
            return [self._index.pack(one) for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self._index.pack(number % len(self))

    def __contains__(self, pack_id: object) -> bool:
        return isinstance(pack_id, bytes) and self._index.pack_number(pack_id) is not None

    def __repr__(self) -> str:
        return f"{len(self)} packs"


def _placed(record: tuple[bytes, int, int, int, int]) -> tuple[bytes, int, int, int]:
    blob_id, _, offset, length, plain_length = record
    return blob_id, offset, length, plain_length


class _Added:
    """What was added pack by pack. The caller holds a lock for `add_pack` and `find`."""

    def __init__(self) -> None:
        self._slabs: list[bytearray] = []
        self.count = 0
        self._table = _empty_table(1024)
        self.packs: list[bytes] = []
        self.pack_numbers: dict[bytes, int] = {}
        self._first_rows = array("Q")

    def add_pack(self, pack_id: bytes, rows: Iterable[Row]) -> None:
        if pack_id in self.pack_numbers:
            return
        number = len(self.packs)
        self._first_rows.append(self.count)
        self.packs.append(pack_id)
        self.pack_numbers[pack_id] = number
        for is_tree, offset, length, plain_length, blob_id in rows:
            if self.count * 4 >= len(self._table) * 3:
                self._grow()
            position = self.count % _SLAB_RECORDS
            if position == 0:
                self._slabs.append(bytearray(_SLAB_RECORDS * RECORD.size))
            RECORD.pack_into(
                self._slabs[-1], position * RECORD.size, blob_id, number << 1 | is_tree, offset, length, plain_length
            )
            self._table[_free_slot(self._table, blob_id)] = self.count
            self.count += 1

    def _grow(self) -> None:
        table = _empty_table(len(self._table) * 2)
        for row in range(self.count):
            slab, start = self._slabs[row // _SLAB_RECORDS], row % _SLAB_RECORDS * RECORD.size
            table[_free_slot(table, slab[start : start + 8])] = row
        self._table = table

    def find(self, blob_id: bytes) -> list[int]:
        """Row numbers in no order."""
        table = self._table
        mask = len(table) - 1
        slot = int.from_bytes(blob_id[:8], "little") & mask
        found = []
        while (row := table[slot]) != _EMPTY:
            start = row % _SLAB_RECORDS * RECORD.size
            if self._slabs[row // _SLAB_RECORDS][start : start + ID_BYTES] == blob_id:
                found.append(row)
            slot = (slot + 1) & mask
        return found

    def lacking(self, ids: Iterable[bytes], *, tree: bool) -> list[bytes]:
        """Those that are not here as blobs of this kind."""
        table, slabs, mask, stride, wanted = self._table, self._slabs, len(self._table) - 1, RECORD.size, int(tree)
        lacking = []
        for blob_id in ids:
            slot = int.from_bytes(blob_id[:8], "little") & mask
            while (row := table[slot]) != _EMPTY:
                start = row % _SLAB_RECORDS * stride
                found = slabs[row // _SLAB_RECORDS][start : start + ID_BYTES] == blob_id
                if found and self.record(row)[1] & 1 == wanted:
                    break
                slot = (slot + 1) & mask
            else:
                lacking.append(blob_id)
        return lacking

    def record(self, row: int) -> tuple[bytes, int, int, int, int]:
        return RECORD.unpack_from(self._slabs[row // _SLAB_RECORDS], row % _SLAB_RECORDS * RECORD.size)

    def pack(self, number: int) -> bytes:
        return self.packs[number]

    def rows_of(self, packs: range) -> range:
        end = self._first_rows[packs.stop] if packs.stop < len(self._first_rows) else self.count
        return range(self._first_rows[packs.start], end)


def _empty_table(slots: int) -> array[int]:
    return array("I", b"\xff" * 4 * slots)


def _free_slot(table: array[int], blob_id: bytes | bytearray) -> int:
    mask = len(table) - 1
    slot = int.from_bytes(blob_id[:8], "little") & mask
    while table[slot] != _EMPTY:
        slot = (slot + 1) & mask
    return slot
