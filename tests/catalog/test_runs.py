from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from backupctl.catalog.catalog import Catalog, FencedError
from backupctl.catalog.models import Run
from backupctl.clock import FakeClock
from tests.catalog.conftest import START


def queued(catalog: Catalog, *, name: str = "website", scheduled: datetime = START, trigger: str = "schedule") -> Run:
    run = catalog.enqueue("backup", name, scheduled, trigger=trigger)
    assert run is not None
    return run


def claimed(catalog: Catalog) -> Run:
    run = catalog.claim(queued(catalog).id, "machine:1")
    assert run is not None
    return run


def test_a_run_goes_from_queued_to_complete(catalog: Catalog, clock: FakeClock) -> None:
    run = queued(catalog)
    assert (run.state, run.epoch, run.created, run.problems, run.summary) == ("queued", 0, START, [], {})
    clock.advance(5)
    run = catalog.claim(run.id, "machine:1") or pytest.fail("not claimed")
    assert (run.state, run.epoch, run.worker, run.started) == ("running", 1, "machine:1", START + timedelta(seconds=5))
    clock.advance(5)
    catalog.heartbeat(run.id, 1)
    catalog.guard(run.id, 1)
    done = catalog.finish(
        run.id,
        1,
        "incomplete",
        exit_code=3,
        message="one file \udcff\0 vanished",
        snapshot="ab",
        repository="offsite",
        problems=[{"path": "a\udcff"}],
        summary={"files": 2},
    )
    stored = catalog.run(run.id) or pytest.fail("gone")
    for row in (done, stored):
        assert (row.state, row.exit_code, row.snapshot, row.repository) == ("incomplete", 3, "ab", "offsite")
        assert row.heartbeat == START + timedelta(seconds=10) and row.finished == START + timedelta(seconds=10)
        assert row.problems == [{"path": "a\udcff"}] and row.summary == {"files": 2}
    assert stored.message == r"one file \udcff\0 vanished"


def test_an_instant_is_queued_once_whatever_its_zone(catalog: Catalog) -> None:
    from backupctl.clock import to_zone

    queued(catalog)
    assert catalog.enqueue("backup", "website", START, trigger="catch_up") is None
    assert catalog.enqueue("backup", "website", to_zone(START, "Asia/Taipei"), trigger="schedule") is None
    assert catalog.enqueue("drill", "website", START, trigger="schedule") is not None
    assert catalog.enqueue("backup", "website", START + timedelta(microseconds=1), trigger="manual") is not None


def test_a_naive_time_is_refused(catalog: Catalog) -> None:
    with pytest.raises(Exception, match="without a zone"):
        catalog.enqueue("backup", "website", START.replace(tzinfo=None), trigger="manual")


def test_only_a_queued_run_is_claimed_and_once(catalog: Catalog) -> None:
    run = claimed(catalog)
    assert catalog.claim(run.id, "machine:2") is None
    assert catalog.claim("no such run", "machine:2") is None


def test_a_zombie_is_refused_everywhere(catalog: Catalog) -> None:
    run = claimed(catalog)
    ended = catalog.cancel(run.id, message="its worker is dead")
    assert ended is not None and (ended.state, ended.epoch) == ("failed", 2)
    with pytest.raises(FencedError, match="failed under epoch 2, we hold 1"):
        catalog.heartbeat(run.id, run.epoch)
    with pytest.raises(FencedError):
        catalog.guard(run.id, run.epoch)
    with pytest.raises(FencedError):
        catalog.finish(run.id, run.epoch, "complete", exit_code=0)
    with pytest.raises(FencedError):
        catalog.guard(run.id, 2)  # even the new epoch: it has ended
    with pytest.raises(FencedError, match="not in the catalog"):
        catalog.guard("no such run", 1)
    after = catalog.run(run.id)
    assert after is not None and after.state == "failed" and after.message == "its worker is dead"


