"""`status` judges from snapshots that are in the repository and says what nobody proved."""

from __future__ import annotations

import shutil
from datetime import timedelta

from backupctl.catalog.models import Check, Drill
from backupctl.clock import FakeClock
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags
from backupctl.operations.repository_status import repositories_of
from backupctl.operations.status import JobStatus, status
from backupctl.repository.format.snapshot import Snapshot
from tests.end_to_end.site import Site
from tests.operations.conftest import NOW


def put(context: Context, hours_ago: float, *, complete: bool = True) -> None:
    tags = SnapshotTags(ours=True, job="site", run="r", fingerprint="f", complete=complete).encode()
    moment = NOW - timedelta(hours=hours_ago)
    context.resources.repository("main").save_snapshot(Snapshot(time=moment, tree=bytes(32), tags=tags))


def drilled(context: Context, number: int, verdict: str, reasons: list[str]) -> None:
    drill = Drill(
        id=f"d{number}",
        job="site",
        drill="site/full",
        scenario="full",
        host="staging",
        repository="main",
        declared=NOW - timedelta(hours=9 - number),
        finished=NOW,
        verdict=verdict,
        level=4,
        reasons=reasons,
    )
    context.catalog.add_drill(drill, [])


def checked(
    context: Context, verdict: str, problems: list[dict[str, object]], *, mode: str = "read-data", hours_ago: int = 2
) -> None:
    moment = NOW - timedelta(hours=hours_ago)
    context.catalog.add_check(
        Check(
            id=f"{verdict} {mode}",
            repository="main",
            mode=mode,
            started=moment,
            finished=moment,
            verdict=verdict,
            problems=problems,
        )
    )


def site_status(context: Context) -> JobStatus:
    (found,) = status(context, list(context.settings.jobs.values()))
    return found


def test_nothing_there_is_stale_and_never_drilled(context: Context) -> None:
    found = site_status(context)
    assert (found.state, found.newest, found.snapshots) == ("stale", None, 0)
    assert "there is no complete snapshot" in found.notes
    assert any("never drilled" in note for note in found.notes)


def test_younger_than_the_objective_is_ok_and_a_second_older_is_stale(context: Context, clock: FakeClock) -> None:
    put(context, 24)
    assert site_status(context).state == "ok"
    clock.advance(1)
    assert site_status(context).state == "stale"


def test_incomplete_snapshots_are_not_fresh_and_are_told(context: Context) -> None:
    put(context, 30)
    put(context, 1, complete=False)
    found = site_status(context)
    assert (found.state, found.snapshots, found.incomplete_since) == ("stale", 2, 1)
    assert "1 incomplete since the newest complete snapshot" in found.notes


def test_every_configured_drill_that_did_not_pass_the_last_time_is_told(context: Context) -> None:
    put(context, 1)
    drilled(context, 1, "fail", ["orders differs", "customers differs"])
    found = site_status(context)
    assert found.last_drill == "fail"
    assert found.notes == ["last drill full: fail: orders differs (and 1 more: backupctl drill show site/full)"]
    drilled(context, 2, "pass", [])
    found = site_status(context)
    assert (found.last_drill, found.level, found.notes) == ("pass", 4, [])


def test_a_repository_that_is_gone_is_not_ok(context: Context, site: Site) -> None:
    put(context, 1)
    context.resources.close()
    shutil.rmtree(site.repository)
    with Context.open(context.settings, clock=context.clock) as fresh:
        found = site_status(fresh)
    assert found.state != "ok"
    assert found.notes


def test_the_last_check_of_a_repository_is_told(context: Context) -> None:
    jobs = list(context.settings.jobs.values())
    (never,) = repositories_of(context, jobs)
    assert (never.verdict, never.notes) == ("", ["never checked: nobody has read it back; backupctl check main"])
    checked(context, "fail", [{"object": "data/ab", "message": "torn", "snapshots": []}])
    (bad,) = repositories_of(context, jobs)
    assert (bad.verdict, bad.mode, bad.problems, bad.age_seconds) == ("fail", "read-data", 1, 7200)
    assert bad.notes == ["last check: fail: data/ab"]


def test_a_structure_check_takes_nothing_back_of_what_reading_every_byte_found(context: Context) -> None:
    jobs = list(context.settings.jobs.values())
    checked(context, "fail", [{"object": "data/ab", "message": "torn", "snapshots": []}], hours_ago=5)
    checked(context, "pass", [], mode="structure")
    assert repositories_of(context, jobs)[0].verdict == "fail"
    checked(context, "pass", [], hours_ago=1)
    assert repositories_of(context, jobs)[0].verdict == "pass"


def test_a_snapshot_that_another_program_rewrote_is_of_no_run(context: Context) -> None:
    """Stock `restic rewrite --forget` leaves our tags on a tree that the run never stored."""
    put(context, 30)
    tags = SnapshotTags(True, "site", "r2", "f2", complete=True, tree="0" * 16)
    repository = context.resources.repository("main")
    moment = NOW - timedelta(hours=1)
    repository.save_snapshot(Snapshot(time=moment, tree=bytes(32), tags=tags.encode()))
    assert (site_status(context).state, site_status(context).newest) == ("ok", moment)
    rewritten = Snapshot(time=moment + timedelta(minutes=1), tree=b"\x01" + bytes(31), tags=tags.encode())
    repository.save_snapshot(rewritten)
    assert not SnapshotTags.of(rewritten).complete
    found = site_status(context)
    assert found.newest == moment
    assert any(rewritten.short_id in note and "rewritten" in note for note in found.notes)
