from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.clock import FakeClock
from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.governance.holds import held, holds, place, release
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.storage.memory import MemoryStore

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def repository(clock: FakeClock) -> Repository:
    return Repository.create(MemoryStore(), "secret", clock=clock, scrypt_n=1024)


@pytest.fixture
def catalog(tmp_path: Path, clock: FakeClock) -> Iterator[Catalog]:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}", clock=clock)
    yield catalog
    catalog.close()


@pytest.fixture
def snapshot(repository: Repository) -> str:
    return repository.save_snapshot(
        Snapshot(time=NOW, tree=b"\x11" * 32, paths=["/a"], hostname="website", username="root", tags=["backupctl"])
    )


def hold(repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock, **changes: Any) -> str:
    values = {"reason": "litigation", "owner": "legal", "expires": None} | changes
    return place(repository, catalog, repository_name="offsite", snapshot=snapshot, clock=clock, **values).id


def test_a_hold_is_in_the_repository_and_in_the_catalog(
    repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock
) -> None:
    identity = hold(repository, catalog, snapshot[:8], clock, reason="訴訟 2026-17")
    assert held(repository, clock.now()) == {snapshot: "訴訟 2026-17"}
    facts = json.loads(repository.load_record("hold", identity))
    assert facts == {
        "schema": 1, "snapshot": snapshot, "reason": "訴訟 2026-17", "owner": "legal", "by": "",
        "created": "2026-11-22T00:00:00Z", "expires": None,
    }  # fmt: skip
    (row,) = catalog.holds()
    assert (row.id, row.repository, row.snapshot, row.created) == (identity, "offsite", snapshot, NOW)


def test_a_hold_counts_until_it_expires(
    repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock
) -> None:
    hold(repository, catalog, snapshot, clock, expires=NOW + timedelta(days=1))
    assert snapshot in held(repository, NOW + timedelta(hours=23, minutes=59))
    assert held(repository, NOW + timedelta(days=1)) == {}
    (still_listed,) = holds(repository)
    assert not still_listed.in_force(NOW + timedelta(days=1))
    assert held(repository, NOW) == {snapshot: "litigation (until 2026-11-23T00:00:00Z)"}


def test_the_same_hold_twice_is_one_and_any_other_is_another(
    repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock
) -> None:
    first = hold(repository, catalog, snapshot, clock, by="anna")
    clock.advance(60)
    assert hold(repository, catalog, snapshot, clock, by="bert") == first
    (one,) = holds(repository)
    assert (one.by, one.created) == ("anna", NOW), "who and when it was placed first"
    later = hold(repository, catalog, snapshot, clock, expires=NOW + timedelta(days=9))
    assert [one.id for one in holds(repository)] == [first, later]
    assert release(repository, catalog, snapshot, hold=later) == 1
    assert [one.id for one in holds(repository)] == [row.id for row in catalog.holds()] == [first]


def test_several_holds_are_all_named_and_all_released(
    repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock
) -> None:
    hold(repository, catalog, snapshot, clock)
    hold(repository, catalog, snapshot, clock, reason="audit")
    assert held(repository, NOW) == {snapshot: "audit; litigation"}
    assert release(repository, catalog, snapshot) == 2
    assert held(repository, NOW) == {}
    assert repository.records("hold") == []
    assert catalog.holds() == []


def test_releasing_nothing_is_said_and_cleans_a_stale_row(
    repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock
) -> None:
    identity = hold(repository, catalog, snapshot, clock)
    repository.delete_record("hold", identity)  # as another machine's release does
    with pytest.raises(NoSuchError, match="no hold on snapshot"):
        release(repository, catalog, snapshot)
    assert catalog.holds() == []


@pytest.mark.parametrize(
    "changes", [{"reason": "  "}, {"owner": ""}, {"expires": NOW}, {"expires": NOW - timedelta(days=1)}]
)
def test_a_hold_without_sense_is_refused(
    repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock, changes: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        hold(repository, catalog, snapshot, clock, **changes)
    assert repository.records("hold") == []


def test_an_unknown_snapshot_cannot_be_held(repository: Repository, catalog: Catalog, clock: FakeClock) -> None:
    with pytest.raises(NoSuchError):
        hold(repository, catalog, "ab" * 32, clock)
    assert repository.records("hold") == []


@pytest.mark.parametrize("data", [b"{}", b"nonsense", b"[]", b'{"schema": 2}', b'{"schema": 1, "expires": "tomorrow"}'])
def test_a_hold_that_cannot_be_read_is_never_taken_for_none(repository: Repository, data: bytes) -> None:
    record = repository.save_record("hold", data)
    with pytest.raises(DamageError, match=f"backupctl/hold/{record}"):
        held(repository, NOW)


def test_a_damaged_record_is_named(repository: Repository, catalog: Catalog, snapshot: str, clock: FakeClock) -> None:
    identity = hold(repository, catalog, snapshot, clock)
    name = f"backupctl/hold/{identity}"
    stored = bytearray(repository.store.get(name))
    stored[20] ^= 1
    repository.store.delete(name)
    repository.store.put(name, bytes(stored))
    with pytest.raises(DamageError, match=name):
        held(repository, NOW)
