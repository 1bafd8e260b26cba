"""The archived logs of database servers in copies: without them a backup there leads to its own instant only."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backupctl.errors import DamageError, NoSuchError
from backupctl.operations.log_needs import LogNeeds
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import PREFIX, DifferentContentError, LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import Piece, ReceivedLogs, archive_of, compact, piece_of
from backupctl.sources.mariadb_replay import sequence
from backupctl.sources.wal_format import is_segment_name, segment_place
from backupctl.sources.wal_index import history_timeline


def needed_log(source: Repository, snapshots: Iterable[Snapshot]) -> list[tuple[str, str]]:
    """(server, name) of what `source` holds of the logs from the oldest backup among `snapshots` on: whole segments and histories
    of timelines of PostgreSQL, pieces of MariaDB's binary logs, oldest first. A snapshot whose fingerprint cannot be read needs
    nothing here."""
    if next(iter(source.store.list(PREFIX)), None) is None:
        return []
    needs = LogNeeds()
    for snapshot in snapshots:
        if not SnapshotTags.of(snapshot).fingerprint:
            continue
        try:
            needs.add(fingerprint_of(source, snapshot)["sources"])
        except (DamageError, NoSuchError):
            continue  # it could not be copied either, and that was told
    segments = [
        (server, name)
        for server, (start, size) in sorted(needs.segments.items())
        for name in LogArchive(source, server).names()
        if history_timeline(name) is not None or (is_segment_name(name) and segment_place(name, size)[1] + size > start)
    ]
    return segments + [
        (logs.archive.server, piece.name)
        for uid, first in sorted(needs.files.items())
        for logs in (ReceivedLogs(archive_of(source, uid)),)
        for file, pieces in logs.files.items()
        if sequence(file) >= sequence(first)
        for piece in pieces
    ]


def copy_log(
    source: Repository,
    destination: Repository,
    needed: Iterable[tuple[str, str]],
    problems: list[str],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[int, int]:
    """What of `needed` the destination lacks, sealed with its own key: how many, and their bytes. What cannot be read in the
    source, or is there with other content, goes to `problems`, and the rest is copied. The caller holds both locks."""
    count = size = 0
    there: dict[str, _There] = {}
    for server, name in needed:
        if server not in there:
            there[server] = _There(LogArchive(destination, server))
        try:
            copied = there[server].take(LogArchive(source, server), name)
        except NoSuchError:
            continue  # it expired meanwhile, or was put together with others
        except (DamageError, DifferentContentError) as error:
            problems.append(f"log segment {name} cannot be copied: {error.message}")
            continue
        if copied:
            count, size = count + 1, size + copied
            progress(size)
    for one in there.values():
        try:
            one.settle()
        except DamageError as error:
            problems.append(f"the copied log cannot be put together: {error.message}")
    return count, size


class _There:
    """What a destination has of one server's log."""

    def __init__(self, archive: LogArchive) -> None:
        self._archive, self._names = archive, set(archive.names())
        self._ends = {file: pieces[-1].end for file, pieces in ReceivedLogs(archive).files.items() if pieces}
        self._grown: set[str] = set()

    def take(self, source: LogArchive, name: str) -> int:
        """Store it if it is not there; the bytes that were stored. Pieces of a binary log may be cut otherwise here, since the
        source puts them together: what is there by now is not stored again."""
        piece = piece_of(name)
        end = self._ends.get(piece.file, 0) if piece is not None else 0
        if name in self._names or (piece is not None and piece.end <= end):
            return 0
        content, facts = source.get(name), source.look(name).facts
        if piece is not None:
            start = max(piece.start, end)
            content, name = content[start - piece.start :], Piece(piece.file, start, piece.end).name
            self._ends[piece.file] = piece.end
            self._grown.add(piece.file)
        self._archive.put(name, content, facts)
        return len(content)

    def settle(self) -> None:
        """Of binary logs that grow no more, small pieces are put together, as in the source."""
        complete = self._grown - {max(self._ends, key=sequence, default="")}
        if complete:
            files = ReceivedLogs(self._archive).files
            for file in complete:
                compact(self._archive, files[file])
