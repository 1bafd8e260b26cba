"""PostgreSQL's write-ahead log, read as far as recovery targets need it: who committed when, restore points, and how far
it goes. Nothing is replayed; each record is verified by its own CRC, as the server that recovers does.

A segment file holds pages of 8 KiB. Each begins with a header: magic, flags, timeline, the LSN of the page, and how much of
a record it continues (24 bytes; 40 in a segment's first page, with system identifier and segment size). Records begin at
multiples of 8, run on over page ends, and begin with total length, xid, previous LSN, info, resource manager, CRC.
The CRC is CRC-32C (Castagnoli) over what follows the record's header, then the header up to the CRC itself: `XLogRecordAssemble`
in src/backend/access/transam/xloginsert.c and `XLogInsertRecord` in xlog.c make it, `ValidXLogRecord` in xlogreader.c verifies it.
Layout of PostgreSQL 15 to 18: src/include/access/xlog_internal.h, xlogrecord.h, xact.h.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import google_crc32c

from backupctl.clock import iso

PAGE_BYTES = 8192
SEGMENT_BYTES = 16 << 20  # unless initdb was told otherwise
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_PAGE = struct.Struct("<HHIQI")
_LONG = struct.Struct("<QII")
_RECORD = struct.Struct("<IIQBBxxI")
_MAGIC = range(0xD110, 0xD11F)  # 15 and later
_CONTINUES, _LONG_HEADER, _OVERWRITES = 0x0001, 0x0002, 0x0008
XLOG, XACT = 0, 1  # resource managers
_SWITCH, _RESTORE_POINT = 0x40, 0x70
COMMITS, ABORTS = (0x00, 0x30), (0x20, 0x40)  # plain, and of a prepared transaction
RECORD_BYTES = _RECORD.size
_NAME = re.compile(r"[0-9A-F]{24}")

EventKind = Literal["commit", "abort", "restore_point", "switch"]


class WalFormatError(Exception):
    """What lies there is no write-ahead log, or not from there."""


def parse_lsn(text: str) -> int:
    """0/16B3748 as a number. Raises ValueError."""
    high, slash, low = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9A-Fa-f]{1,8}", high) or not re.fullmatch(r"[0-9A-Fa-f]{1,8}", low):
        raise ValueError(f"{text!r} is no LSN")
    return (int(high, 16) << 32) + int(low, 16)


def format_lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_name(timeline: int, lsn: int, size: int) -> str:
    """Of the segment that holds the byte at `lsn`."""
    number, per_file = lsn // size, (1 << 32) // size
    return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"


def is_segment_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name))


def segment_place(name: str, size: int) -> tuple[int, int]:
    """(timeline, LSN of its first byte)."""
    per_file = (1 << 32) // size
    return int(name[:8], 16), (int(name[8:16], 16) * per_file + int(name[16:], 16)) * size


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    system: str  # identifier of the cluster, as pg_controldata prints it
    timeline: int
    lsn: int
    size: int  # bytes of a segment


def read_header(data: bytes) -> SegmentHeader:
    """Of a segment file's beginning. Raises WalFormatError."""
    if len(data) < _PAGE.size + 4 + _LONG.size:
        raise WalFormatError("it is shorter than the header of a page")
    magic, flags, timeline, lsn, _ = _PAGE.unpack_from(data)
    if magic not in _MAGIC or not flags & _LONG_HEADER:
        raise WalFormatError("it does not begin as a segment of PostgreSQL 15 or later")
    system, size, page = _LONG.unpack_from(data, _PAGE.size + 4)
    if page != PAGE_BYTES or size & (size - 1) or not 1 << 20 <= size <= 1 << 30 or lsn % size:
        raise WalFormatError(f"its header is impossible: pages of {page} bytes, segments of {size}, at {lsn:X}")
    return SegmentHeader(str(system), timeline, lsn, size)


@dataclass(frozen=True, slots=True)
class WalEvent:
    """`lsn` is where the record begins: what `recovery_target_lsn` takes to stop just after it."""

    kind: EventKind
    lsn: int
    xid: int = 0  # 0: of a prepared transaction, whose own is not read
    time: datetime | None = None
    name: str = ""  # of a restore point


EachRecord = Callable[[int, int, int, int, bytearray], None]
"""Resource manager, info, transaction, where it begins, and the whole record, which is only lent."""


