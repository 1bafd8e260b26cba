from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.config.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("24h", 24),
        ("90m", 1.5),
        ("14d", 336),
        ("5y", 5 * 365 * 24),
        ("2w", 336),
        ("1h30m", 1.5),
        ("3600s", 1),
        ("0s", 0),
    ],
)
def test_what_people_write(text: str, hours: float) -> None:
    assert parse_duration(text) == timedelta(hours=hours)


@pytest.mark.parametrize(
    "text", ["", "24", "h", "1.5h", "-1h", "1h 30m", "1h2h", "24H", "1mo", 24, None, "999999999y", "1h\n"]
)
def test_what_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|unit|longer"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("hours", "text"), [(24, "24h"), (36, "36h"), (49, "2d1h"), (336, "2w"), (8760, "1y"), (0, "0s")]
)
def test_shown_as_people_say_it(hours: int, text: str) -> None:
    assert format_duration(timedelta(hours=hours)) == text


@given(st.integers(0, 10**9))
def test_round_trip(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)
