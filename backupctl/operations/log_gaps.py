"""What a missing or unreadable part of an archived log takes away: from which backups on, and up to which."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from backupctl.clock import iso, parse_iso
from backupctl.errors import DamageError, NoSuchError
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import MARIADB, Piece, ReceivedLogs, instant
from backupctl.sources.mariadb_binlog import Position
from backupctl.sources.mariadb_replay import key, sequence
from backupctl.sources.wal_format import parse_lsn, segment_name, segment_place
from backupctl.sources.wal_index import Ancestor, Span, history_name, missing, way_to

Place = Any
"""Of a log, comparable: an LSN, or the key of a position in a binary log."""


@dataclass(frozen=True, slots=True)
class LoggedBackup:
    """A backup from which a log leads on. `place`: where that begins."""

    snapshot: str
    time: datetime
    place: Place
    timeline: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """`name`: of the segment that is missing, the first of them, or that cannot be read. `stranded`: snapshots from which nothing
    leads across it."""

    name: str
    message: str
    stranded: tuple[str, ...]


@dataclass(slots=True)
class Backups:
    """By server, as archives are called."""

    postgresql: dict[str, list[LoggedBackup]] = field(default_factory=dict)
    mariadb: dict[str, list[LoggedBackup]] = field(default_factory=dict)
    segment_bytes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, repository: Repository, snapshots: Iterable[Snapshot]) -> Backups:
        """Of complete snapshots; one whose facts cannot be read is told by whoever checks records."""
        found = cls()
        for snapshot in snapshots:
            tags = SnapshotTags.of(snapshot)
            if not (tags.fingerprint and tags.complete):
                continue
            try:
                sources = fingerprint_of(repository, snapshot)["sources"]
            except (DamageError, NoSuchError):
                continue
            for facts in sources.values():
                found._add(snapshot.id, facts["fingerprint"])
        return found

    def _add(self, snapshot: str, facts: Mapping[str, Any]) -> None:
        begin = facts.get("base") or facts.get("binary_log")
        if facts.get("method") == "physical" and "log_end" in facts:
            server = str(facts["system_identifier"])
            self.segment_bytes[server] = facts["segment_bytes"]
            place, time = parse_lsn(facts["log_end"]), parse_iso(facts["time"])
            self.postgresql.setdefault(server, []).append(LoggedBackup(snapshot, time, place, facts["timeline"]))
        elif facts.get("kind") == "mariadb" and facts.get("server_uid") and begin:
            server = MARIADB + str(facts["server_uid"])
            backup = LoggedBackup(snapshot, parse_iso(facts["time"]), key(Position(*begin)))
            self.mariadb.setdefault(server, []).append(backup)


def postgresql_gaps(
    names: Collection[str],
    histories: Mapping[int, Sequence[Ancestor]],
    segment_bytes: int,
    backups: Sequence[LoggedBackup],
    damage: Mapping[str, str],
    last_commits: Mapping[str, datetime],
) -> list[Gap]:
    """`names`: of segments that are held, those with `damage` too; `last_commits`: of those that hold one."""

    def gap(span: Span, what: str) -> Gap:
        def leads(one: LoggedBackup) -> bool:
            """There, or from there to it."""
            if one.place >= span.end:
                timeline, place, way = span.timeline, span.end, way_to(one.timeline, histories)
            else:
                timeline, place, way = one.timeline, one.place, way_to(span.timeline, histories)
            return any(part.timeline == timeline and (not part.end or part.end >= place) for part in way)

        lines = {one.timeline for one in way_to(span.timeline, histories)}
        before = [
            time
            for name, time in last_commits.items()
            if int(name[:8], 16) in lines and segment_place(name, segment_bytes)[1] < span.start
        ]
        words, stranded = _consequence([one for one in backups if leads(one)], span.end, max(before, default=None))
        return Gap(segment_name(span.timeline, span.start, segment_bytes), f"{what}: {words}", stranded)

    found = [
        gap(span, f"log is missing, {span}, {(span.end - span.start) // segment_bytes} segment(s)")
        for span in missing(names, histories, segment_bytes)
    ]
    for timeline in sorted({int(name[:8], 16) for name in names} - histories.keys()):
        if stranded := tuple(one.snapshot for one in backups if one.timeline < timeline):
            name = history_name(timeline)
            message = f"the history of timeline {timeline} is missing: nothing leads there from a timeline before it"
            found.append(Gap(name, message, stranded))
    for name, what in sorted(damage.items()):
        timeline, lsn = segment_place(name, segment_bytes)
        span = Span(timeline, lsn, lsn + segment_bytes)
        found.append(gap(span, f"log that cannot be read, {span}: {what}"))
    return found


def mariadb_gaps(logs: ReceivedLogs, backups: Sequence[LoggedBackup], damage: Mapping[str, str]) -> list[Gap]:
    """`damage`: by the name of the piece."""
    found = []

    def gap(name: str, start: Position, end: Position, what: str) -> None:
        words, stranded = _consequence(backups, key(end), _last_commit(logs, start))
        found.append(Gap(name, f"{what}: {words}", stranded))

    held = [file for file, pieces in logs.files.items() if pieces]
    for before, file in pairwise(held):
        if logs.rest[before]:
            continue  # what is missing of it is told below
        try:
            why = logs.break_between(before, file)
        except DamageError:
            continue  # told by its piece
        if why:
            after = Position(before, logs.end(before))
            gap(logs.files[file][0].name, after, Position(file, 4), f"binary log is missing after {after}: {why}")
    for file, rest in logs.rest.items():
        if rest:
            start, end = Position(file, logs.end(file)), Position(file, min(one.start for one in rest))
            gap(
                Piece(file, start.offset, end.offset).name,
                start,
                end,
                f"binary log is missing, {start} to {end.offset}",
            )
    for file in held:
        for one in logs.files[file]:
            if one.name in damage:
                start, end = Position(file, one.start), Position(file, one.end)
                gap(
                    one.name, start, end, f"binary log that cannot be read, {start} to {end.offset}: {damage[one.name]}"
                )
    return found


def _last_commit(logs: ReceivedLogs, place: Position) -> datetime | None:
    """Of what is held before a place, by the facts of the pieces that end there or earlier."""
    for file in sorted(logs.files, key=sequence, reverse=True):
        for piece in reversed(logs.files[file]):
            if key(Position(file, piece.end)) <= key(place):
                with suppress(DamageError, NoSuchError):
                    if time := instant(logs.facts_at(piece)["last_time"]):
                        return time
    return None


def _consequence(backups: Sequence[LoggedBackup], end: Place, last: datetime | None) -> tuple[str, tuple[str, ...]]:
    """In words, and the snapshots that it strands, of a log that nothing leads across up to `end`. `last`: of the newest commit
    before it."""
    stranded = [one for one in backups if one.place < end]
    if not stranded:
        return "no backup leads there", ()
    since = max([*(one.time for one in stranded), *([last] if last else [])])
    behind = min((one.time for one in backups if one.place >= end), default=None)
    words = f"no point in time after {iso(since)} can be recovered"
    words += f", up to the next backup, of {iso(behind)}" if behind else "; back up again"
    return words, tuple(one.snapshot for one in stranded)
