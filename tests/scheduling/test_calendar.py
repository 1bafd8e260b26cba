"""Which instants are due: daylight saving, jitter, catch-up. All with an injected now."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.config.scheduling import Schedule
from backupctl.scheduling.calendar import Timetable, due, instants, jitter_of, newest, next_start, opening


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def nightly(**changes: object) -> Timetable:
    values: dict[str, object] = {
        "kind": "backup",
        "name": "site",
        "cron": "15 2 * * *",
        "zone": "Asia/Taipei",
    } | changes
    return Timetable(**values)  # type: ignore[arg-type]  # fields by name


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


def test_in_the_hour_that_comes_twice_no_instant_lies_before_its_beginning() -> None:
    berlin = nightly(cron="30 2 * * *", zone="Europe/Berlin")
    assert first(berlin, "2026-10-25T01:10", 1) == ["10-26 01:30"], "02:30 was there an hour ago, the first time"


def test_every_five_minutes_goes_on_through_both_changes_of_the_clock() -> None:
    berlin = nightly(cron="*/5 * * * *", zone="Europe/Berlin")
    for night in ("2026-03-29T00:00", "2026-10-25T00:00"):
        found = instants(berlin, utc(night))
        walk = [next(found) for _ in range(40)]
        assert {later - earlier for earlier, later in itertools.pairwise(walk)} == {timedelta(minutes=5)}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Taipei"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "15 1-3 * * *", "*/7 * * * *", "0 0 29 2 *", "10 2 * * 7"])
@given(minute=st.integers(0, 365 * 24 * 60))
def test_the_newest_instant_is_what_counting_forward_would_find(cron: str, zone: str, minute: int) -> None:
    now = utc("2026-01-01T00:00") + timedelta(minutes=minute, seconds=17)
    timetable = nightly(cron=cron, zone=zone)
    found = newest(timetable, now)
    assert found is not None and found <= now < next(instants(timetable, found))


def test_leap_day() -> None:
    leap = nightly(cron="0 0 29 2 *", zone="UTC")
    found = instants(leap, utc("2026-01-01T00:00"))
    assert [f"{next(found):%Y-%m-%d}" for _ in range(2)] == ["2028-02-29", "2032-02-29"]
    (firing,) = due(leap, last=utc("2024-02-29T00:00"), first_seen=utc("2024-02-29T00:00"), now=utc("2028-02-29T00:00"))
    assert firing.scheduled == utc("2028-02-29T00:00")
    assert newest(leap, utc("2027-06-01T00:00")) == utc("2024-02-29T00:00")


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


def test_catch_up_all_takes_the_oldest_first() -> None:
    last = utc("2026-11-10T18:15")
    every = nightly(catch_up="all")
    seen = []
    while found := due(every, last=last, first_seen=last, now=utc("2026-11-13T19:00")):
        seen.append((f"{found[0].scheduled:%d}", found[0].trigger))
        last = found[0].scheduled
    assert seen == [("11", "catch_up"), ("12", "catch_up"), ("13", "catch_up")]


def test_a_year_away_costs_no_walk_through_the_year() -> None:
    last = utc("2020-01-01T00:00")
    (firing,) = due(nightly(cron="* * * * *", zone="UTC"), last=last, first_seen=last, now=utc("2026-01-01T00:00:30"))
    assert firing.scheduled == utc("2026-01-01T00:00")


def windowed(**options: object) -> Timetable:
    schedule = Schedule.model_validate({"cron": "0 * * * *"} | options)
    return nightly(cron=schedule.cron, zone="Europe/Berlin", schedule=schedule)


def test_outside_its_windows_nothing_is_due_and_the_newest_waits_for_the_opening() -> None:
    nights = windowed(allowed=[{"from": "22:00", "to": "06:00"}])
    last = utc("2026-01-14T04:00")  # Wednesday 05:00 in Berlin
    assert due(nights, last=last, first_seen=last, now=utc("2026-01-14T20:59:59")) == []
    (firing,) = due(nights, last=last, first_seen=last, now=utc("2026-01-14T21:00"))
    assert (firing.scheduled, firing.trigger) == (utc("2026-01-14T21:00"), "schedule")
    assert next_start(nights, last=None, now=utc("2026-01-14T12:30")).starts == utc("2026-01-14T21:00")


def test_a_start_that_waited_for_its_window_is_not_late() -> None:
    nights = windowed(cron="0 12 * * *", allowed=[{"from": "22:00", "to": "06:00"}])
    last = utc("2026-01-13T11:00")
    skipping = Timetable(nights.kind, nights.name, nights.cron, nights.zone, catch_up="skip", schedule=nights.schedule)
    (firing,) = due(skipping, last=last, first_seen=last, now=utc("2026-01-14T21:05"))
    assert (firing.scheduled, firing.starts) == (utc("2026-01-14T11:00"), utc("2026-01-14T21:00"))
    assert next_start(nights, last=None, now=utc("2026-01-14T12:30")).starts == utc("2026-01-14T21:00"), "that of noon"


def test_denied_goes_before_allowed() -> None:
    both = windowed(
        allowed=[{"from": "22:00", "to": "06:00"}], denied=[{"days": "fri", "from": "00:00", "to": "24:00"}]
    )
    assert opening(both, utc("2026-01-15T23:30")) == utc("2026-01-16T23:00"), "Friday 00:30 to Saturday 00:00"


@pytest.mark.parametrize(
    ("window", "before", "opens"),
    [
        ({"from": "02:30", "to": "05:00"}, "2026-03-29T00:30", "2026-03-29T01:00"),  # 02:30 is not shown: 03:00
        ({"from": "02:30", "to": "02:45"}, "2026-03-29T00:30", "2026-03-30T00:30"),  # not at all that night
        ({"from": "02:30", "to": "02:45"}, "2026-10-25T00:00", "2026-10-25T00:30"),  # the first time
        ({"from": "02:30", "to": "02:45"}, "2026-10-25T00:50", "2026-10-25T01:30"),  # the second time
    ],
)
def test_windows_on_nights_when_clocks_are_changed(window: dict[str, str], before: str, opens: str) -> None:
    assert opening(windowed(allowed=[window]), utc(before)) == utc(opens)


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