def test_a_finished_run_is_not_finished_or_cancelled_again(catalog: Catalog) -> None:
    run = claimed(catalog)
    catalog.finish(run.id, 1, "complete", exit_code=0)
    with pytest.raises(FencedError):
        catalog.finish(run.id, 1, "failed", exit_code=1)
    assert catalog.cancel(run.id, message="late") is None
    with pytest.raises(ValueError, match="no state a run can end in"):
        catalog.finish(run.id, 1, "running", exit_code=0)


def test_a_queued_run_is_cancelled_as_skipped(catalog: Catalog) -> None:
    run = queued(catalog)
    ended = catalog.cancel(run.id, message="the last one still runs", state="skipped")
    assert ended is not None and ended.state == "skipped"
    assert catalog.claim(run.id, "machine:1") is None


def test_runs_are_listed_newest_first_and_filtered(catalog: Catalog) -> None:
    days = [queued(catalog, scheduled=START + timedelta(days=day)) for day in (1, 0, 2)]
    queued(catalog, name="other")
    newest = [run.id for run in catalog.runs(kind="backup", name="website")]
    assert newest == [days[2].id, days[0].id, days[1].id]
    until = START + timedelta(days=2)
    assert [run.id for run in catalog.runs(name="website", since=START, until=until)] == [days[0].id, days[1].id]
    assert [run.id for run in catalog.runs(states=["queued"], limit=1)] == [days[2].id]
    catalog.claim(days[1].id, "machine:1")
    assert [run.id for run in catalog.runs(states=("running",))] == [days[1].id]
    assert catalog.runs(kind="drill") == []


def test_last_scheduled_ignores_manual_runs(catalog: Catalog) -> None:
    assert catalog.last_scheduled("backup", "website") is None
    queued(catalog)
    queued(catalog, scheduled=START + timedelta(hours=1), trigger="manual")
    skipped = queued(catalog, scheduled=START + timedelta(minutes=1), trigger="catch_up")
    catalog.cancel(skipped.id, message="", state="skipped")
    assert catalog.last_scheduled("backup", "website") == START + timedelta(minutes=1)


def test_add_run_keeps_what_is_there(catalog: Catalog) -> None:
    run = Run(
        id="r1", kind="backup", name="website", scheduled=START, trigger="schedule", state="complete", created=START
    )
    assert catalog.add_run(run) and not catalog.add_run(run)
    run.id = "r2"  # the same instant under another id
    assert not catalog.add_run(run)
    assert [row.id for row in catalog.runs()] == ["r1"]


ENQUEUE = """
import sys
from datetime import datetime
from backupctl.catalog.catalog import Catalog
from backupctl.clock import SystemClock
sys.stdin.readline()
catalog = Catalog.open(sys.argv[1], clock=SystemClock())
run = catalog.enqueue("backup", "website", datetime.fromisoformat(sys.argv[2]), trigger="schedule")
claims = [catalog.claim(row.id, sys.argv[3]) for row in catalog.runs(states=["queued"])]
catalog.append_event(sys.argv[3], "test", "website", {"pid": sys.argv[3]})
print(run is not None, len([claim for claim in claims if claim]))
"""


def test_eight_processes_open_enqueue_and_claim_at_the_same_instant(url: str, clock: FakeClock) -> None:
    """The database does not exist yet: they migrate, too. Exactly one queues the run, exactly one claims it."""
    from backupctl.catalog.events import verify_events

    argv = [sys.executable, "-c", ENQUEUE, url, START.isoformat()]
    workers = [
        subprocess.Popen([*argv, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8
    assert sorted(queued for queued, _ in said) == ["False"] * 7 + ["True"]
    assert sorted(claims for _, claims in said) == ["0"] * 7 + ["1"]
    catalog = Catalog.open(url, clock=clock)
    (run,) = catalog.runs()
    assert (run.state, run.epoch) == ("running", 1)
    events = catalog.events()
    assert len(events) == 8 and verify_events(events) == []
    catalog.close()
