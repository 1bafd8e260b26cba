"""Binary logs that were received as they were written, in the repository's bucket: pieces of files, which only ever are added.

A piece is called `FILE.START-END` (bytes of the file, 12 digits each) and ends at the end of an event. What a file's pieces hold is
told in their facts: `log` is what `facts_of` says of the file up to there. When a file is complete, small pieces are put together.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backupctl.clock import iso
from backupctl.errors import DamageError, Denied
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_format import BinlogDamage, BinlogReader
from backupctl.sources.gtids import DomainGtids
from backupctl.sources.mariadb_binlog import DIRECTORY, Position
from backupctl.sources.mariadb_replay import key, sequence
from backupctl.sources.protocol import Fingerprint

MARIADB = "mariadb "  # so begins a server's name here
PIECE_BYTES = 16 << 20
_FACTS = {"start_gtids", "end_gtids", "next_name", "last_time", "end", "checksummed"}
_PIECE = re.compile(r"(.+)\.(\d{12,})-(\d{12,})")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of the log `file`."""

    file: str
    start: int
    end: int

    @property
    def name(self) -> str:
        return f"{self.file}.{self.start:012d}-{self.end:012d}"


@dataclass(frozen=True, slots=True)
class Hole:
    """Nothing leads across it. `after` is the last position before it."""

    after: Position
    before: Position
    why: str

    def __str__(self) -> str:
        return f"between {self.after} and {self.before}: {self.why}"


def archive_of(repository: Repository, server_uid: str) -> LogArchive:
    return LogArchive(repository, MARIADB + server_uid)


def piece_of(name: str) -> Piece | None:
    found = _PIECE.fullmatch(name)
    return Piece(found[1], int(found[2]), int(found[3])) if found else None


