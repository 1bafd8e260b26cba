"""Which transactions of binary logs took much away: dropped or emptied tables, dropped databases, deleted or updated many rows.
What an operator looks for who has to go back to just before a mistake.

Told from the events alone, nothing is replayed. Statements stay out of what is told: they hold the data. Layout: "TABLE_MAP_EVENT",
"ROWS_EVENT_V1" and "QUERY_EVENT" of MariaDB's documentation.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backupctl.errors import DamageError
from backupctl.sources.binlog_format import GTID, QUERY, BinlogDamage, BinlogFile, BinlogReader, Group, follows
from backupctl.sources.mariadb_binlog import Position, read_whole
from backupctl.sources.mariadb_replay import Logs, key

MANY_ROWS = 1000
TABLE_MAP, UPDATE_ROWS, DELETE_ROWS = 19, 24, 25
UNREAD = (165, 167, 168, 30, 31, 32)  # compressed, or of a form that MariaDB does not write
_TABLE_ID_BYTES, _FLAG_BYTES = 6, 2

_NAME = r"(?:`(?:[^`]|``)+`|[\w$]+)(?:\s*\.\s*(?:`(?:[^`]|``)+`|[\w$]+))?"
_NAMES = rf"({_NAME}(?:\s*,\s*{_NAME})*)"
_IF = r"(?:IF\s+EXISTS\s+)?"
_ALTER = rf"ALTER\s+(?:ONLINE\s+|IGNORE\s+)*TABLE\s+{_IF}"
_STATEMENTS = [
    (verb, re.compile(pattern, re.I | re.S))
    for verb, pattern in (
        ("dropped table", rf"DROP\s+TABLES?\s+{_IF}{_NAMES}"),
        ("dropped database", rf"DROP\s+(?:DATABASE|SCHEMA)\s+{_IF}{_NAMES}"),
        ("emptied table", rf"TRUNCATE\s+(?:TABLE\s+)?{_NAMES}"),
        ("replaced table", rf"CREATE\s+OR\s+REPLACE\s+TABLE\s+{_NAMES}"),
        ("dropped or emptied partitions of", rf"{_ALTER}{_NAMES}\s.*?(?:DROP|TRUNCATE)\s+PARTITION\b"),
        ("dropped columns of", rf"{_ALTER}{_NAMES}\s.*?DROP\s+COLUMN\b"),
        ("deleted all rows of", rf"DELETE\s+(?:(?:LOW_PRIORITY|QUICK|IGNORE)\s+)*FROM\s+{_NAMES}\s*(?:$|ORDER\b|RETURNING\b)"),
        ("updated all rows of", rf"UPDATE\s+(?:(?:LOW_PRIORITY|IGNORE)\s+)*{_NAMES}\s+SET\b(?!.*\b(?:WHERE|LIMIT)\b)"),
    )
]  # fmt: skip
_NOISE = re.compile(r"/\*(?!!|M!).*?\*/|(?:--\s|#)[^\n]*|'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"", re.S)
_OPENED = re.compile(r"/\*M?!\d*|\*/")


@dataclass(frozen=True, slots=True)
class BinlogLoss:
    """What one transaction took. Recovery up to the position `start` of the log `file` has none of it. `time`: of its commit."""

    file: str
    start: int
    gtid: str
    time: datetime
    what: tuple[str, ...]

    @property
    def words(self) -> str:
        return ", ".join(self.what)

    @property
    def before(self) -> str:
        """What recovery takes to stop just before it."""
        return f"{self.file}:{self.start}"


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    columns: tuple[Callable[[memoryview, int], int], ...]  # from where a value begins to where it ends


@dataclass(slots=True)
class _Work:
    """Of the transaction that is being read."""

    start: int = 0
    said: list[str] = field(default_factory=list)
    deleted: Counter[str] = field(default_factory=Counter)
    updated: Counter[str] = field(default_factory=Counter)


class BinlogLossFinder:
    """Reads one log through `reader`. `found` grows with each transaction; `unread` counts events that could not be looked into."""

    def __init__(self, file: str, rows: int = MANY_ROWS) -> None:
        self.reader = BinlogReader(self._group)
        self.reader.on_event = self._event
        self.found: list[BinlogLoss] = []
        self.unread = 0
        self._file, self._rows = file, rows
        self._tables: dict[int, _Table | None] = {}
        self._work = _Work()

    def _event(self, kind: int, body: memoryview, start: int) -> None:
        if kind == GTID:
            self._work = _Work(start)
        elif kind == QUERY:
            self._work.said += told(*_query(body))
        elif kind == TABLE_MAP:
            try:
                self._tables[_table_id(body)] = _table(body)
            except (IndexError, KeyError):
                self._tables[_table_id(body)] = None
        elif kind in (UPDATE_ROWS, DELETE_ROWS):
            table = self._tables.get(_table_id(body))
            try:
                count = _count(body, table, images=2 if kind == UPDATE_ROWS else 1) if table is not None else 0
            except (IndexError, KeyError):
                count = 0
            self.unread += not count
            if table is not None:
                (self._work.updated if kind == UPDATE_ROWS else self._work.deleted)[table.name] += count
        elif kind in UNREAD:
            self.unread += 1

    def _group(self, group: Group) -> None:
        work, self._work = self._work, _Work()
        what = list(work.said)
        for verb, rows in (("deleted", work.deleted), ("updated", work.updated)):
            what += [
                f"{verb} {number:,} rows of {table}" for table, number in sorted(rows.items()) if number >= self._rows
            ]
        if what:
            time = datetime.fromtimestamp(group.time, UTC)
            self.found.append(BinlogLoss(self._file, work.start, group.gtid, time, tuple(what)))


@dataclass(slots=True)
class BinlogSearch:
    """What was found; `notes`: what could not be looked into."""

    logs: int = 0
    losses: list[BinlogLoss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def search_logs(logs: Logs, start: Position, rows: int = MANY_ROWS) -> BinlogSearch:
    """From `start`, which must be in one of the logs, to their end."""
    search = BinlogSearch()
    before: BinlogFile | None = None
    unread = 0
    for name in logs.names[logs.names.index(start.file) :]:
        finder = BinlogLossFinder(name, rows)
        try:
            found: BinlogFile | None = read_whole(logs.open(name), finder.reader)
        except (BinlogDamage, DamageError) as error:
            search.notes.append(f"binary log {name} {error}; what came behind that in it cannot be told")
            found = None
        if before is not None and found is not None and (why := follows(before, name, found)):
            search.notes.append(f"binary logs have a gap: {why}; what happened in it cannot be told")
        before = found
        search.losses += [one for one in finder.found if key(Position(one.file, one.start)) >= key(start)]
        search.logs += 1
        unread += finder.unread
    if unread:
        search.notes.append(f"{unread} events are compressed or of an unknown form: rows in them were not counted")
    return search


def told(schema: str, statement: str) -> Iterator[str]:
    """What a statement takes away, with the names of what it takes it from; nothing of the rest of it."""
    text = _OPENED.sub(" ", _NOISE.sub(" ", statement)).strip()
    for verb, pattern in _STATEMENTS:
        if found := pattern.match(text):
            for name in re.findall(_NAME, found[1]):
                plain = re.sub(r"\s", "", name.replace("`", ""))
                whole = plain if "." in plain or not schema or verb == "dropped database" else f"{schema}.{plain}"
                yield f"{verb} {whole}"
            return


def _query(body: memoryview) -> tuple[str, str]:
    """The database that was chosen, and the statement."""
    _, _, schema_length, _, status_length = struct.unpack_from("<IIBHH", body)
    at = 13 + status_length
    schema = bytes(body[at : at + schema_length]).decode("utf-8", "replace")
    return schema, bytes(body[at + schema_length + 1 :]).decode("utf-8", "replace")


def _table_id(body: memoryview) -> int:
    return int.from_bytes(body[:_TABLE_ID_BYTES], "little")


def _packed(data: memoryview, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    first = data[at]
    if first < 251:
        return first, at + 1
    length = {252: 2, 253: 3, 254: 8}[first]
    return int.from_bytes(data[at + 1 : at + 1 + length], "little"), at + 1 + length


def _table(body: memoryview) -> _Table | None:
    """None for one with a type that we do not know."""
    at = _TABLE_ID_BYTES + _FLAG_BYTES
    names = []
    for _ in range(2):
        length = body[at]
        names.append(bytes(body[at + 1 : at + 1 + length]).decode("utf-8", "replace"))
        at += length + 2
    count, at = _packed(body, at)
    types = bytes(body[at : at + count])
    _, at = _packed(body, at + count)
    columns = []
    for kind in types:
        size = _META_BYTES.get(kind, 0)
        value = _value(kind, bytes(body[at : at + size]))
        if value is None:
            return None
        columns.append(value)
        at += size
    return _Table(".".join(names), tuple(columns))


def _count(body: memoryview, table: _Table, images: int) -> int:
    """Rows of an event: nothing says how many there are, so each is gone through."""
    count, at = _packed(body, _TABLE_ID_BYTES + _FLAG_BYTES)
    width = (count + 7) // 8
    present = []
    for _ in range(images):
        bits = int.from_bytes(body[at : at + width], "little")
        present.append([column for number, column in enumerate(table.columns) if bits >> number & 1])
        at += width
    rows = 0
    while at < len(body):
        for columns in present:
            size = (len(columns) + 7) // 8
            empty = int.from_bytes(body[at : at + size], "little")
            at += size
            for number, end in enumerate(columns):
                if not empty >> number & 1:
                    at = end(body, at)
        rows += 1
    return rows


_FIXED = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 7: 4, 8: 8, 9: 3, 10: 3, 11: 3, 12: 8, 13: 1, 14: 3}
_FRACTION = {17: 4, 18: 5, 19: 3}  # TIMESTAMP2, DATETIME2, TIME2: bytes before those of the fraction
_VARCHAR, _BIT, _DECIMAL, _ENUM, _SET, _STRINGS = (15, 141), 16, 246, 247, 248, (253, 254)
_BLOBS = (140, 245, 249, 250, 251, 252, 255)
_META_BYTES = {
    **dict.fromkeys((4, 5, *_FRACTION, *_BLOBS), 1),
    **dict.fromkeys((*_VARCHAR, _BIT, _DECIMAL, _ENUM, _SET, *_STRINGS), 2),
}
_DIGITS = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)  # bytes of so many decimal digits


def _value(kind: int, meta: bytes) -> Callable[[memoryview, int], int] | None:
    if kind in _FIXED:
        return _fixed(_FIXED[kind])
    if kind in _FRACTION:
        return _fixed(_FRACTION[kind] + (meta[0] + 1) // 2)
    if kind in _BLOBS:
        return _prefixed(meta[0])
    if kind in _VARCHAR:
        return _prefixed(1 if int.from_bytes(meta, "little") < 256 else 2)
    if kind == _BIT:
        return _fixed(meta[1] + (meta[0] > 0))
    if kind == _DECIMAL:
        whole, part = meta[0] - meta[1], meta[1]
        return _fixed(whole // 9 * 4 + _DIGITS[whole % 9] + part // 9 * 4 + _DIGITS[part % 9])
    if kind in _STRINGS:
        if meta[0] in (_ENUM, _SET):
            return _fixed(meta[1])
        longest = meta[1] | ((meta[0] & 0x30) ^ 0x30) << 4
        return _prefixed(1 if longest < 256 else 2)
    return None


def _fixed(size: int) -> Callable[[memoryview, int], int]:
    return lambda data, at: at + size


def _prefixed(size: int) -> Callable[[memoryview, int], int]:
    return lambda data, at: at + size + int.from_bytes(data[at : at + size], "little")
