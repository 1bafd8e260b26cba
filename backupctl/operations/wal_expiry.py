"""Which archived log nothing leads to any more: what lies before the oldest backup of its server that stays."""

from __future__ import annotations

import logging
from collections.abc import Collection

from backupctl.errors import DamageError, NoSuchError
from backupctl.operations.log_needs import LogNeeds
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.repository.log_archive import PREFIX, LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import archive_of, piece_of
from backupctl.sources.mariadb_replay import sequence
from backupctl.sources.wal_format import is_segment_name, segment_place

SEGMENT_DIGITS = 24

log = logging.getLogger(__name__)


def expired_log(repository: Repository, without: Collection[str] = ()) -> list[tuple[LogArchive, str]]:
    """Segments of write-ahead logs, and whole binary logs, of which no snapshot, other than those in `without`, has any use,
    whatever job it is of, complete or not. Histories of timelines are small and stay. While any fingerprint cannot be read,
    nothing is expired."""
    if next(iter(repository.store.list(PREFIX)), None) is None:
        return []
    needs = LogNeeds()
    for snapshot in repository.snapshots():
        if snapshot.id in without or not SnapshotTags.of(snapshot).fingerprint:
            continue
        try:
            needs.add(fingerprint_of(repository, snapshot)["sources"])
        except (DamageError, NoSuchError) as error:
            log.warning("no log expires while this cannot be read: %s", error.message)
            return []
    found = []
    for server, file in needs.files.items():
        archive = archive_of(repository, server)
        for name in archive.names():
            piece = piece_of(name)
            if piece is not None and sequence(piece.file) < sequence(file):
                found.append((archive, name))
    for server, (needed, size) in needs.segments.items():
        archive = LogArchive(repository, server)
        for name in archive.names():
            segment = name[:SEGMENT_DIGITS]
            if is_segment_name(segment) and segment_place(segment, size)[1] + size <= needed:
                found.append((archive, name))
    return found
