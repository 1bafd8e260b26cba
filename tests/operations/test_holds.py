"""Holds by the words a person types: how long, whose, and which of several ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.holds import list_holds, parse_until, place_hold, release_holds
from backupctl.repository.format.snapshot import Snapshot


@pytest.fixture
def snapshot(context: Context) -> str:
    tags = ["backupctl", "job:site", "run:1", "complete"]
    repository = context.resources.repository("main")
    return repository.save_snapshot(Snapshot(context.clock.now(), bytes(32), ["/www"], "site", tags=tags))


def test_until_is_a_span_from_now_or_a_day_as_a_whole(context: Context) -> None:
    now = context.clock.now()
    assert parse_until(context, "30d") == now + timedelta(days=30)
    assert parse_until(context, "1y2w") == now + timedelta(days=379)
    assert parse_until(context, "2026-12-24").replace(microsecond=0) == datetime(2026, 12, 24, 15, 59, 59, tzinfo=UTC)
    for wrong in ("30", "99d99d", "999999999y", "soon"):
        with pytest.raises(UsageError) as refused:
            parse_until(context, wrong)
        assert "--until 30d" in refused.value.next_step


def test_a_hold_is_listed_until_it_is_released_also_when_it_expired_or_the_catalog_is_lost(
    context: Context, clock: FakeClock, snapshot: str
) -> None:
    placed = place_hold(context, "site", reason="audit", owner="legal", until="30d")
    assert (placed.record.snapshot, placed.record.owner) == (snapshot, "legal")
    context.catalog.clear_rebuildable()
    (listed,) = list_holds(context)
    assert (listed.record, listed.in_force, bool(listed.record.by)) == (placed.record, True, True)
    clock.advance(30 * 86400)
    (listed,) = list_holds(context)
    assert not listed.in_force
    assert release_holds(context, snapshot[:8], hold=None, every=False) == (snapshot, 1)
    assert list_holds(context) == []
    assert [event.action for event in context.catalog.events()][-2:] == ["hold.placed", "hold.released"]


def test_another_persons_hold_does_not_end_by_accident(context: Context, snapshot: str) -> None:
    mine = place_hold(context, snapshot, reason="look into it", owner="", until=None).record
    place_hold(context, snapshot, reason="audit", owner="legal", until=None)
    with pytest.raises(UsageError, match=r"held 2 times: .*look into it.*audit \(legal\)"):
        release_holds(context, snapshot, hold=None, every=False)
    with pytest.raises(NoSuchError):
        release_holds(context, snapshot, hold="zz", every=False)
    assert release_holds(context, snapshot, hold=mine.id[:8], every=False) == (snapshot, 1)
    assert [one.record.reason for one in list_holds(context)] == ["audit"]
    place_hold(context, snapshot, reason="again", owner="", until=None)
    assert release_holds(context, snapshot, hold=None, every=True) == (snapshot, 2)


def test_the_hold_on_a_snapshot_that_is_gone_can_be_released(context: Context, snapshot: str) -> None:
    place_hold(context, snapshot, reason="audit", owner="", until=None)
    context.resources.repository("main").delete_snapshot(snapshot)  # as stock restic's forget does
    assert release_holds(context, snapshot[:8], hold=None, every=False) == (snapshot, 1)
    with pytest.raises(NoSuchError):
        release_holds(context, snapshot[:8], hold=None, every=False)


def test_a_hold_that_cannot_be_read_is_said_and_the_rest_comes_from_the_catalog(
    context: Context, snapshot: str
) -> None:
    place_hold(context, snapshot, reason="audit", owner="", until=None)
    repository = context.resources.repository("main")
    repository.save_record("hold", b"nonsense")
    (listed,) = list_holds(context)
    assert listed.record.reason == "audit"
    with pytest.raises(DamageError):
        release_holds(context, snapshot, hold=None, every=False)
