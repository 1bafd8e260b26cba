"""Which instants are due: daylight saving, jitter, catch-up. All with an injected now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.scheduling.calendar import Timetable, due, instants, jitter_of, next_start


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def nightly(**changes: object) -> Timetable:
    values: dict[str, object] = {
        "kind": "backup",
        "name": "site",
        "cron": "15 2 * * *",
        "zone": "Asia/Taipei",
    } | changes
    return Timetable(**values)  # type: ignore[arg-type]


def first(timetable: Timetable, after: str, count: int) -> list[str]:
    found = instants(timetable, utc(after))
    return [next(found).strftime("%m-%d %H:%M") for _ in range(count)]


def test_cron_is_read_on_the_wall_clock_of_its_zone() -> None:
    assert first(nightly(), "2026-11-20T00:00", 2) == ["11-20 18:15", "11-21 18:15"]


def test_sunday_is_zero_and_seven() -> None:
    assert first(nightly(cron="0 0 * * 0", zone="UTC"), "2026-11-20T00:00", 1) == ["11-22 00:00"]
    assert first(nightly(cron="0 0 * * 7", zone="UTC"), "2026-11-20T00:00", 1) == ["11-22 00:00"]


def test_a_time_that_spring_skips_runs_once_right_after_the_gap() -> None:
    berlin = nightly(cron="30 2 * * *", zone="Europe/Berlin")
    assert first(berlin, "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:30"]


def test_a_time_that_autumn_repeats_runs_once() -> None:
    berlin = nightly(cron="30 2 * * *", zone="Europe/Berlin")
    assert first(berlin, "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]


def test_leap_day() -> None:
    assert first(nightly(cron="0 0 29 2 *", zone="UTC"), "2026-01-01T00:00", 1) == ["02-29 00:00"]


def test_nothing_is_due_before_its_time_and_one_thing_is_at_it() -> None:
    last = utc("2026-11-19T18:15")
    assert due(nightly(), last=last, first_seen=last, now=utc("2026-11-20T18:14:59")) == []
    (firing,) = due(nightly(), last=last, first_seen=last, now=utc("2026-11-20T18:15"))
    assert (firing.scheduled, firing.trigger) == (utc("2026-11-20T18:15"), "schedule")


def test_after_a_week_away_only_the_newest_missed_start_is_caught_up() -> None:
    last = utc("2026-11-10T18:15")
    (firing,) = due(nightly(), last=last, first_seen=last, now=utc("2026-11-17T12:00"))
    assert (firing.scheduled, firing.trigger) == (utc("2026-11-16T18:15"), "catch_up")


def test_catch_up_skip_starts_nothing_late_but_what_is_on_time() -> None:
    last = utc("2026-11-10T18:15")
    skipping = nightly(catch_up="skip")
    assert due(skipping, last=last, first_seen=last, now=utc("2026-11-17T12:00")) == []
    assert len(due(skipping, last=last, first_seen=last, now=utc("2026-11-17T18:20"))) == 1


def test_a_clock_set_back_starts_nothing_again() -> None:
    last = utc("2026-11-20T18:15")
    assert due(nightly(), last=last, first_seen=last, now=utc("2026-11-19T00:00")) == []


def test_a_new_job_owes_nothing_for_yesterday() -> None:
    now = utc("2026-11-20T12:00")
    assert due(nightly(), last=None, first_seen=now, now=now) == []


@given(st.text(min_size=1), st.integers(1, 86_400))
def test_jitter_is_stable_and_inside_its_window(name: str, seconds: int) -> None:
    window = timedelta(seconds=seconds)
    assert jitter_of(name, window) == jitter_of(name, window)
    assert timedelta(0) <= jitter_of(name, window) < window


def test_jitter_moves_the_start_and_not_the_identity() -> None:
    jittered = nightly(jitter=timedelta(hours=1))
    offset = jitter_of("site", timedelta(hours=1))
    last = utc("2026-11-19T18:15")
    before = utc("2026-11-20T18:15") + offset - timedelta(seconds=1)
    assert due(jittered, last=last, first_seen=last, now=before) == []
    (firing,) = due(jittered, last=last, first_seen=last, now=before + timedelta(seconds=1))
    assert (firing.scheduled, firing.starts) == (utc("2026-11-20T18:15"), utc("2026-11-20T18:15") + offset)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Taipei", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("cron", ["*/5 * * * *", "15 2 * * *", "0 10 5 * *"])
def test_next_start_is_the_first_thing_that_becomes_due(zone: str, cron: str) -> None:
    timetable = nightly(cron=cron, zone=zone, jitter=timedelta(minutes=3))
    now = utc("2026-10-25T00:59:30")
    firing = next_start(timetable, last=None, now=now)
    assert firing.starts > now
    (found,) = due(timetable, last=firing.scheduled - timedelta(seconds=1), first_seen=now, now=firing.starts)
    assert found.scheduled == firing.scheduled
