"""What a schedule promised and did not happen: missed, late and never-run jobs, and steps that did not follow.

It has no memory: the same configuration, catalog and instant give the same answer to anybody, also after the scheduler, or
the machine it ran on, has been away. `status` asks it, the status page, and every look of `serve` and `run --due`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Pause, Run
from backupctl.clock import to_zone
from backupctl.config.models import Settings
from backupctl.scheduling import calendar
from backupctl.scheduling.admission import Places, pause_of, why_not
from backupctl.scheduling.calendar import Timetable
from backupctl.scheduling.following import chains
from backupctl.scheduling.tags import nobody_takes
from backupctl.scheduling.timetables import job_of, timetables

TOLERANCE = timedelta(minutes=10)
"""How late something may begin before anybody is told. `run --due` every five minutes stays within it."""

_MICROSECOND = timedelta(microseconds=1)
_MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Lapse:
    """`what`: missed (was due, nothing started it), late (waits), never (no run is known at all), broken (a step did not
    follow), clock (the catalog knows the future). `job` is "" for what is no job's."""

    what: str
    kind: str
    name: str
    scheduled: datetime
    message: str
    job: str = ""

    @property
    def grave(self) -> bool:
        return self.what in ("missed", "late", "never")


def sweep(
    settings: Settings, catalog: Catalog, now: datetime, snapshots: Mapping[str, datetime | None] | None = None
) -> list[Lapse]:
    """`snapshots`: when each job's newest snapshot was taken, complete or not, as far as the caller knows it from the repository:
    what a job has done is done, whichever catalog it was written down in."""
    pauses = catalog.pauses(at=now)
    found = []
    known = timetables(settings)
    newest = catalog.newest([(one.kind, one.name) for one in known], until=now)
    for timetable in known:
        taken = (snapshots or {}).get(timetable.name) if timetable.kind == "backup" else None
        before = newest.get((timetable.kind, timetable.name))
        lapse = _missed(catalog, before, timetable, pauses, taken, now)
        if lapse is not None and lapse.what == "never" and _is_new(settings, timetable, lapse.scheduled, now):
            continue
        if lapse is not None:
            found.append(lapse)
    return found + _late(settings, catalog, pauses, now) + _broken(settings, catalog, now) + _future(catalog, now)


def expected(timetable: Timetable, now: datetime) -> datetime | None:
    """The newest scheduled instant whose start lies more than TOLERANCE back."""
    until = now - TOLERANCE
    found = calendar.newest(timetable, until)
    while found is not None and calendar.starts(timetable, found) > until:  # it waits for its window
        offset = calendar.jitter_of(timetable.name, timetable.jitter)
        found = calendar.newest(timetable, found + offset - _MICROSECOND)
    return found


def _missed(
    catalog: Catalog,
    newest: Run | None,
    timetable: Timetable,
    pauses: list[Pause],
    taken: datetime | None,
    now: datetime,
) -> Lapse | None:
    instant = expected(timetable, now)
    if instant is None or (taken is not None and taken >= instant):
        return None
    if newest is not None and newest.scheduled >= instant:
        return None  # whatever became of it: it was seen. A run by hand since then counts too
    if _left_a_fact(catalog, timetable, instant, now):
        return None
    pause = pause_of(pauses, timetable.job)
    if pause is not None and pause.created <= calendar.starts(timetable, instant):
        return None
    when = f"{to_zone(instant, timetable.zone):%a %Y-%m-%d %H:%M} {timetable.zone}"
    if newest is None and taken is not None:  # another machine's job: its snapshots are what is known of it
        what, message = "missed", f"it was due at {when}, and there is no snapshot since"
    elif newest is None:
        what, message = "never", f"no run of it is known; it was due at {when}: does `serve` or `run --due` run?"
    else:
        what, message = "missed", f"it was due at {when}, and nothing started it"
        since = calendar.instants(timetable, newest.scheduled)
        count = sum(1 for _ in islice(takewhile(lambda one: one < instant, since), _MOST_COUNTED))
        if 0 < count < _MOST_COUNTED:
            message += f", nor the {count} time(s) before" if count > 1 else ", nor the time before"
        elif count:
            message += f", nor the {count} or more times before"
    return Lapse(what, timetable.kind, timetable.name, instant, message, timetable.job)