class WalReader:
    """Reads a contiguous log, fed in pieces of any size from a segment's (or page's) first byte on. `ended`: what came next
    is no record, so the log ends at `end`. `broken`: where one begins that is not what its length or CRC says; for recovery the
    log ends there. `last` is where the last good record begins; None before there was one. `each` is shown every good one."""

    def __init__(self, lsn: int, segment_bytes: int, each: EachRecord | None = None) -> None:
        self._position, self._segment_bytes, self._each = lsn, segment_bytes, each
        self._buffer = b""
        self._record = bytearray()
        self._missing = 0  # bytes of the record that is being read
        self._skip = 0  # bytes of a record that began before we did, or padding
        self._blank_until = 0  # after a switch pages are empty up to the segment's end
        self._record_lsn = 0
        self._in_record = False
        self.timeline = 0
        self.broken: int | None = None
        self.last: int | None = None
        self.end = lsn
        self.ended = False

    def feed(self, data: bytes) -> list[WalEvent]:
        """What was completed by `data`, in order."""
        events: list[WalEvent] = []
        buffer = self._buffer + data if self._buffer else data
        at, size = 0, len(buffer)
        while not self.ended:
            if self._position < self._blank_until:
                step = min(self._blank_until - self._position, size - at)
                if step == 0:
                    break
                at += step
                self._position += step
                continue
            inside = self._position % PAGE_BYTES
            if inside == 0:
                used = self._page(buffer, at)
                if used == 0:
                    break
                at += used
                self._position += used
                continue
            room = PAGE_BYTES - inside
            if self._skip:
                step = min(self._skip, room, size - at)
                if step == 0:
                    break
                self._skip -= step
                at += step
                self._position += step
                continue
            if not self._in_record:
                if size - at < 4:
                    break
                length = int.from_bytes(buffer[at : at + 4], "little")
                if length < _RECORD.size:
                    self.ended = True
                    break
                self._in_record, self._missing, self._record_lsn = True, length, self._position
                self._record.clear()
            step = min(self._missing, room, size - at)
            if step == 0:
                break
            self._record += buffer[at : at + step]
            self._missing -= step
            at += step
            self._position += step
            if self._missing == 0:
                self._in_record = False
                self._finish(events)
        self._buffer = buffer[at:] if not self.ended else b""
        return events

    def _page(self, buffer: bytes, at: int) -> int:
        """The length of the header at a page's beginning; 0 when it is not all there, or wrong: then `ended`."""
        long = self._position % self._segment_bytes == 0
        length = _PAGE.size + 4 + (_LONG.size if long else 0)
        if len(buffer) - at < length:
            return 0
        magic, flags, timeline, address, remaining = _PAGE.unpack_from(buffer, at)
        if magic not in _MAGIC or address != self._position or bool(flags & _LONG_HEADER) != long:
            self.ended = True
            return 0
        self.timeline = timeline
        if flags & _CONTINUES:
            if not self._in_record:
                self._skip = _aligned(remaining)
            elif remaining != self._missing:
                return self._break(self._record_lsn)
        elif self._in_record:
            if not flags & _OVERWRITES:
                return self._break(self._record_lsn)
            # it was given up when the server crashed, and the log goes on here
            self._in_record, self._missing = False, 0
        else:
            self._skip = 0  # given up, too, of a record that began before we did
        return length

    def _break(self, lsn: int) -> int:
        self.broken, self.ended = lsn, True
        return 0

    def _finish(self, events: list[WalEvent]) -> None:
        record, lsn = self._record, self._record_lsn
        _, xid, _, info, manager, crc = _RECORD.unpack_from(record)
        if record_crc(record) != crc:
            self._break(lsn)
            return
        self.last, self.end = lsn, self._position
        self._skip = -self._position % 8
        if self._each is not None:
            self._each(manager, info, xid, lsn, record)
        if manager == XACT:
            operation = info & 0x70
            kind: EventKind | None = "commit" if operation in COMMITS else "abort" if operation in ABORTS else None
            if kind is not None:
                events.append(WalEvent(kind, lsn, xid, commit_time(main_data(record))))
        elif manager == XLOG and info & 0xF0 == _RESTORE_POINT:
            data = main_data(record)
            name = data[8:].split(b"\0")[0].decode("utf-8", "replace")
            events.append(WalEvent("restore_point", lsn, time=_time(data), name=name))
        elif manager == XLOG and info & 0xF0 == _SWITCH:
            events.append(WalEvent("switch", lsn))
            self._skip = 0
            self._blank_until = self.end = self._position + -self._position % self._segment_bytes


def record_crc(record: bytes | bytearray) -> int:
    """What a whole record's `xl_crc` must be."""
    covered = bytes(record[RECORD_BYTES:] + record[: RECORD_BYTES - 4])
    return int(google_crc32c.value(covered))


def _aligned(length: int) -> int:
    return (length + 7) // 8 * 8


def commit_time(data: bytes) -> datetime | None:
    """Of the main data of a commit or abort."""
    return _time(data) if len(data) >= 8 else None


def _time(data: bytes) -> datetime:
    return EPOCH + timedelta(microseconds=int.from_bytes(data[:8], "little", signed=True))


def main_data(record: bytes | bytearray) -> bytes:
    """Of a record that changes no block."""
    at = _RECORD.size
    while at < len(record):
        kind = record[at]
        if kind == 253:  # replication origin
            at += 3
        elif kind == 252:  # top-level xid
            at += 5
        elif kind == 255:
            return bytes(record[at + 2 : at + 2 + record[at + 1]])
        elif kind == 254:
            length = int.from_bytes(record[at + 1 : at + 5], "little")
            return bytes(record[at + 5 : at + 5 + length])
        else:
            return b""
    return b""


def describe_segment(data: bytes) -> dict[str, Any]:
    """What a segment holds, for whoever looks for a point in time without reading it: JSON-ready. `end` is where its last good
    record ends; records that run on into the next segment are that one's. `broken`, when there is one: where the first broken
    record begins; what comes behind it is not told, since no recovery gets there. Raises WalFormatError."""
    header = read_header(data)
    reader = WalReader(header.lsn, header.size)
    events = reader.feed(data)
    commits = [event for event in events if event.kind == "commit"]
    times = [event.time for event in commits if event.time is not None]
    xids = [event.xid for event in commits if event.xid]
    broken = {"broken": format_lsn(reader.broken)} if reader.broken is not None else {}
    return broken | {
        "system": header.system,
        "timeline": header.timeline,
        "start": format_lsn(header.lsn),
        "end": format_lsn(reader.end),
        "segment_bytes": header.size,
        "commits": len(commits),
        "first_commit": iso(times[0]) if times else "",
        "last_commit": iso(times[-1]) if times else "",
        "xids": [min(xids), max(xids)] if xids else [],
        "points": [[event.name, format_lsn(event.lsn)] for event in events if event.kind == "restore_point"],
    }
