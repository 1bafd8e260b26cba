"""A binary log of MariaDB or MySQL, event by event: what a file holds, whether it is whole, where a point in time lies in it. Pure.

Format: "Binlog Event Structure" of MariaDB's documentation; what only MySQL has is in `mysql_binlog_events`. Magic `fe 'bin'`; each
event: timestamp (4 bytes, UTC), type (1), server id (4), length (4), position after it (4), flags (2), body, CRC-32 (4) when the
format description says so.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from backupctl.sources import mysql_binlog_events as mysql
from backupctl.sources.gtids import DomainGtids, Gtids

MAGIC = b"\xfebin"
HEADER_BYTES = 19
LARGEST_EVENT = 2 << 30
QUERY, STOP, ROTATE, FORMAT, XID = 2, 3, 4, 15, 16
XA_PREPARE, GTID, GTID_LIST, START_ENCRYPTION = 38, 162, 163, 164
IN_USE_FLAG, STANDALONE_FLAG = 1, 1
CHECKSUM_CRC32 = 1
BEGINNINGS = (GTID, mysql.GTID, mysql.ANONYMOUS_GTID)  # events with which a group begins


class BinlogDamage(Exception):
    """What is wrong, and at which position."""


@dataclass(frozen=True, slots=True)
class Group:
    """One transaction or statement: what is replayed whole or not at all. `end`: position after it; `time`: of its commit, seconds
    since 1970, UTC."""

    gtid: str
    end: int
    time: int


@dataclass(slots=True)
class BinlogFile:
    """`start_gtids`: what the transactions before this file are. `end_gtids`: the same after its last group. `next_name`:
    of the file after it, where the server has written it; `stopped`: it went down properly, and chose the next name then."""

    checksummed: bool = False
    start_gtids: Gtids = field(default_factory=DomainGtids)
    end_gtids: Gtids = field(default_factory=DomainGtids)
    first_time: int = 0
    last_time: int = 0
    end: int = 0
    groups: int = 0
    next_name: str = ""
    stopped: bool = False


class BinlogReader:
    """Takes a file's bytes in pieces, from its beginning or, `at` the end of an event, from there: then whether events have
    checksums must be known. `on_group` is told each whole group, `on_event` each event before: its type, its body, which is only
    lent, and its position. Raises BinlogDamage."""

    def __init__(
        self, on_group: Callable[[Group], None] = lambda group: None, *, at: int = 0, checksummed: bool = False
    ) -> None:
        self.found = BinlogFile(checksummed=checksummed, end=at)
        self.on_group = on_group
        self.on_event: Callable[[int, memoryview, int], None] | None = None
        self.good_end = (
            at  # after the last event that came whole and is sound; 0 before it is known what a file begins after
        )
        self._data = bytearray()
        self._begun = at > 0
        self._gtid = ""
        self._standalone = False
        self._pending: tuple[str, int] | None = None

    def feed(self, data: bytes) -> None:
        self._data += data
        at = 0
        if not self._begun:
            if len(self._data) < len(MAGIC):
                return
            if not self._data.startswith(MAGIC):
                raise BinlogDamage("does not begin as a binary log does (an encrypted one cannot be read)")
            self._begun, at, self.found.end = True, len(MAGIC), len(MAGIC)
        view = memoryview(self._data)
        try:
            while len(view) - at >= HEADER_BYTES:
                time, kind, server, length, after, flags = struct.unpack_from("<IBIIIH", view, at)
                if length < HEADER_BYTES or length > LARGEST_EVENT:
                    raise BinlogDamage(f"is damaged at position {self.found.end}: an event of {length} bytes")
                if len(view) - at < length:
                    break
                self._event(time, kind, server, flags, after, view[at : at + length])
                at += length
                if kind in (GTID_LIST, mysql.PREVIOUS_GTIDS) or self.good_end:
                    self.good_end = self.found.end
        finally:
            view.release()
        del self._data[:at]

    def finish(self) -> BinlogFile:
        if self._data or not self._begun:
            raise BinlogDamage(f"ends in the middle of the event at position {self.found.end}")
        return self.found

    def _event(self, time: int, kind: int, server: int, flags: int, after: int, event: memoryview) -> None:
        found, body = self.found, event[HEADER_BYTES:]
        start = found.end
        found.end += len(event)
        if kind == FORMAT:
            found.checksummed = event[len(event) - 5] == CHECKSUM_CRC32
        if found.checksummed:
            self._verify(event, kind, flags, start)
            body = body[:-4]
        if kind == START_ENCRYPTION:
            raise BinlogDamage("is encrypted: what is in it cannot be checked")
        if after not in (0, found.end & 0xFFFFFFFF):
            raise BinlogDamage(f"is damaged at position {start}: it says that the next event is at {after}")
        if self.on_event is not None:
            self.on_event(kind, body, start)
        if kind == FORMAT:
            found.first_time = time
        elif kind == GTID_LIST:
            (count,) = struct.unpack_from("<I", body)
            started = DomainGtids()
            entries = (struct.unpack_from("<IIQ", body, 4 + 16 * n) for n in range(count & 0x0FFFFFFF))
            for domain, _, number in entries:
                started.add(str(domain), max(number, started.get(str(domain), 0)))
            found.start_gtids, found.end_gtids = started, started.copy()
        elif kind == GTID:
            number, domain, flags2 = struct.unpack_from("<QIB", body)
            self._begin(f"{domain}-{server}-{number}", str(domain), number, start)
            self._standalone = bool(flags2 & STANDALONE_FLAG)
        elif kind == mysql.PREVIOUS_GTIDS:
            previous = mysql.read_previous(body)
            if previous is None:
                raise BinlogDamage("holds GTIDs with tags, which are not understood here")
            found.start_gtids, found.end_gtids = previous, previous.copy()
        elif kind in (mysql.GTID, mysql.ANONYMOUS_GTID):
            uuid, number = mysql.read_gtid(body)
            self._begin(f"{uuid}:{number}" if number else "", uuid, number, start)
            self._standalone = True  # until a statement opens a transaction
        elif kind == mysql.TAGGED_GTID:
            raise BinlogDamage("holds GTIDs with tags, which are not understood here")
        elif kind == ROTATE:
            found.next_name = bytes(body[8:]).decode()
        elif kind == STOP:
            found.stopped = True
        if self._pending and kind not in BEGINNINGS and self._ends_group(kind, body):
            origin, number = self._pending
            if number:  # an anonymous one has none
                found.end_gtids.add(origin, number)
            found.last_time, found.groups, self._pending = time, found.groups + 1, None
            self.on_group(Group(self._gtid, found.end, time))

    def _begin(self, gtid: str, origin: str, number: int, start: int) -> None:
        if number and self.found.end_gtids.repeats(origin, number):
            raise BinlogDamage(f"holds {gtid} twice, the second time at position {start}")
        self._gtid, self._pending = gtid, (origin, number)

    def _ends_group(self, kind: int, body: memoryview) -> bool:
        if kind in (XID, XA_PREPARE, mysql.TRANSACTION_PAYLOAD):
            return True
        if kind != QUERY:
            return False
        _, _, schema_length, _, status_length = struct.unpack_from("<IIBHH", body)
        statement = bytes(body[13 + status_length + schema_length + 1 :])
        if self._standalone and statement.startswith(mysql.OPENING):
            self._standalone = False
            return False
        return self._standalone or statement in (b"COMMIT", b"ROLLBACK")

    def _verify(self, event: memoryview, kind: int, flags: int, start: int) -> None:
        content = event[:-4]
        (want,) = struct.unpack_from("<I", event, len(event) - 4)
        if kind == FORMAT and flags & IN_USE_FLAG:  # set in the file while the server writes it, and not summed
            cleared = bytearray(content)
            cleared[17] &= ~IN_USE_FLAG & 0xFF
            have = zlib.crc32(cleared)
        else:
            have = zlib.crc32(content)
        if have != want:
            raise BinlogDamage(f"is damaged at position {start}: the checksum of an event does not match")


def follows(before: BinlogFile, name: str, after: BinlogFile) -> str:
    """Why the file `name` is not the one right after `before`; "" when it is."""
    if before.next_name and before.next_name != name:
        return f"{before.next_name} is missing before {name}"
    if after.start_gtids != before.end_gtids:
        return f"{name} begins after {after.start_gtids}, the file before it ends with {before.end_gtids}"
    return ""
