"""A segment: what some index files list, as flat bytes that are searched where they lie, in a file or in memory.

Blobs of 48 bytes stand in the order of their packs, then the packs' ids and the index files' ids, then for blobs and for
packs a hash table: `slots` holds row numbers grouped by the first bits of the id, `fan` says where each group begins.
Ids are SHA-256, so their first bytes are the hash; a group has one to two rows on average. A blob takes at most 56 bytes,
a pack 40. Numbers are in the machine's byte order: a segment never leaves it.
"""

from __future__ import annotations

import mmap
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from backupctl.repository.format import FormatError

RECORD = struct.Struct("=32sIIII")  # id, pack number << 1 | is tree, offset, length, plain length (0: not compressed)
MAC_BYTES = 32  # at the very end: room for whoever stores a segment
ID_BYTES = 32

Allocate = Callable[[int], mmap.mmap]
"""So many bytes, all zero, that can be written without running out of room later. Raises OSError."""

_TRAILER = struct.Struct("=24sQQQ")  # magic, blobs, packs, index files
_MAGIC = f"backupctl segment 1 {sys.byteorder[:3]}".encode()
_HASH_COLUMN = 1 if sys.byteorder == "little" else 0  # which half of a word its upper bits are in
_STEP_ROWS = 1 << 16


