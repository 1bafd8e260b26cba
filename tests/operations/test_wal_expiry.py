"""Log before the oldest base backup that stays goes, and nothing else."""

from __future__ import annotations

from datetime import timedelta

from backupctl.clock import iso
from backupctl.operations.records import SnapshotTags, save_json
from backupctl.operations.wal_expiry import expired_log
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import Piece, archive_of
from backupctl.sources.wal_format import format_lsn, segment_name
from tests.repository.helpers import NOW, new_repository

SEGMENT = 16 << 20


def base_backup(repository: Repository, number: int, segment: int, server: str = "7713") -> str:
    """A snapshot whose base backup begins in a segment."""
    lsn = format_lsn(segment * SEGMENT + 40)
    facts = {"method": "physical", "system_identifier": server, "start_lsn": lsn, "log_end": lsn, "timeline": 1}
    time = iso(NOW + timedelta(days=number))
    return saved(repository, number, "postgresql", {**facts, "segment_bytes": SEGMENT, "time": time})


def saved(repository: Repository, number: int, kind: str, facts: dict[str, object]) -> str:
    source = {"kind": kind, "host": "local", "data_time": "2026-11-22T00:00:00Z"}
    record = {
        "sources": {"db": {**source, "fingerprint": facts}},
        "manifest": "",
        "problems": [],
        "summary": {},
    }
    fingerprint = save_json(repository, "fingerprint", record)
    tags = SnapshotTags(True, "site", f"run{number}", fingerprint, complete=number % 2 == 0)
    snapshot = Snapshot(NOW + timedelta(days=number), bytes(32), ["/db"], tags=tags.encode(), program_version="test")
    return repository.save_snapshot(snapshot)


def test_only_what_lies_before_every_base_backup_that_stays() -> None:
    repository = new_repository()
    assert expired_log(repository) == []
    archive = LogArchive(repository, "7713")
    names = [segment_name(1, number * SEGMENT, SEGMENT) for number in range(2, 9)]
    for name in (*names, f"{names[0]}.00000028.backup", f"{names[1]}.open.00000100", "00000002.history"):
        archive.put(name, name.encode(), {})
    assert expired_log(repository) == [], "no base backup says whose log it is"
    oldest = base_backup(repository, 1, 3)  # an incomplete one counts as well
    newest = base_backup(repository, 2, 6)
    base_backup(repository, 3, 100, server="other")
    assert [name for _, name in expired_log(repository)] == [names[0], f"{names[0]}.00000028.backup"]
    gone = [name for _, name in expired_log(repository, {oldest})]
    assert sorted(gone) == sorted([*names[:4], f"{names[0]}.00000028.backup", f"{names[1]}.open.00000100"])
    assert expired_log(repository, {oldest, newest}) == [], "without a base backup the whole log stays"


def test_binary_logs_before_every_backup_of_their_server_go() -> None:
    repository = new_repository()
    archive = archive_of(repository, "uid")
    pieces = [Piece(f"my_bin.{number:06d}", start, start + 9) for number in (9, 10, 11) for start in (0, 9)]
    for piece in pieces:
        archive.put(piece.name, piece.name.encode(), {})
    assert expired_log(repository) == [], "no backup says whose logs they are"
    facts = {"kind": "mariadb", "server_uid": "uid", "binary_log": ["my_bin.000010", 400]}
    saved(repository, 1, "mariadb", facts)
    saved(
        repository, 2, "mariadb", {**facts, "method": "physical", "binary_log": ["x", 4], "base": ["my_bin.000011", 4]}
    )
    assert [name for _, name in expired_log(repository)] == [one.name for one in pieces[:2]]


def test_nothing_expires_while_a_fingerprint_cannot_be_read() -> None:
    repository = new_repository()
    archive = LogArchive(repository, "7713")
    archive.put(segment_name(1, 2 * SEGMENT, SEGMENT), b"x", {})
    base_backup(repository, 0, 6)
    assert len(expired_log(repository)) == 1
    (record,) = repository.records("fingerprint")
    repository.store.put(f"backupctl/fingerprint/{record}", b"damaged")
    assert expired_log(repository) == []
