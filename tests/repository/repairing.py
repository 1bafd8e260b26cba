"""Damaged repositories, and what every repair must leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from backupctl.errors import Transient
from backupctl.repository.check import check
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository, pack_name
from tests.repository.engine import FailingStore, backup, content, create, objects, reopen, restore

FILES = {"same": content("same", 150_000), "small": b"a few bytes"}


def files_of(night: int) -> dict[str, bytes]:
    return FILES | {f"only {night}": content(night, 60_000)}


def two_nights(store: FailingStore | None = None) -> tuple[Repository, list[Snapshot]]:
    """Some packs of data and of trees, an index file for each night."""
    repository = create(store)
    return repository, [backup(repository, files_of(night), day=night) for night in range(2)]


def copied(nights: int = 2) -> Repository:
    """Another repository, of another key, with the same content."""
    repository = create()
    for night in range(nights):
        backup(repository, files_of(night), day=night)
    return repository


def packs_of(repository: Repository, kind: BlobKind) -> list[bytes]:
    """Largest first."""
    sizes = {info.name: info.size for info in objects(repository, "data/")}
    packs = {place.pack for place in repository.index if place.blob.kind == kind}
    return sorted(packs, key=lambda pack: (-sizes[pack_name(pack)], pack))


def index_files(repository: Repository) -> list[str]:
    return [info.name for info in objects(repository, "index/")]


def names(repository: Repository) -> set[str]:
    return {info.name for info in objects(repository) if not info.name.startswith("locks/")}


def expect_whole(repository: Repository, snapshots: Iterable[Snapshot] | None = None) -> None:
    """A check of every byte finds nothing, no hint either, and every night restores."""
    again = reopen(repository)
    report = check(again, read_data=True)
    assert (report.problems, report.hints) == ([], [])
    for night, snapshot in enumerate(again.snapshots() if snapshots is None else snapshots):
        assert restore(again, snapshot) == files_of(night)


def cut_at_every_change(
    make: Callable[[FailingStore], Repository],
    act: Callable[[Repository], object],
    *,
    fallback: Repository | None = None,
    whole: bool = True,
) -> list[str]:
    """Do `act` on a new repository each time, with the line cut at its 1st, 2nd … changing call for good, and each time with
    everybody reading well afterwards (from `fallback` what the damage took; not `whole`: what is repaired); then `act` again must
    finish. The changes of an undisturbed one."""
    store = FailingStore()
    repository = make(store)
    store.changes.clear()
    act(repository)
    changes = list(store.changes)
    for number in range(1, len(changes) + 1):
        store = FailingStore()
        repository = make(store)
        store.changes.clear()
        store.fail_at = number
        if number < len(changes):
            with pytest.raises(Transient):
                act(repository)
        else:  # the lock that stays does no harm
            act(repository)
        store.fail_at = 0
        for info in objects(repository, "locks/"):
            store.delete(info.name)
        again = reopen(repository)
        if fallback is not None:
            again.fallback = lambda kind, blob, why: fallback.load_blob(kind, blob)
        for night, snapshot in enumerate(again.snapshots()):
            if whole:
                assert restore(again, snapshot) == files_of(night), changes[number - 1]
            elif "repaired" in snapshot.tags:
                assert restore(again, snapshot).items() <= files_of(night % 2).items(), changes[number - 1]
        act(reopen(repository))
        left = [one for one in check(reopen(repository), read_data=True).problems if one.snapshots]
        assert [one.message for one in left] == [], changes[number - 1]
    return changes