def anonymous(size: int) -> mmap.mmap:
    """Memory of the process, taken page by page as it is written."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _fan_bits(count: int) -> int:
    return max(1, (count - 1).bit_length() - 1) if count else 1


class _Table:
    """Finds the rows that begin with an id. `start` is where the first row lies in `data`."""

    def __init__(self, data: mmap.mmap, start: int, stride: int, fan: memoryview, slots: memoryview) -> None:
        self._data, self._start, self._stride = data, start, stride
        self.fan, self.slots = fan, slots
        self.shift = 64 - _fan_bits(len(slots))

    def find(self, key: bytes) -> list[int]:
        """Row numbers. About 1 µs: the writer asks for every blob."""
        bucket = int.from_bytes(key[:8], sys.byteorder) >> self.shift
        slot, end = self.fan[bucket], self.fan[bucket + 1]
        found = []
        while slot < end:
            row = self.slots[slot]
            place = self._start + row * self._stride
            if self._data[place : place + ID_BYTES] == key:
                found.append(row)
            slot += 1
        return found

    def fill(self) -> None:
        """Sort the rows into their groups by counting."""
        words = memoryview(self._data)[self._start : self._start + len(self.slots) * self._stride].cast("I")
        hashes = words[_HASH_COLUMN :: self._stride // 4]
        fan, slots, shift = self.fan, self.slots, self.shift - 32
        starts = array("I", bytes(4 * (len(fan) + 1)))
        for row in range(0, len(slots), _STEP_ROWS):
            for value in hashes[row : row + _STEP_ROWS].tolist():
                starts[(value >> shift) + 2] += 1
        for position in range(0, len(starts), _STEP_ROWS):  # in place: a second copy would be 4 bytes per blob
            before = starts[position - 1] if position else 0
            piece = array("I", accumulate(starts[position : position + _STEP_ROWS], initial=before))
            starts[position : position + _STEP_ROWS] = piece[1:]
        for first in range(0, len(slots), _STEP_ROWS):
            for row, value in enumerate(hashes[first : first + _STEP_ROWS].tolist(), first):
                bucket = (value >> shift) + 1
                slots[starts[bucket]] = row
                starts[bucket] += 1
        fan[:] = memoryview(starts)[:-1]


class Segment:
    """Immutable once it is made, so any thread may read it."""

    def __init__(self, data: mmap.mmap, count: int, pack_count: int, file_count: int, *, in_memory: bool) -> None:
        self.data, self.count, self.pack_count, self.in_memory = data, count, pack_count, in_memory
        view = memoryview(data)
        sections: list[memoryview] = []
        start = 0
        for size in _section_bytes(count, pack_count, file_count):
            sections.append(view[start : start + size])
            start += size
        rows, packs, files, fan, slots, pack_fan, pack_slots, trailer, _ = sections
        self.rows, self._packs, self._files = rows, packs, files
        self._trailer = trailer
        self.references = rows.cast("I")[8 :: RECORD.size // 4]
        self.blobs = _Table(data, 0, RECORD.size, fan.cast("I"), slots.cast("I"))
        self.packs = _Table(data, len(rows), ID_BYTES, pack_fan.cast("I"), pack_slots.cast("I"))

    @property
    def files(self) -> list[str]:
        """The ids of the index files it stands for."""
        ids = self._files.hex()
        return [ids[start : start + 64] for start in range(0, len(ids), 64)]

    def pack(self, number: int) -> bytes:
        return self._packs[number * ID_BYTES : (number + 1) * ID_BYTES].tobytes()

    def record(self, row: int) -> tuple[bytes, int, int, int, int]:
        """As in RECORD."""
        return RECORD.unpack_from(self.rows, row * RECORD.size)

    def lacking(self, ids: Iterable[bytes], *, tree: bool) -> list[bytes]:
        """Those that are not here as blobs of this kind; a third of the time of asking one by one."""
        data, references, stride = self.data, self.references, RECORD.size
        fan, slots, shift = self.blobs.fan, self.blobs.slots, self.blobs.shift
        from_bytes, order, wanted = int.from_bytes, sys.byteorder, int(tree)
        lacking = []
        for blob_id in ids:
            bucket = from_bytes(blob_id[:8], order) >> shift
            for slot in range(fan[bucket], fan[bucket + 1]):
                row = slots[slot]
                place = row * stride
                if data[place : place + ID_BYTES] == blob_id and references[row] & 1 == wanted:
                    break
            else:
                lacking.append(blob_id)
        return lacking

    def records(self) -> Iterator[tuple[bytes, int, int, int, int]]:
        return RECORD.iter_unpack(self.rows)

    def rows_of(self, packs: range) -> range:
        """The rows of some neighbouring packs."""
        return range(bisect_left(self.references, packs.start << 1), bisect_left(self.references, packs.stop << 1))

    def forget(self, rows: int) -> None:
        """Give the memory of the first `rows` back: what lies in memory is gone, what lies in a file can be read again."""
        size = rows * RECORD.size // mmap.PAGESIZE * mmap.PAGESIZE
        if size:
            self.data.madvise(mmap.MADV_DONTNEED, 0, size)

    def _finish(self, files: Iterable[str]) -> Segment:
        self._files[:] = b"".join(map(bytes.fromhex, files))
        self.blobs.fill()
        self.packs.fill()
        file_count = len(self._files) // ID_BYTES
        self._trailer[:] = _TRAILER.pack(_MAGIC, self.count, self.pack_count, file_count)
        return self

    def _copy(self, target: int, source: Segment, rows: range, pack_shift: int, *, consume: bool) -> None:
        for start in range(rows.start, rows.stop, _STEP_ROWS):
            end = min(start + _STEP_ROWS, rows.stop)
            to = target + start - rows.start
            self.rows[to * RECORD.size : (to + end - start) * RECORD.size] = source.rows[
                start * RECORD.size : end * RECORD.size
            ]
            if pack_shift:
                moved = array("I", [value + 2 * pack_shift for value in source.references[start:end].tolist()])
                self.references[to : to + end - start] = memoryview(moved)
            if consume or not source.in_memory:
                source.forget(end)


def _section_bytes(count: int, packs: int, files: int) -> tuple[int, ...]:
    """rows, packs, files, fan, slots, pack fan, pack slots, trailer, MAC"""
    return (
        RECORD.size * count,
        ID_BYTES * packs,
        ID_BYTES * files,
        4 * ((1 << _fan_bits(count)) + 1),
        4 * count,
        4 * ((1 << _fan_bits(packs)) + 1),
        4 * packs,
        _TRAILER.size,
        MAC_BYTES,
    )


def _new(allocate: Allocate, count: int, packs: int, files: int) -> Segment:
    size = sum(_section_bytes(count, packs, files))
    return Segment(allocate(size), count, packs, files, in_memory=allocate is anonymous)


def opened(data: mmap.mmap) -> Segment:
    """A segment as it was stored. Whoever calls has verified the bytes. Raises FormatError for another format."""
    end = len(data) - MAC_BYTES
    if end < _TRAILER.size:
        raise FormatError("too short for a segment")
    magic, count, packs, files = _TRAILER.unpack_from(data, end - _TRAILER.size)
    if magic.rstrip(b"\0") != _MAGIC or max(count, packs, files) >= 1 << 32:
        raise FormatError("no segment of this format")
    if sum(_section_bytes(count, packs, files)) != len(data):
        raise FormatError("a segment of another size than it says")
    return Segment(data, count, packs, files, in_memory=False)


def from_rows(packs: Sequence[bytes], rows: bytes, files: Iterable[str], allocate: Allocate = anonymous) -> Segment:
    """Of rows as in RECORD, whose pack numbers count in `packs` and do not go down."""
    files = list(files)
    segment = _new(allocate, len(rows) // RECORD.size, len(packs), len(files))
    segment.rows[:] = rows
    segment._packs[:] = b"".join(packs)
    return segment._finish(files)


def gathered(packs: Sequence[bytes], pieces: list[bytearray], files: Iterable[str]) -> Segment:
    """The same of rows in several pieces, in memory. `pieces` is emptied on the way: no row is there twice for long."""
    files = list(files)
    end = sum(map(len, pieces))
    segment = _new(anonymous, end // RECORD.size, len(packs), len(files))
    while pieces:
        piece = pieces.pop()
        segment.rows[end - len(piece) : end] = piece
        end -= len(piece)
    segment._packs[:] = b"".join(packs)
    return segment._finish(files)


def merged(segments: Sequence[Segment], allocate: Allocate = anonymous) -> Segment:
    """One segment in the place of several. Of a pack that more than one lists, the first listing counts. Where the result
    goes into memory, the `segments` that lie there are emptied on the way: nobody may use them afterwards."""
    parts = [(segment, packs, segment.rows_of(packs)) for segment, packs in _first_listings(segments)]
    result = _new(
        allocate,
        sum(len(rows) for _, _, rows in parts),
        sum(len(packs) for _, packs, _ in parts),
        sum(len(segment.files) for segment in segments),
    )
    files = [name for segment in segments for name in segment.files]
    to = pack_to = 0
    for position, (segment, packs, rows) in enumerate(parts):
        consume = result.in_memory and segment.in_memory
        result._copy(to, segment, rows, pack_to - packs.start, consume=consume)
        result._packs[pack_to * ID_BYTES : (pack_to + len(packs)) * ID_BYTES] = segment._packs[
            packs.start * ID_BYTES : packs.stop * ID_BYTES
        ]
        to += len(rows)
        pack_to += len(packs)
        if consume and (position + 1 == len(parts) or parts[position + 1][0] is not segment):
            segment.data.madvise(mmap.MADV_DONTNEED)  # its tables too: with 20 million blobs they were most of 235 MiB
    return result._finish(files)


def _first_listings(segments: Sequence[Segment]) -> Iterator[tuple[Segment, range]]:
    """Ranges of packs that no earlier segment lists. It looks them up in a passing table, not in a set: a repository may
    have a million packs."""
    total = sum(segment.pack_count for segment in segments)
    passing = _new(anonymous, 0, total, 0)
    start = 0
    for segment in segments:
        passing._packs[start * ID_BYTES : (start + segment.pack_count) * ID_BYTES] = segment._packs
        start += segment.pack_count
    passing.packs.fill()
    number = 0
    for segment in segments:
        first = 0
        for pack in range(segment.pack_count):
            if min(passing.packs.find(segment.pack(pack))) < number:
                if first < pack:
                    yield segment, range(first, pack)
                first = pack + 1
            number += 1
        if first < segment.pack_count:
            yield segment, range(first, segment.pack_count)


def overlap(segments: Sequence[Segment]) -> bool:
    """Whether a pack is in more than one of them."""
    largest_first = sorted(segments, key=lambda segment: segment.pack_count, reverse=True)
    return any(
        other.packs.find(segment.pack(number))
        for position, segment in enumerate(largest_first)
        for other in largest_first[:position]
        for number in range(segment.pack_count)
    )