class ReceivedLogs:
    """What an archive holds of one server's binary logs; `files` by name, in order, each with the pieces that follow one another
    from its beginning. `rest`: pieces of it behind a hole. `names` and `known` (facts by name) where they have been read."""

    def __init__(
        self,
        archive: LogArchive,
        names: Iterable[str] | None = None,
        known: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.archive, self._known = archive, known or {}
        every: dict[str, list[Piece]] = {}
        for name in archive.names() if names is None else names:
            if piece := piece_of(name):
                every.setdefault(piece.file, []).append(piece)
        self.files: dict[str, list[Piece]] = {}
        self.rest: dict[str, list[Piece]] = {}
        for file in sorted(every, key=sequence):
            at, chain = 0, []
            while fitting := [one for one in every[file] if one.start == at]:
                chain.append(max(fitting, key=lambda one: one.end))
                at = chain[-1].end
            self.files[file] = chain
            self.rest[file] = [one for one in every[file] if one.start > at]
        self._facts: dict[Piece, dict[str, Any]] = {}

    def end(self, file: str) -> int:
        return self.files[file][-1].end if self.files.get(file) else 0

    def facts(self, file: str) -> dict[str, Any]:
        """Of a file as far as it is held, from its newest piece. Raises DamageError, NoSuchError."""
        return self.facts_at(self.files[file][-1])

    def facts_at(self, piece: Piece) -> dict[str, Any]:
        """The same as far as this piece."""
        if piece not in self._facts:
            facts = self._known.get(piece.name) or self.archive.look(piece.name).facts
            self._facts[piece] = log_of(piece.name, facts)
        return self._facts[piece]

    def holes(self) -> list[Hole]:
        """By what the facts say. Raises DamageError for facts that cannot be read."""
        found = []
        before = ""
        for file, pieces in self.files.items():
            if rest := self.rest[file]:
                nearest = min(one.start for one in rest)
                found.append(Hole(Position(file, self.end(file)), Position(file, nearest), "a piece is missing"))
            if pieces and before and not self.rest[before] and (why := self.break_between(before, file)):
                found.append(Hole(Position(before, self.end(before)), Position(file, 4), why))
            before = file if pieces else before
        return found

    def break_between(self, before: str, file: str) -> str:
        """Why `file` is not what follows `before`; "" when it is."""
        ended, begun = self.facts(before), self.facts(file)
        if ended["next_name"] and ended["next_name"] != file:
            return f"{ended['next_name']} is missing"
        if begun["start_gtids"] != ended["end_gtids"]:
            first, last = (DomainGtids(one) for one in (ended["end_gtids"], begun["start_gtids"]))
            return f"transactions are missing from {first} to {last}"
        return ""

    def reach(self, start: Position) -> tuple[Position, datetime | None]:
        """How far the logs lead from `start` without a hole, and when the newest transaction of them was committed."""
        end, newest, before = start, None, ""
        for file in self.files:
            if sequence(file) < sequence(start.file) or not self.files[file]:
                continue
            if (not before and file != start.file) or (before and self.break_between(before, file)):
                break
            at = Position(file, self.end(file))
            if key(at) > key(end):
                end, newest = at, self.facts(file)["last_time"] or newest
            if self.rest[file]:
                break
            before = file
        return end, instant(newest)


def log_of(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a piece's facts say of its log. Raises DamageError for facts that are none."""
    log = facts.get("log")
    if not isinstance(log, dict) or not log.keys() >= _FACTS:
        raise DamageError(f"log segment {name}: its facts say nothing of a binary log", name=name)
    return log


def damage_of(piece: Piece, facts: Mapping[str, Any], content: bytes) -> str:
    """What is wrong with the events of a piece, by their own checksums; "" when nothing is."""
    try:
        facts = log_of(piece.name, facts)
    except DamageError as error:
        return error.message
    if len(content) != piece.end - piece.start or facts["end"] != piece.end:
        return f"it has {len(content)} bytes and ends at {facts['end']}, which its name does not say"
    reader = BinlogReader(at=piece.start, checksummed=facts["checksummed"])
    try:
        reader.feed(content)
        reader.finish()
    except (BinlogDamage, struct.error) as error:
        return f"{piece.file} {error}"
    return ""


def instant(seconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


class _Stream:
    """Pieces, one after the other."""

    def __init__(self, archive: LogArchive, pieces: list[Piece]) -> None:
        self._archive, self._pieces = archive, list(pieces)
        self._data = b""

    def read(self, size: int = -1, /) -> bytes:
        while self._pieces and (size < 0 or not self._data):
            self._data += self._archive.get(self._pieces.pop(0).name)
        size = len(self._data) if size < 0 else size
        data, self._data = self._data[:size], self._data[size:]
        return data

    def close(self) -> None:
        self._pieces, self._data = [], b""


class ReceivedFiles:
    """Received logs as a snapshot shows them that has them."""

    def __init__(self, logs: ReceivedLogs) -> None:
        self._logs = logs

    def names(self, directory: bytes = b"") -> list[bytes]:
        return [file.encode() for file, pieces in self._logs.files.items() if pieces] if directory == DIRECTORY else []

    def open(self, path: bytes) -> _Stream:
        return _Stream(self._logs.archive, self._logs.files[_file(path)])

    def size(self, path: bytes) -> int:
        return self._logs.end(_file(path))


def _file(path: bytes) -> str:
    return path.rpartition(b"/")[2].decode()


def stored_logs_of(repository: Repository, server_uid: str) -> Iterator[tuple[Fingerprint, ReceivedFiles]]:
    """One pair as a snapshot of `method: binlog` gives, or none. What is proven ends with the newest transaction."""
    logs = ReceivedLogs(archive_of(repository, server_uid))
    held = [file for file, pieces in logs.files.items() if pieces]
    if held:
        times = [time for file in held[-2:] if (time := logs.facts(file)["last_time"])]
        time = instant(max(times)) if times else None
        if time is not None:
            yield {"kind": "mariadb", "server_uid": server_uid, "time": iso(time), "logs": held}, ReceivedFiles(logs)


def compact(archive: LogArchive, pieces: list[Piece]) -> None:
    """Large pieces instead of the small ones of a file that grows no more; the large ones first. A store that keeps everything
    keeps the small ones too."""
    if len(pieces) <= 1 + pieces[-1].end // PIECE_BYTES:
        return
    group: list[Piece] = []
    for piece in [*pieces, None]:
        if piece is None or (group and piece.end - group[0].start > PIECE_BYTES):
            _join(archive, group)
            group = []
        if piece is not None:
            group.append(piece)


def _join(archive: LogArchive, group: list[Piece]) -> None:
    if len(group) < 2:
        return
    whole = Piece(group[0].file, group[0].start, group[-1].end)
    archive.put(whole.name, b"".join(archive.get(one.name) for one in group), archive.look(group[-1].name).facts)
    for one in group:
        with suppress(Denied):
            archive.delete(one.name)
