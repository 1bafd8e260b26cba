"""The archived log goes into copies: from the oldest base backup on, once, and under the copy's own key."""

from __future__ import annotations

from backupctl.operations.wal_copy import copy_log, needed_log
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.wal_format import segment_name
from tests.operations.test_wal_expiry import SEGMENT, base_backup
from tests.repository.helpers import new_repository

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
