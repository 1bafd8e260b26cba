"""Which instants are due. Pure: cron expressions, time zones, jitter, windows and catch-up, no clock of its own.

Cron expressions are read by cronsim (Sunday is 0 and 7; a time that daylight saving skips fires once right after the gap,
one that it repeats fires once). Jitter moves a job by a fixed part of its window, the same every day, so that a fleet spreads
out and a person can still predict when a job runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from backupctl.config.scheduling import Schedule
from backupctl.scheduling.daylight import instants_of

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Firing:
    """One due instant. `scheduled` (UTC) identifies it for ever; `starts` is when it may begin, jitter and windows included."""

    kind: str  # backup, check, prune, copy, refresh, drill
    name: str
    scheduled: datetime
    starts: datetime
    trigger: str = "schedule"  # or catch_up, retry, after
    options: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Timetable:
    """When one named thing runs. `schedule` says more where a job has one: windows, overlap, priority."""

    kind: str
    name: str
    cron: str
    zone: str
    jitter: timedelta = timedelta(0)
    catch_up: str = "once"  # or all, skip
    tolerance: timedelta = timedelta(minutes=10)  # how late a firing may begin before it counts as missed
    schedule: Schedule | None = None
    job: str = ""  # whose it is, where it is a job's

    @property
    def overlap(self) -> str:
        return self.schedule.overlap if self.schedule is not None else "skip"


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
        instant = local.astimezone(UTC)
        if instant > after:  # in an hour that comes twice, cronsim begins with the first of them again
            yield instant


def starts(timetable: Timetable, scheduled: datetime) -> datetime:
    """When the firing of this instant may begin."""
    return opening(timetable, scheduled + jitter_of(timetable.name, timetable.jitter))


def is_open(timetable: Timetable, instant: datetime) -> bool:
    """Whether its windows let something begin at this instant."""
    return timetable.schedule is None or timetable.schedule.permits(instant.astimezone(ZoneInfo(timetable.zone)))


def opening(timetable: Timetable, instant: datetime) -> datetime:
    """The first moment, from `instant` on, at which its windows let something begin."""
    if timetable.schedule is None or is_open(timetable, instant):
        return instant
    zone = ZoneInfo(timetable.zone)
    windows = (*timetable.schedule.allowed, *timetable.schedule.denied)
    edges = {edge for window in windows for edge in (window.start, window.end)}
    minutes = sorted({int(edge[:2]) * 60 + int(edge[3:]) for edge in edges})
    midnight = instant.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    for day in range(-1, 9):  # a week has one such minute, see Schedule; the days beside it for clocks that are changed
        for minute in minutes:
            for found in instants_of(midnight + day * _DAY + timedelta(minutes=minute), zone):
                if found > instant and is_open(timetable, found):
                    return found
    raise AssertionError("a schedule leaves some minute of each week")


def newest(timetable: Timetable, now: datetime) -> datetime | None:
    """The newest scheduled instant whose jitter has passed; None when there was none in fifty years."""
    until = now - jitter_of(timetable.name, timetable.jitter)
    zone = ZoneInfo(timetable.zone)
    back = CronSim(timetable.cron, (until + timedelta(seconds=1)).astimezone(zone), reverse=True)
    earlier = next((local.astimezone(UTC) for local in back), None)
    if earlier is None:
        return None
    found = None
    # going back it reads changed clocks a little differently: what counts is what going forward says
    for instant in instants(timetable, earlier - timedelta(hours=3)):
        if instant > until:
            break
        found = instant
    return found


def due(timetable: Timetable, *, last: datetime | None, first_seen: datetime, now: datetime) -> list[Firing]:
    """What must be started now: one firing or none.

    `last` is the newest scheduled instant that was ever fired, None when there was none; then nothing before
    `first_seen` counts (a job that was configured today owes nothing for yesterday). Of several missed instants only the
    newest fires with `catch_up: once`; with `all` the oldest, so that all have their turn; with `skip` only one that is at
    most `tolerance` late. Outside its windows nothing is due."""
    after = last or first_seen
    found = newest(timetable, now)
    if found is None or found <= after or not is_open(timetable, now):
        return []
    if timetable.catch_up == "all":
        found = next(instants(timetable, after))
    firing = Firing(timetable.kind, timetable.name, found, starts(timetable, found))
    if firing.starts > now:  # it waits for a window that was open once since, and is again
        return []
    late = now - firing.starts > timetable.tolerance
    if late and timetable.catch_up == "skip":
        return []
    return [replace(firing, trigger="catch_up") if late else firing]


def next_start(timetable: Timetable, *, last: datetime | None, now: datetime) -> Firing:
    """The first firing that begins after `now`, of the instants after `last`."""
    after = now - jitter_of(timetable.name, timetable.jitter)
    if timetable.schedule is not None and (timetable.schedule.allowed or timetable.schedule.denied):
        after -= 8 * _DAY  # so long may one wait for its window
    for scheduled in instants(timetable, max(last or after, after)):
        begins = starts(timetable, scheduled)
        if begins > now:
            return Firing(timetable.kind, timetable.name, scheduled, begins)
    raise AssertionError("a cron expression fires again")
