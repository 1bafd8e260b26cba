"""What happens to wall clocks on the nights when they are changed, exactly and in words. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

_SECOND = timedelta(seconds=1)
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def instants_of(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """When this wall clock (a naive time) shows `wall`, in UTC: once, twice where a clock is set back; where it is set
    forward over `wall`, the instant at which that is done."""
    early, late = sorted(wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if early == late or early.astimezone(zone).replace(tzinfo=None) == wall:
        return sorted({early, late})
    while late - early > _SECOND:  # no clock ever shows it: find where the offset changes, between the two readings
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == late.astimezone(zone).utcoffset():
            late = middle
        else:
            early = middle
    return [late.replace(microsecond=0)]


def day_in_words(wall: datetime) -> str:
    return f"{wall.day} {MONTHS[wall.month - 1]}"


def change_in_words(cron: str, zone: str, scheduled: datetime) -> str:
    """Why a firing is not at the time that its expression names, or why it is there once although that time comes twice; ""
    on all other days."""
    minute, hour, *rest = cron.split()
    if minute.startswith("*") or hour.startswith("*") or len(rest) != 3:
        return ""  # these follow the instants, not the wall clock: nothing is moved or dropped
    place = ZoneInfo(zone)
    wall, before = scheduled.astimezone(place), (scheduled - _SECOND).astimezone(place)
    offset, offset_before = wall.utcoffset(), before.utcoffset()
    assert offset is not None and offset_before is not None
    day = day_in_words(wall)
    if offset > offset_before:
        shown = wall.replace(tzinfo=None)
        first = shown - (offset - offset_before)
        named = next(CronSim(cron, first - _SECOND))
        return f"{named:%H:%M} does not exist on {day}: runs at {wall:%H:%M}" if named < shown else ""
    if wall.replace(fold=0).utcoffset() != wall.replace(fold=1).utcoffset():
        return f"{wall:%H:%M} comes twice on {day}: runs once, the first time"
    return ""
