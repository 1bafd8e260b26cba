"""Durations as people write them: `24h`, `90m`, `14d`, `5y`, `1h30m`. A year is 365 days, a week 7; months differ, so
there are none (and `m` is minutes)."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

SECONDS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_PATTERN = r"^(\d{1,9}[ywdhms])+$"
_ADVICE = "write a duration such as 24h, 90m, 14d or 1h30m"


def parse_duration(text: object) -> timedelta:
    """Raises ValueError for anything but whole numbers with a unit each."""
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or not re.fullmatch(_PATTERN, text):
        raise ValueError(_ADVICE)
    parts = re.findall(r"(\d+)([ywdhms])", text)
    if len({unit for _, unit in parts}) != len(parts):
        raise ValueError(f"a unit stands twice; {_ADVICE}")
    try:
        return timedelta(seconds=sum(int(number) * SECONDS[unit] for number, unit in parts))
    except OverflowError as error:
        raise ValueError("this is longer than calendars go") from error


def format_duration(span: timedelta) -> str:
    """The inverse of `parse_duration`: years or weeks when exact, days from two on; parts of a second are dropped."""
    rest, text = int(span.total_seconds()), ""
    for unit, seconds in SECONDS.items():
        if unit == "d" and rest < 2 * seconds:
            continue  # people say 24h and 36h
        if unit not in "yw" or (rest and rest % seconds == 0):
            count, rest = divmod(rest, seconds)
            text += f"{count}{unit}" if count else ""
    return text or "0s"


def _positive(span: timedelta) -> timedelta:
    if span <= timedelta(0):
        raise ValueError("must be more than zero")
    return span


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["24h", "90m", "14d"]}),
]
PositiveDuration = Annotated[Duration, BeforeValidator(lambda value: _positive(parse_duration(value)))]
