"""What was missed is seen, by anybody, from the configuration, the catalog and the time alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupctl.config.resources import Resources
from backupctl.operations.context import Context
from backupctl.operations.pauses import pause, resume
from backupctl.operations.reporter import SilentReporter
from backupctl.scheduling.dispatch import look
from backupctl.scheduling.planning import explain, folded, plan
from backupctl.scheduling.sweep import TOLERANCE, sweep
from backupctl.scheduling.telling import Teller
from tests.notify.servers import Requests, web_server
from tests.scheduling.night import NIGHTLY, Ending, Night, configuration

DUE = datetime(2026, 11, 21, 2, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def lapses(made: Night, at: datetime, taken: datetime | None = None) -> list[tuple[str, str, str]]:
    return [
        (one.what, f"{one.kind} {one.name}", f"{one.scheduled:%d %H:%M}")
        for one in sweep(made.settings, made.catalog, at, {"site": taken})
    ]


@pytest.fixture
def met(tmp_path: Path) -> Night:
    made = Night(configuration(tmp_path), tmp_path)
    made.look()
    return made


def test_nothing_is_missed_before_its_time_and_a_little_more(met: Night) -> None:
    assert lapses(met, DUE - MINUTE) == [], "met at noon: it owes nothing for the night before"
    assert lapses(met, DUE + TOLERANCE - MINUTE) == []
    assert lapses(met, DUE + TOLERANCE) == [("missed", "backup site", "21 02:15")]
    assert lapses(met, DUE + timedelta(days=3)) == [("missed", "backup site", "23 02:15")]


@pytest.mark.parametrize("state", ["complete", "failed", "skipped", "running"])
def test_what_was_started_is_not_missed_whatever_became_of_it(met: Night, state: str) -> None:
    run = met.catalog.enqueue("backup", "site", DUE, trigger="schedule", skipped="x" if state == "skipped" else "")
    assert run is not None
    if state != "skipped":
        claimed = met.catalog.claim(run.id, "w")
        assert claimed is not None
        if state != "running":
            met.catalog.finish(run.id, claimed.epoch, state, exit_code=0)
    assert lapses(met, DUE + timedelta(hours=5)) == []


def test_a_run_by_hand_or_a_newer_snapshot_in_the_repository_counts(met: Night) -> None:
    later = DUE + timedelta(hours=1)
    assert lapses(met, DUE + timedelta(hours=5), taken=DUE - MINUTE)
    assert lapses(met, DUE + timedelta(hours=5), taken=later) == []
    run = met.catalog.enqueue("backup", "site", later, trigger="manual")
    assert run is not None
    claimed = met.catalog.claim(run.id, "w")
    assert claimed is not None
    met.catalog.finish(run.id, claimed.epoch, "complete", exit_code=0)
    assert lapses(met, DUE + timedelta(hours=5)) == []


def test_an_empty_catalog_says_never_and_a_lost_one_believes_the_repository(tmp_path: Path) -> None:
    made = Night(configuration(tmp_path), tmp_path)
    assert lapses(made, DUE + timedelta(hours=1)) == [("never", "backup site", "21 02:15")]
    assert lapses(made, DUE + timedelta(hours=1), taken=DUE + MINUTE) == []


def test_what_waits_too_long_is_late_with_the_reason(tmp_path: Path) -> None:
    jobs = {"site": NIGHTLY, "other": NIGHTLY}
    made = Night(configuration(tmp_path, jobs, more="concurrency: {total: 1}"), tmp_path)
    made.look()
    made.clock._now = DUE
    first, _ = look(made.catalog, made.clock, made.settings)
    assert made.catalog.claim(first.id, "elsewhere boot 1 1") is not None
    made.clock.advance(1800)
    (late,) = sweep(made.settings, made.catalog, made.clock.now())
    assert late.what == "late"
    assert late.message == "waits since Sat 2026-11-21 02:15: 1 run(s) go on, and concurrency.total is 1"


def test_a_start_that_waits_for_its_window_is_not_missed(tmp_path: Path) -> None:
    schedule = 'cron: "0 12 * * *", allowed: [{from: "22:00", to: "06:00"}]'
    made = Night(configuration(tmp_path, {"site": schedule}), tmp_path)
    made.clock._now = DUE - timedelta(hours=24)
    made.look()
    made.clock._now = DUE
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert lapses(made, noon + timedelta(hours=9)) == []
    assert lapses(made, noon + timedelta(hours=10, minutes=10)) == [("missed", "backup site", "20 12:00")]


def context_of(made: Night) -> Context:
    return Context(made.settings, made.catalog, Resources(made.settings, made.clock), made.clock, SilentReporter())


def test_while_paused_nothing_starts_and_the_instant_is_recorded_with_the_reason(met: Night) -> None:
    context = context_of(met)
    pause(context, "site", reason="the database moves", until="2d")
    assert met.at(DUE) == []
    (row,) = met.catalog.runs(kind="backup", since=DUE)
    assert row.state == "skipped" and row.message.endswith(": the database moves")
    assert lapses(met, DUE + timedelta(hours=2)) == []
    assert met.at(DUE + timedelta(days=2)) == ["backup site"], (
        "it ended by itself; what came meanwhile is not caught up"
    )
    assert [state for _, _, state in met.rows()] == ["skipped", "complete"]


def test_a_pause_ends_when_somebody_says_so(met: Night) -> None:
    context = context_of(met)
    pause(context, "", reason="the store moves", until="9d")
    assert met.at(DUE) == []
    resume(context, "")
    assert met.catalog.pauses(at=met.clock.now()) == []
    assert met.look(60) == [] and met.at(DUE + timedelta(days=1)) == ["backup site"]


def test_a_pause_with_no_scheduler_about_is_no_lapse_and_its_end_is(met: Night) -> None:
    pause(context_of(met), "site", reason="x", until="1d")
    ends = met.clock.now() + timedelta(days=1)
    assert lapses(met, DUE + timedelta(hours=5)) == []
    assert lapses(met, ends) == [("missed", "backup site", "21 02:15")]


def test_what_was_missed_is_told_once_whoever_sweeps(met: Night, tmp_path: Path) -> None:
    with web_server(Requests()) as web:
        more = f"notify: {{ops: {{webhook: {{url: 'http://127.0.0.1:{web.port}/hook'}}}}}}"
        met.settings = configuration(tmp_path, more=more, each="notify: [ops]")
        found = sweep(met.settings, met.catalog, DUE + timedelta(hours=2))
        for _ in range(2):
            teller = Teller(context_of(met))
            teller(found)
            teller(found)
        assert [path for _, path, _, _ in web.seen] == ["/hook"]
        (notice,) = met.catalog.notices()
        assert notice.subject == "[backupctl] backup site: missed" and notice.delivered is not None


def test_the_preview_tells_what_is_owed_what_is_paused_and_the_changed_clock(tmp_path: Path) -> None:
    berlin = 'cron: "30 2 * * *", timezone: Europe/Berlin, then: [prune]'
    made = Night(configuration(tmp_path, {"site": berlin}, each="retention: {keep_daily: 1}"), tmp_path)
    made.clock._now = datetime(2026, 3, 26, 12, tzinfo=UTC)
    made.look()
    made.clock._now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    pause(context_of(made), "site", reason="a holiday", until="2026-03-30")
    coming = plan(made.settings, made.catalog, made.clock.now(), made.clock.now() + timedelta(days=4))
    said = [(one.wall_clock, one.runs, one.notes) for one in coming]
    owed = "2 starts were missed, the last at Sat 2026-03-28 02:30 Europe/Berlin: caught up at the next look"
    assert [(clock, runs) for clock, runs, _ in said] == [
        ("Sat 2026-03-28 13:00 Europe/Berlin", False),
        ("Sun 2026-03-29 03:00 Europe/Berlin", False),
        ("Mon 2026-03-30 02:30 Europe/Berlin", False),
        ("Tue 2026-03-31 02:30 Europe/Berlin", True),
        ("Wed 2026-04-01 02:30 Europe/Berlin", True),
    ]
    assert all(len(notes) == 1 and notes[0].endswith(": a holiday") for _, runs, notes in said if not runs)
    assert said[3][2] == ["then prune site"]
    resume(context_of(made), "site")
    coming = plan(made.settings, made.catalog, made.clock.now(), made.clock.now() + timedelta(days=1))
    assert [(one.wall_clock, one.notes) for one in coming] == [
        ("Sat 2026-03-28 13:00 Europe/Berlin", [owed, "then prune site"]),
        (
            "Sun 2026-03-29 03:00 Europe/Berlin",
            ["02:30 does not exist on 29 March: runs at 03:00", "then prune site"],
        ),
    ]


def test_many_that_are_alike_are_one_line_for_people(tmp_path: Path) -> None:
    made = Night(configuration(tmp_path, {"often": 'cron: "*/5 * * * *"', "site": NIGHTLY}), tmp_path)
    now = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    told = folded(plan(made.settings, made.catalog, now, now + timedelta(days=1)))
    assert [(f"{one.starts:%d %H:%M}", one.name, one.notes) for one in told] == [
        ("20 23:35", "often", ["and 4 more that day, the last at 23:55"]),
        ("21 00:00", "often", ["and 282 more that day, the last at 23:30"]),
        ("21 02:15", "site", []),
    ]


def test_explain_tells_where_a_job_stands(tmp_path: Path) -> None:
    schedule = NIGHTLY + ", jitter: 20m, retries: {times: 2}, then: [check, prune], priority: 3"
    made = Night(configuration(tmp_path, {"site": schedule}, each="retention: {keep_daily: 1}"), tmp_path)
    made.look()
    made.endings = {"check main": [Ending("complete", 4, verdict="fail")]}
    assert made.at(DUE + timedelta(hours=1)) == ["backup site", "check main"]
    pause(context_of(made), "site", reason="the database moves", until="9d")
    told = explain(made.settings, made.catalog, made.settings.jobs["site"], made.clock.now())
    words = [f"{topic}: {sentence}" for topic, sentence in told]
    for wanted in (
        'schedule: cron "15 2 * * *" on the wall clock of UTC',
        "retries: up to 2, after 5m, doubled each time up to 1h; only after what may pass",
        "then: check main, then prune site, each when the one before it ended well",
        "priority: 3: of several that wait, the higher one starts first",
        "run: Sat 2026-11-21 02:15 UTC: complete (catch up)",
        "stopped: prune site did not follow: check main did not end well",
    ):
        assert wanted in words, words
    assert any(one.startswith("paused: paused until") and one.endswith("schedule resume site") for one in words)
    assert [topic for topic, _ in told if topic in ("not", "next")] == ["not"] * 5 + ["next"], "and when it goes on"


def test_the_preview_is_what_then_happens(tmp_path: Path) -> None:
    """For a fortnight over the changed clock, with windows and jitter: the starts it names are the starts there are."""
    jobs = {
        "site": 'cron: "30 2 * * *", timezone: Europe/Berlin, jitter: 20m',
        "hourly": 'cron: "0 */3 * * *", timezone: Europe/Berlin, allowed: [{from: "22:00", to: "06:00"}]',
    }
    made = Night(configuration(tmp_path, jobs), tmp_path)
    made.clock._now = datetime(2026, 3, 25, 11, 50, tzinfo=UTC)
    made.look()
    now, end = made.clock.now(), made.clock.now() + timedelta(days=7)
    promised = [one for one in plan(made.settings, made.catalog, now, end) if one.runs]
    for one in sorted({one.starts for one in promised}):
        made.at(one)
    made.clock._now = end
    made.look()
    runs = [run for run in made.catalog.runs(kind="backup") if run.trigger != "first_seen"]
    assert {(one.name, one.scheduled) for one in promised} == {(run.name, run.scheduled) for run in runs}
    assert {run.trigger for run in runs} == {"schedule"} and {run.state for run in runs} == {"complete"}
