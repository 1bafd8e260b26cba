"""Which instants are due. Pure: cron expressions, time zones, jitter and catch-up, no clock of its own.

Cron expressions are read by cronsim (Sunday is 0 and 7; a time that daylight saving skips fires once right after the gap,
one that it repeats fires once). Jitter moves a job by a fixed part of its window, the same every day, so that a fleet spreads
out and a person can still predict when a job runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim


@dataclass(frozen=True, slots=True)
class Firing:
    """One due instant. `scheduled` (UTC) identifies it for ever; `starts` is when it may begin, jitter included."""

    kind: str  # backup, drill, check
    name: str
    scheduled: datetime
    starts: datetime
    trigger: str = "schedule"  # or catch_up


@dataclass(frozen=True, slots=True)
class Timetable:
    """When one named thing runs. `since` is the instant from which it counts (its first appearance)."""

    kind: str
    name: str
    cron: str
    zone: str
    jitter: timedelta = timedelta(0)
    catch_up: str = "once"  # or skip
    tolerance: timedelta = timedelta(minutes=10)  # how late a firing may begin before it counts as missed


def jitter_of(name: str, window: timedelta) -> timedelta:
    """The same part of `window` for the same name, on every machine and every day."""
    seconds = int(window.total_seconds())
    if seconds <= 0:
        return timedelta(0)
    digest = hashlib.sha256(name.encode()).digest()
    return timedelta(seconds=int.from_bytes(digest[:8], "big") % seconds)


def instants(timetable: Timetable, after: datetime) -> Iterator[datetime]:
    """Scheduled instants strictly after `after`, ascending, in UTC, without end."""
    for local in CronSim(timetable.cron, after.astimezone(ZoneInfo(timetable.zone))):
        yield local.astimezone(UTC)


def due(timetable: Timetable, *, last: datetime | None, first_seen: datetime, now: datetime) -> list[Firing]:
    """What must be started now, oldest first.

    `last` is the newest scheduled instant that was ever fired, None when there was none; then nothing before
    `first_seen` counts (a job that was configured today owes nothing for yesterday). Of several missed instants only the
    newest fires with `catch_up: once`; with `skip` only one that is at most `tolerance` late."""
    offset = jitter_of(timetable.name, timetable.jitter)
    missed: list[Firing] = []
    for scheduled in instants(timetable, last or first_seen):
        starts = scheduled + offset
        if starts > now:
            break
        missed.append(Firing(timetable.kind, timetable.name, scheduled, starts))
        del missed[:-1]
    if not missed:
        return []
    newest = missed[-1]
    late = now - newest.starts > timetable.tolerance
    if late and timetable.catch_up == "skip":
        return []
    return [Firing(newest.kind, newest.name, newest.scheduled, newest.starts, "catch_up" if late else "schedule")]


def next_start(timetable: Timetable, *, last: datetime | None, now: datetime) -> Firing:
    """The first firing that begins after `now`."""
    offset = jitter_of(timetable.name, timetable.jitter)
    after = max(last or now - offset, now - offset)
    scheduled = next(instants(timetable, after))
    return Firing(timetable.kind, timetable.name, scheduled, scheduled + offset)