def first_start(settings: Settings, job: str, now: datetime) -> str:
    """What is to be said of a job that owes nothing and has nothing yet."""
    mine = next((one for one in timetables(settings) if (one.kind, one.name) == ("backup", job)), None)
    if mine is None:
        return f"new, and without a schedule: backupctl run {job}"
    start = to_zone(calendar.next_start(mine, last=None, now=now).starts, mine.zone)
    return f"new: its first start is {start:%a %Y-%m-%d %H:%M} {mine.zone}; at once: backupctl run {job}"


def _is_new(settings: Settings, timetable: Timetable, instant: datetime, now: datetime) -> bool:
    """Whether it was configured after that instant, as far as that can be known where no scheduler has met it: by its file."""
    written = settings.written.get(timetable.job)
    return written is not None and calendar.starts(timetable, instant) < written <= now


def _left_a_fact(catalog: Catalog, timetable: Timetable, instant: datetime, now: datetime) -> bool:
    """Whether a check or drill since then is known by what it left in a repository, whichever machine ran it."""
    if timetable.kind == "check":
        return bool(catalog.checks(repository=timetable.name, since=instant, until=now + _MICROSECOND, limit=1))
    if timetable.kind == "drill":
        return bool(catalog.drills(drill=timetable.name, since=instant, until=now + _MICROSECOND, limit=1))
    return False


def _late(settings: Settings, catalog: Catalog, pauses: list[Pause], now: datetime) -> list[Lapse]:
    queued = [run for run in catalog.runs(states=("queued",)) if now - run.created > TOLERANCE]
    places = Places(settings, catalog.runs(states=("running",)) if queued else ())
    workers = catalog.workers() if queued and settings.fleet else ()
    found = []
    for run in queued:
        reason = why_not(settings, pauses, places, run, now) or nobody_takes(settings, workers, run, now)
        reason = reason or "nothing starts it: does `serve` or `run --due` run?"
        job = settings.jobs.get(job_of(run))
        when = f"{to_zone(run.created, job.timezone if job else settings.defaults.timezone):%a %Y-%m-%d %H:%M}"
        found.append(Lapse("late", run.kind, run.name, run.scheduled, f"waits since {when}: {reason}", job_of(run)))
    return found


def _broken(settings: Settings, catalog: Catalog, now: datetime) -> list[Lapse]:
    found = []
    jobs = [job for job in settings.jobs.values() if job.schedule is not None and job.schedule.then]
    followed = chains(catalog, settings, jobs, now)
    for job in jobs:
        stands = followed[job.job]
        if stands.broken is not None and stands.left:
            steps = ", ".join(f"{kind} {name}" for kind, name in stands.left)
            message = f"{steps} did not follow: {stands.broken.kind} {stands.broken.name} ended {_ended(stands.broken)}"
            found.append(Lapse("broken", "backup", job.job, stands.broken.scheduled, message, job.job))
    return found


def _ended(run: Run) -> str:
    verdict = run.summary.get("verdict")
    return f"with the verdict {verdict}" if run.state == "complete" and verdict else run.state


def _future(catalog: Catalog, now: datetime) -> list[Lapse]:
    ahead = catalog.runs(since=now + timedelta(hours=1), limit=1)
    if not ahead:
        return []
    run = ahead[0]
    message = (
        f"a run is recorded for {run.scheduled:%Y-%m-%d %H:%M} UTC, which is yet to come: this clock is wrong, or was"
    )
    return [Lapse("clock", run.kind, run.name, run.scheduled, message, job_of(run))]
