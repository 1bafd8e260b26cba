from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from backupctl.errors import UsageError
from backupctl.evidence.quarter import Quarter, current_quarter, parse_quarter


@pytest.mark.parametrize("text", ["2026Q4", "2026q4", "2026-Q4", " 2026Q4 "])
def test_a_quarter_is_local_midnight_to_local_midnight(text: str) -> None:
    quarter = parse_quarter(text, "Asia/Taipei")
    assert quarter.name == "2026Q4"
    assert quarter.start == datetime(2026, 9, 30, 16, tzinfo=UTC)
    assert quarter.end == datetime(2026, 12, 31, 16, tzinfo=UTC)
    assert quarter.start in quarter
    assert quarter.end not in quarter


@pytest.mark.parametrize("text", ["", "2026", "2026Q5", "2026Q0", "Q4", "26Q4", "2026Q4x", "0000Q1", "9999Q4"])
def test_what_is_no_quarter_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a quarter"):
        parse_quarter(text, "UTC")


def test_days_and_quarters_follow_each_other() -> None:
    assert [len(Quarter(2028, number, "UTC").days()) for number in (1, 2, 3, 4)] == [91, 91, 92, 92]
    assert len(Quarter(2026, 1, "UTC").days()) == 90
    assert Quarter(2026, 2, "UTC").end == Quarter(2026, 3, "UTC").start
    assert Quarter(2026, 4, "UTC").end == Quarter(2027, 1, "UTC").start


def test_the_current_quarter_is_that_of_the_wall_clock() -> None:
    instant = datetime(2026, 9, 30, 20, tzinfo=UTC)  # 04:00 on 1 October in Taipei
    assert current_quarter(instant, "Asia/Taipei").name == "2026Q4"
    assert current_quarter(instant, "UTC").name == "2026Q3"


def test_a_summer_time_change_moves_no_day() -> None:
    quarter = Quarter(2026, 4, "Europe/Berlin")  # ends summer time on 25 October
    assert quarter.start.hour == 22
    assert quarter.end.hour == 23
    assert quarter.day_of(datetime(2026, 10, 25, 22, 30, tzinfo=UTC)) == date(2026, 10, 25)
