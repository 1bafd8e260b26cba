"""The nights on which clocks are changed, in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backupctl.scheduling.calendar import Timetable, instants
from backupctl.scheduling.daylight import change_in_words


def first(cron: str, zone: str, after: str) -> datetime:
    return next(instants(Timetable("backup", "site", cron, zone), datetime.fromisoformat(after).replace(tzinfo=UTC)))


@pytest.mark.parametrize(
    ("cron", "zone", "after", "words"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "02:30 does not exist on 29 March: runs at 03:00"),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00",
            "02:30 comes twice on 25 October: runs once, the first time",
        ),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", ""),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T12:00", ""),
        ("30 2 * * *", "Asia/Taipei", "2026-03-28T12:00", ""),
        ("30 0 * * *", "Africa/Cairo", "2026-04-23T12:00", "00:30 does not exist on 24 April: runs at 01:00"),
        ("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", "02:10 does not exist on 4 October: runs at 02:30"),
        ("*/5 * * * *", "Europe/Berlin", "2026-03-29T00:59", ""),  # goes on every five minutes: nothing to explain
        ("30 * * * *", "Europe/Berlin", "2026-10-25T00:10", ""),
    ],
)
def test_what_a_person_is_told(cron: str, zone: str, after: str, words: str) -> None:
    assert change_in_words(cron, zone, first(cron, zone, after)) == words
