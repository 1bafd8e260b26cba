"""A calendar quarter of the organisation: from local midnight to local midnight, as UTC instants."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from backupctl.errors import UsageError

_FORM = re.compile(r"(\d{4})-?[Qq]([1-4])")


@dataclass(frozen=True)
class Quarter:
    year: int
    number: int
    zone: str  # IANA name

    @property
    def name(self) -> str:
        return f"{self.year}Q{self.number}"

    @property
    def first_day(self) -> date:
        return date(self.year, 3 * self.number - 2, 1)

    @property
    def next_first_day(self) -> date:
        return date(self.year + 1, 1, 1) if self.number == 4 else date(self.year, 3 * self.number + 1, 1)

    @property
    def start(self) -> datetime:
        return self._midnight(self.first_day)

    @property
    def end(self) -> datetime:
        """The first instant after the quarter."""
        return self._midnight(self.next_first_day)

    def days(self) -> list[date]:
        count = (self.next_first_day - self.first_day).days
        return [self.first_day + timedelta(days=number) for number in range(count)]

    def day_of(self, instant: datetime) -> date:
        """The local calendar day of an instant."""
        return instant.astimezone(ZoneInfo(self.zone)).date()

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), ZoneInfo(self.zone)).astimezone(UTC)


def parse_quarter(text: str, zone: str) -> Quarter:
    """`2026Q4` (also `2026-Q4`, `2026q4`). UsageError for anything else."""
    match = _FORM.fullmatch(text.strip())
    if not match or not 1970 <= int(match[1]) <= 9998:
        raise UsageError(f"{text!r} is not a quarter", next_step="write it as 2026Q4")
    return Quarter(int(match[1]), int(match[2]), zone)


def current_quarter(now: datetime, zone: str) -> Quarter:
    local = now.astimezone(ZoneInfo(zone))
    return Quarter(local.year, (local.month + 2) // 3, zone)
