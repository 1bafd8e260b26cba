"""Which transactions of a write-ahead log took much away: dropped or emptied tables, deleted or rewrote many rows, dropped a
database. What an operator, or a drill, looks for who has to go back to just before a mistake.

Told from the records alone, nothing is replayed. Names are in the catalog and not in the log, so relations are files here:
`pg_filenode_relation(tablespace, file)` on a server that was recovered to before the loss has the name. Layout as in `wal_format`:
xlogrecord.h, xact.h, heapam_xlog.h, storage_xlog.h, dbcommands_xlog.h.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from backupctl.errors import DamageError
from backupctl.sources.wal_archive import LogIndex
from backupctl.sources.wal_format import (
    ABORTS,
    COMMITS,
    RECORD_BYTES,
    XACT,
    XLOG,
    WalReader,
    commit_time,
    format_lsn,
    main_data,
    segment_name,
)
from backupctl.sources.wal_index import Span

MANY_ROWS = 1000
_SMGR, _DBASE, _HEAP2, _HEAP = 2, 4, 9, 10  # resource managers
_FULL_PAGES = (0xA0, 0xB0)  # XLOG_FPI_FOR_HINT, XLOG_FPI
_CREATE_FILE, _DROP_DATABASE = 0x10, 0x20
_DELETE, _UPDATE, _HOT_UPDATE = 0x10, 0x20, 0x40
_HAS_INFO, _HAS_DATABASE, _HAS_CHILDREN, _HAS_FILES = 0x80, 1, 2, 4
_HAS_IMAGE, _SAME_RELATION, _HAS_HOLE, _COMPRESSED = 0x10, 0x80, 0x01, 0x1C
_LAST_BLOCK_ID = 32
_RELATION = struct.Struct("<III")
_FIRST_OWN_FILE = 16384  # what initdb made is below

Relation = tuple[int, int, int]
"""Tablespace, database, file."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one transaction took. Recovery that stops before the record at `lsn` has none of it. Rows are by relation."""

    lsn: int
    xid: int
    time: datetime | None
    dropped: tuple[Relation, ...] = ()
    emptied: tuple[Relation, ...] = ()
    databases: tuple[int, ...] = ()
    deleted: tuple[tuple[Relation, int], ...] = ()
    updated: tuple[tuple[Relation, int], ...] = ()

    @property
    def relations(self) -> tuple[Relation, ...]:
        return (*self.dropped, *self.emptied, *(one for one, _ in (*self.deleted, *self.updated)))

    @property
    def words(self) -> str:
        parts = [f"dropped database {one}" for one in self.databases]
        for verb, files in (("dropped", self.dropped), ("emptied", self.emptied)):
            if files:
                parts.append(f"{verb} {len(files)} table or index file(s), such as {relation_words(min(files))}")
        for verb, rows in (("deleted", self.deleted), ("updated", self.updated)):
            parts += [f"{verb} {number:,} rows of {relation_words(one)}" for one, number in rows]
        return ", ".join(parts)


def read_losses(index: LogIndex, span: Span, rows: int = MANY_ROWS) -> tuple[list[Loss], list[str]]:
    """What transactions took in an archived stretch of log that begins with a segment, and where it could not be looked into, in
    words. Raises DamageError."""
    finder = LossFinder(rows)
    reader = WalReader(span.start, index.segment_bytes, finder.see)
    unread: list[str] = []
    for lsn in range(span.start, span.end, index.segment_bytes):
        if reader.ended:
            begin = format_lsn(reader.end)
            unread.append(
                f"the log cannot be read from {begin} to {format_lsn(lsn)}; what happened there cannot be told"
            )
            reader = WalReader(lsn, index.segment_bytes, finder.see)
        name = segment_name(span.timeline, lsn, index.segment_bytes)
        try:
            reader.feed(index.content(name) or b"")
        except (struct.error, IndexError) as error:
            message = f"the log cannot be read at {format_lsn(reader.end)}, in segment {name}: {error}"
            raise DamageError(message, name=name) from None
    return finder.found, unread


def relation_words(relation: Relation) -> str:
    return f"file {relation[2]} of database {relation[1]}"


@dataclass(slots=True)
class _Work:
    """What a transaction, or a part of one, has done by now."""

    created: set[Relation] = field(default_factory=set)
    written: Counter[Relation] = field(default_factory=Counter)  # pages or records, of what it created
    deleted: Counter[Relation] = field(default_factory=Counter)
    updated: Counter[Relation] = field(default_factory=Counter)
    databases: list[tuple[int, int]] = field(default_factory=list)  # (LSN, identifier)

    def add(self, other: _Work) -> None:
        self.created |= other.created
        self.written.update(other.written)
        self.deleted.update(other.deleted)
        self.updated.update(other.updated)
        self.databases += other.databases


