"""Times as the format writes them: RFC 3339 with nanoseconds, trailing zeros trimmed. Inside, ns since 1970 UTC.

Written out with civil-calendar arithmetic because `datetime` knows neither nanoseconds nor the year 0, and both occur.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from backupctl.repository.format import FormatError

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant, `days_from_civil`)."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


def _civil(days: int) -> tuple[int, int, int]:
    """The inverse of `_days`."""
    era, day_of_era = divmod(days + 719468, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_index = (5 * day_of_year + 2) // 153
    month = month_index + 3 if month_index < 10 else month_index - 9
    return era * 400 + year_of_era + (month <= 2), month, day_of_year - (153 * month_index + 2) // 5 + 1


def format_time(ns: int) -> str:
    """`ns` since 1970 as UTC text. Years outside 0 … 9999 are clamped to 0 or 9999, as restic does."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    days, second = divmod(seconds, 86400)
    year, month, day = _civil(days)
    if not 0 <= year <= 9999:
        year = 0 if year < 0 else 9999
        year, month, day = _civil(_days(year, month, day))  # 29 February may not exist there
    text = f"{year:04d}-{month:02d}-{day:02d}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def parse_time(value: object) -> int:
    """ns since 1970. Raises FormatError for anything that is not RFC 3339 with a zone."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise FormatError(f"not a time: {str(value)[:60]!r}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, zone_hours, zone_minutes = match.groups()[6:]
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        raise FormatError(f"not a time: {value!r}")
    if _civil(_days(year, month, day)) != (year, month, day):
        raise FormatError(f"not a day of the calendar: {value!r}")
    seconds = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    if sign:
        if int(zone_hours) > 23 or int(zone_minutes) > 59:
            raise FormatError(f"not a time zone: {value!r}")
        offset = int(zone_hours) * 3600 + int(zone_minutes) * 60
        seconds += offset if sign == "-" else -offset
    return seconds * 1_000_000_000 + int((fraction or "0")[:9].ljust(9, "0"))


def datetime_ns(instant: datetime) -> int:
    """A timezone-aware datetime as ns since 1970."""
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000


def ns_datetime(ns: int) -> datetime:
    """The datetime (UTC, whole microseconds). Raises FormatError outside the years 1 … 9999."""
    try:
        return _EPOCH + timedelta(microseconds=ns // 1000)
    except OverflowError:
        raise FormatError("a time outside the years 1 to 9999") from None
