"""The archived log goes into copies: from the oldest base backup on, once, and under the copy's own key."""

from __future__ import annotations

import pytest

from backupctl.operations.log_copy import copy_log, needed_log
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources import binlog_archive
from backupctl.sources.binlog_archive import Piece, ReceivedFiles, ReceivedLogs, archive_of, compact
from backupctl.sources.binlog_format import BinlogFile
from backupctl.sources.mariadb_binlog import facts_of
from backupctl.sources.wal_format import segment_name
from tests.operations.test_wal_expiry import SEGMENT, base_backup, saved
from tests.repository.helpers import new_repository
from tests.sources.helpers import drain

NAMES = [segment_name(1, number * SEGMENT, SEGMENT) for number in range(2, 7)]


def archived(repository: Repository, *names: str, server: str = "7713") -> LogArchive:
    archive = LogArchive(repository, server)
    for name in names:
        archive.put(name, name.encode(), {"of": name})
    return archive


def test_what_leads_on_from_the_base_backups_is_copied_once() -> None:
    source, vault = new_repository(), new_repository()
    assert needed_log(source, source.snapshots()) == []
    archived(source, *NAMES, "00000002.history", f"{NAMES[4]}.open.00000100", f"{NAMES[1]}.00000028.backup")
    archived(source, *NAMES, server="of another job")
    base_backup(source, 2, 4)
    base_backup(source, 3, 3)
    needed = needed_log(source, source.snapshots())
    assert needed == [("7713", name) for name in sorted(["00000002.history", *NAMES[1:]])]
    problems: list[str] = []
    size = sum(len(name) for _, name in needed)
    assert copy_log(source, vault, needed, problems) == (5, size)
    copied = LogArchive(vault, "7713")
    assert copied.names() == sorted(name for _, name in needed)
    assert copied.get(NAMES[2]) == NAMES[2].encode() and copied.look(NAMES[2]).facts == {"of": NAMES[2]}
    assert LogArchive(vault, "of another job").names() == []
    archived(source, segment_name(1, 7 * SEGMENT, SEGMENT))
    assert copy_log(source, vault, needed_log(source, source.snapshots()), problems)[0] == 1
    assert problems == []


def test_what_cannot_be_copied_is_named_and_the_rest_is_copied() -> None:
    source, vault = new_repository(), new_repository()
    archived(source, *NAMES)
    base_backup(source, 2, 2)
    (damaged,) = [info.name for info in source.store.list("backupctl/log/") if info.name.endswith(NAMES[1])]
    source.store.put(damaged, b"damaged")
    problems: list[str] = []
    assert copy_log(source, vault, needed_log(source, source.snapshots()), problems)[0] == 4
    (problem,) = problems
    assert problem.startswith(f"log segment {NAMES[1]} cannot be copied: ")


def received(archive: LogArchive, file: str, *spans: tuple[int, int]) -> None:
    for start, end in spans:
        archive.put(
            Piece(file, start, end).name, bytes(range(start, end)), {"log": facts_of(file, BinlogFile(end=end))}
        )


def test_binary_logs_are_copied_once_however_their_pieces_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binlog_archive, "PIECE_BYTES", 100)
    source, vault = new_repository(), new_repository()
    facts = {"kind": "mariadb", "server_uid": "uid", "binary_log": ["bin.000002", 4]}
    saved(source, 0, "mariadb", facts)
    archive, problems = archive_of(source, "uid"), []
    received(archive, "bin.000001", (0, 9))
    received(archive, "bin.000002", (0, 10), (10, 20), (30, 40))  # a hole before the last
    assert copy_log(source, vault, needed_log(source, source.snapshots()), problems) == (2, 20)
    received(archive, "bin.000002", (20, 30))
    received(archive, "bin.000003", (0, 5))
    compact(archive, ReceivedLogs(archive).files["bin.000002"])
    assert len(ReceivedLogs(archive).files["bin.000002"]) == 1
    assert copy_log(source, vault, needed_log(source, source.snapshots()), problems) == (2, 25), "what was there stays"
    copied = ReceivedLogs(archive_of(vault, "uid"))
    assert {file: len(pieces) for file, pieces in copied.files.items()} == {"bin.000002": 1, "bin.000003": 1}
    assert drain(ReceivedFiles(copied).open(b"binlog/bin.000002")) == bytes(range(40))
    assert copied.facts("bin.000002")["end"] == 40
    assert copy_log(source, vault, needed_log(source, source.snapshots()), problems) == (0, 0)
    assert problems == []