class LossFinder:
    """Is shown every record of a log in order (`WalReader`'s `each`); `found` grows with each commit. Rows of transactions that
    are prepared first (two phases) are not counted: their commit does not say in which records they were."""

    def __init__(self, rows: int = MANY_ROWS) -> None:
        self.found: list[Loss] = []
        self._rows = rows
        self._open: dict[int, _Work] = {}

    def see(self, manager: int, info: int, xid: int, lsn: int, record: bytearray) -> None:
        if manager == XACT:
            if info & 0x70 in COMMITS:
                self._commit(info, xid, lsn, main_data(record))
            elif info & 0x70 in ABORTS:
                children, _ = _ending(info, main_data(record))
                for one in (xid, *children):
                    self._open.pop(one, None)
        elif xid == 0:
            return
        elif manager == _HEAP:
            self._heap(info & 0x70, xid, record)
        elif manager == _SMGR:
            if info & 0xF0 == _CREATE_FILE:
                self._work(xid).created.add(_RELATION.unpack_from(main_data(record)))
        elif manager == _DBASE:
            if info & 0xF0 == _DROP_DATABASE:
                self._work(xid).databases.append((lsn, int.from_bytes(main_data(record)[:4], "little")))
        elif (work := self._open.get(xid)) is not None and work.created:
            several = manager == XLOG and info & 0xF0 in _FULL_PAGES
            for relation in _blocks(record) if several else (_first(record),):
                if relation in work.created:
                    work.written[relation] += 1

    def _work(self, xid: int) -> _Work:
        return self._open.setdefault(xid, _Work())

    def _heap(self, operation: int, xid: int, record: bytearray) -> None:
        relation = _first(record)
        if relation is None:
            return
        if operation == _DELETE:
            self._work(xid).deleted[relation] += 1
        elif operation in (_UPDATE, _HOT_UPDATE):
            self._work(xid).updated[relation] += 1
        elif (work := self._open.get(xid)) is not None and relation in work.created:
            work.written[relation] += 1

    def _commit(self, info: int, xid: int, lsn: int, data: bytes) -> None:
        children, files = _ending(info, data)
        work = self._open.pop(xid, None) or _Work()
        for child in children:
            if (part := self._open.pop(child, None)) is not None:
                work.add(part)
        gone = [one for one in files if one not in work.created]
        made = [one for one in work.created if one not in files]
        emptied = (
            bool(made) and all(work.written[one] < 2 for one in made) and any(work.written[one] == 0 for one in made)
        )
        rewritten = bool(made) and not emptied
        loss = Loss(
            lsn=min([at for at, _ in work.databases], default=lsn),  # its files go with that record, before the commit
            xid=xid,
            time=commit_time(data),
            dropped=tuple(gone) if not made or (rewritten and len(gone) > len(made)) else (),
            emptied=tuple(gone) if emptied else (),
            databases=tuple(identifier for _, identifier in work.databases),
            deleted=self._many(work.deleted, gone),
            updated=self._many(work.updated, gone),
        )
        if loss.relations or loss.databases:
            self.found.append(loss)

    def _many(self, rows: Counter[Relation], gone: list[Relation]) -> tuple[tuple[Relation, int], ...]:
        own = {one: number for one, number in rows.items() if one[2] >= _FIRST_OWN_FILE and one not in gone}
        return tuple((one, number) for one, number in sorted(own.items()) if number >= self._rows)


def _ending(info: int, data: bytes) -> tuple[tuple[int, ...], tuple[Relation, ...]]:
    """The parts (subtransactions) that end with a transaction, and the files that go with it."""
    if not info & _HAS_INFO:
        return (), ()
    (flags,) = struct.unpack_from("<I", data, 8)
    at = 12 + (8 if flags & _HAS_DATABASE else 0)
    children: tuple[int, ...] = ()
    if flags & _HAS_CHILDREN:
        (number,) = struct.unpack_from("<I", data, at)
        children = struct.unpack_from(f"<{number}I", data, at + 4)
        at += 4 + 4 * number
    if not flags & _HAS_FILES:
        return children, ()
    (number,) = struct.unpack_from("<I", data, at)
    return children, tuple(_RELATION.iter_unpack(data[at + 4 : at + 4 + _RELATION.size * number]))


def _first(record: bytearray) -> Relation | None:
    """Of the first block that a record changes; None when it changes none. Asked of nearly every record."""
    at = RECORD_BYTES + 4
    if len(record) < at or record[RECORD_BYTES] > _LAST_BLOCK_ID:
        return None
    if record[RECORD_BYTES + 1] & _HAS_IMAGE:
        kind = record[at + 4]
        at += 7 if kind & _HAS_HOLE and kind & _COMPRESSED else 5
    return _RELATION.unpack_from(record, at)


def _blocks(record: bytearray) -> Iterator[Relation]:
    """Of every block that a record changes. What lies behind the headers is as long as they say."""
    at, behind, relation = RECORD_BYTES, 0, (0, 0, 0)
    while at + behind < len(record) and record[at] <= _LAST_BLOCK_ID:
        flags = record[at + 1]
        behind += int.from_bytes(record[at + 2 : at + 4], "little")
        at += 4
        if flags & _HAS_IMAGE:
            behind += int.from_bytes(record[at : at + 2], "little")
            kind = record[at + 4]
            at += 7 if kind & _HAS_HOLE and kind & _COMPRESSED else 5
        if not flags & _SAME_RELATION:
            relation = _RELATION.unpack_from(record, at)
            at += _RELATION.size
        at += 4  # the block's number
        yield relation
