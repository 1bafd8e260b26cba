"""Clocks that jump, machines that were off, schedulers that start again: each with a clock that moves only when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupctl.catalog.models import Run
from backupctl.scheduling.dispatch import SILENT_FOR, settle
from backupctl.scheduling.identity import worker_identity
from tests.scheduling.night import NIGHTLY, Night, configuration

DUE = datetime(2026, 11, 21, 2, 15, tzinfo=UTC)
DAY = timedelta(days=1)


def night(place: Path, schedule: str = NIGHTLY) -> Night:
    made = Night(configuration(place, {"site": schedule}), place)
    made.look()
    assert made.at(DUE) == ["backup site"]
    return made


def test_a_clock_set_back_an_hour_repeats_nothing_and_loses_nothing(tmp_path: Path) -> None:
    made = night(tmp_path)
    assert made.at(DUE - timedelta(hours=1)) == []
    assert made.at(DUE) == [] and made.at(DUE + timedelta(hours=3)) == []
    assert made.at(DUE + DAY) == ["backup site"]


def test_a_clock_that_was_a_year_ahead_does_not_silence_the_schedule(tmp_path: Path) -> None:
    made = night(tmp_path)
    assert made.at(DUE + 365 * DAY) == ["backup site"], "as after a year away"
    assert made.at(DUE + timedelta(hours=1)) == [], "right again: what was done is done"
    assert [one.what for one in made.told if one.what == "clock"], "and somebody is told"
    assert made.at(DUE + DAY) == ["backup site"]
    assert made.at(DUE + 2 * DAY) == ["backup site"]


def test_a_clock_set_forward_over_a_start_catches_it_up_once(tmp_path: Path) -> None:
    made = night(tmp_path)
    assert made.at(DUE + DAY + timedelta(hours=5)) == ["backup site"]
    assert made.look(60) == []
    assert made.rows()[-1] == ("22 02:15", "catch_up", "complete")


def test_a_clock_set_forward_does_not_write_off_a_run_of_this_machine(tmp_path: Path) -> None:
    """The heartbeat is an hour old by the clock, and the process is there."""
    made = night(tmp_path)
    run = made.catalog.enqueue("backup", "site", DUE + timedelta(hours=1), trigger="manual")
    assert run is not None and made.catalog.claim(run.id, worker_identity()) is not None
    made.clock.advance(SILENT_FOR.total_seconds() * 4)
    assert settle(made.catalog, made.clock) == []


@pytest.mark.parametrize(("catch_up", "count"), [("once", 1), ("all", 7), ("skip", 0)])
def test_restart_after_a_week(tmp_path: Path, catch_up: str, count: int) -> None:
    made = night(tmp_path, f"{NIGHTLY}, catch_up: {catch_up}")
    assert made.at(DUE + 7 * DAY + timedelta(hours=6)) == ["backup site"] * count
    missed = [one for one in made.told if one.what == "missed"]
    assert [f"{one.scheduled:%d %H:%M}" for one in missed] == ["28 02:15"]
    assert (
        missed[0].message == "it was due at Sat 2026-11-28 02:15 UTC, and nothing started it, nor the 6 time(s) before"
    )
    assert made.look(60) == []
    scheduled = [instant for instant, _, _ in made.rows()[1:]]
    assert scheduled == {"once": ["28 02:15"], "all": [f"{day} 02:15" for day in range(22, 29)], "skip": []}[catch_up]
    assert made.at(DUE + 8 * DAY) == ["backup site"], "the next night as ever"


def test_restart_during_a_run(tmp_path: Path) -> None:
    """The machine went down with the run; what comes up finds it, closes it, says so, and goes on."""
    made = night(tmp_path, f"{NIGHTLY}, retries: {{times: 1, wait: 5m}}")
    made.clock._now = DUE + DAY
    made.endings["backup site"] = []

    class Gone(Exception):
        pass

    def die(run: Run) -> int:
        host, _, pid, start = worker_identity().split(" ")
        claimed = made.catalog.claim(run.id, f"{host} another-boot/ns {pid} {start}")
        assert claimed is not None
        raise Gone

    service = made.restarted()
    service._launch = die
    with pytest.raises(Gone):
        service.run_due()
    assert made.rows()[-1][2] == "running"
    assert made.look(120) == []
    assert made.rows()[-1] == ("22 02:15", "schedule", "failed")
    assert made.look(600) == ["backup site"]
    assert made.rows()[-1][1:] == ("retry", "complete")


def test_nights_on_which_clocks_are_changed_have_one_run_each(tmp_path: Path) -> None:
    made = Night(configuration(tmp_path, {"site": 'cron: "30 2 * * *", timezone: Europe/Berlin'}), tmp_path)
    made.clock._now = datetime(2026, 3, 27, 12, tzinfo=UTC)
    for _ in range(4 * 24):
        made.look(3600)
    assert [instant for instant, _, _ in made.rows()] == ["28 01:30", "29 01:00", "30 00:30", "31 00:30"]


def test_the_autumn_night_has_one_run(tmp_path: Path) -> None:
    made = Night(configuration(tmp_path, {"site": 'cron: "30 2 * * *", timezone: Europe/Berlin'}), tmp_path)
    made.clock._now = datetime(2026, 10, 24, 12, tzinfo=UTC)
    for _ in range(2 * 24):
        made.look(3600)
    assert [instant for instant, _, _ in made.rows()] == ["25 00:30", "26 01:30"]


def test_the_leap_day(tmp_path: Path) -> None:
    made = Night(configuration(tmp_path, {"site": 'cron: "0 3 29 2 *"'}), tmp_path)
    made.clock._now = datetime(2027, 2, 20, tzinfo=UTC)
    made.look()
    assert made.at(datetime(2027, 3, 1, 12, tzinfo=UTC)) == [], "2027 has none"
    assert made.at(datetime(2028, 2, 29, 3, tzinfo=UTC)) == ["backup site"]
