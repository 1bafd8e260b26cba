"""From due instants to runs, over a real catalog and a clock that only moves when told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog, FencedError
from backupctl.catalog.models import Run
from backupctl.clock import FakeClock
from backupctl.config.scheduling import Schedule
from backupctl.errors import SkippedError
from backupctl.scheduling.calendar import Timetable
from backupctl.scheduling.dispatch import SILENT_FOR, STOPS_WITHIN, enqueue_now, fire, settle
from backupctl.scheduling.identity import is_certainly_dead, worker_identity

NIGHTLY = Timetable("backup", "site", "15 2 * * *", "UTC")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 20, 12, tzinfo=UTC))


@pytest.fixture
def catalog(tmp_path: Path, clock: FakeClock) -> Iterator[Catalog]:
    opened = Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}", clock=clock)
    yield opened
    opened.close()


def finish(catalog: Catalog, run: Run, state: str = "complete") -> None:
    claimed = catalog.claim(run.id, worker_identity())
    assert claimed is not None
    catalog.finish(claimed.id, claimed.epoch, state, exit_code=0)


def test_a_job_seen_for_the_first_time_waits_for_its_next_instant(catalog: Catalog, clock: FakeClock) -> None:
    assert fire(catalog, clock, [NIGHTLY]) == []
    clock.advance(15 * 3600)
    (run,) = fire(catalog, clock, [NIGHTLY])
    assert run.scheduled == datetime(2026, 11, 21, 2, 15, tzinfo=UTC)


def test_an_instant_fires_once_however_often_one_looks(catalog: Catalog, clock: FakeClock) -> None:
    fire(catalog, clock, [NIGHTLY])
    clock.advance(15 * 3600)
    (run,) = fire(catalog, clock, [NIGHTLY])
    finish(catalog, run)
    for _ in range(5):
        clock.advance(60)
        assert fire(catalog, clock, [NIGHTLY]) == []


def test_two_schedulers_at_once_make_one_run(tmp_path: Path, clock: FakeClock) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first, second = Catalog.open(url, clock=clock), Catalog.open(url, clock=clock)
    fire(first, clock, [NIGHTLY])
    clock.advance(15 * 3600)
    barrier = threading.Barrier(2)

    def look(catalog: Catalog) -> None:
        barrier.wait()
        fire(catalog, clock, [NIGHTLY])

    threads = [threading.Thread(target=look, args=(one,)) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    due = [run for run in first.runs(kind="backup", name="site") if run.trigger != "first_seen"]
    assert len(due) == 1
    first.close()
    second.close()


def test_a_run_still_going_makes_the_next_instant_skipped_with_the_reason(catalog: Catalog, clock: FakeClock) -> None:
    fire(catalog, clock, [NIGHTLY])
    clock.advance(15 * 3600)
    (run,) = fire(catalog, clock, [NIGHTLY])
    claimed = catalog.claim(run.id, worker_identity())
    assert claimed is not None
    clock.advance(24 * 3600)
    assert fire(catalog, clock, [NIGHTLY]) == []
    newest = catalog.runs(kind="backup", name="site", limit=1)[0]
    assert newest.state == "skipped"
    assert "still running" in newest.message


@pytest.mark.parametrize("overlap", ["queue", "replace"])
def test_a_run_that_waits_for_the_one_before_it(catalog: Catalog, clock: FakeClock, overlap: str) -> None:
    nightly = replace(NIGHTLY, schedule=Schedule.model_validate({"cron": NIGHTLY.cron, "overlap": overlap}))
    fire(catalog, clock, [nightly])
    clock.advance(15 * 3600)
    (run,) = fire(catalog, clock, [nightly])
    claimed = catalog.claim(run.id, worker_identity())
    assert claimed is not None
    clock.advance(24 * 3600)
    (second,) = fire(catalog, clock, [nightly])
    assert second.state == "queued"
    reason = catalog.heartbeat(claimed.id, claimed.epoch)
    assert reason == ("" if overlap == "queue" else "replaced by the run scheduled for 2026-11-22T02:15:00Z")
    clock.advance(24 * 3600)
    fire(catalog, clock, [nightly])
    states = [(f"{one.scheduled:%d}", one.state) for one in catalog.runs(name="site") if one.trigger != "first_seen"]
    waits = {"queue": [("23", "skipped"), ("22", "queued")], "replace": [("23", "queued"), ("22", "skipped")]}
    assert states == [*waits[overlap], ("21", "running")]


def test_a_run_that_does_not_stop_when_asked_is_written_off(catalog: Catalog, clock: FakeClock) -> None:
    run = enqueue_now(catalog, clock, "backup", "site")
    claimed = catalog.claim(run.id, worker_identity())
    assert claimed is not None and catalog.ask_to_stop(run.id, message="replaced")
    assert not catalog.ask_to_stop(run.id, message="again"), "once is enough"
    clock.advance(STOPS_WITHIN.total_seconds())
    assert settle(catalog, clock) == []
    clock.advance(1)
    (closed,) = settle(catalog, clock)
    assert (closed.state, closed.message) == ("cancelled", "replaced; it did not stop when asked")
    with pytest.raises(FencedError):
        catalog.guard(claimed.id, claimed.epoch)


def test_what_was_queued_and_never_started_is_offered_again(catalog: Catalog, clock: FakeClock) -> None:
    fire(catalog, clock, [NIGHTLY])
    clock.advance(15 * 3600)
    (run,) = fire(catalog, clock, [NIGHTLY])
    clock.advance(60)
    assert [one.id for one in fire(catalog, clock, [NIGHTLY])] == [run.id]


def test_a_run_whose_worker_died_is_closed_and_its_zombie_is_refused(catalog: Catalog, clock: FakeClock) -> None:
    run = enqueue_now(catalog, clock, "backup", "site")
    host, boot, _, _ = worker_identity().split(" ")
    claimed = catalog.claim(run.id, f"{host} {boot} 999999999 1")
    assert claimed is not None
    (closed,) = settle(catalog, clock)
    assert (closed.id, closed.state) == (run.id, "failed")
    with pytest.raises(FencedError):
        catalog.guard(claimed.id, claimed.epoch)
    with pytest.raises(FencedError):
        catalog.finish(claimed.id, claimed.epoch, "complete", exit_code=0)


def test_a_silent_worker_of_another_machine_is_taken_for_dead_only_after_a_while(
    catalog: Catalog, clock: FakeClock
) -> None:
    run = enqueue_now(catalog, clock, "backup", "site")
    assert catalog.claim(run.id, "elsewhere some-boot 42 1") is not None
    clock.advance(SILENT_FOR.total_seconds() - 1)
    assert settle(catalog, clock) == []
    clock.advance(2)
    assert [one.id for one in settle(catalog, clock)] == [run.id]


def test_a_live_worker_of_this_machine_is_left_alone(catalog: Catalog, clock: FakeClock) -> None:
    run = enqueue_now(catalog, clock, "backup", "site")
    assert catalog.claim(run.id, worker_identity()) is not None
    assert settle(catalog, clock) == []
    with pytest.raises(SkippedError, match="already goes on"):
        enqueue_now(catalog, clock, "backup", "site")


def test_identity() -> None:
    own = worker_identity()
    host, boot, pid, start = own.split(" ")
    assert not is_certainly_dead(own)
    assert is_certainly_dead(f"{host} {boot} {pid} {int(start) + 1}"), "the pid was given to another process"
    assert is_certainly_dead(f"{host} another-boot {pid} {start}")
    assert not is_certainly_dead(f"elsewhere {boot} 999999999 1"), "another machine's process is never certain"
    assert not is_certainly_dead("nonsense")
