"""What will run in the coming days and what will not, with the reasons in words; and one job's schedule explained.

Nothing here starts anything. The answers are those that `serve` and `run --due` would act on, as far as they can be known:
a failure, a retry or a run that takes longer than a day is not foreseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import LIVE_STATES, Pause, Run
from backupctl.clock import to_zone
from backupctl.config.durations import format_duration
from backupctl.config.models import Job, Settings
from backupctl.scheduling import calendar, following
from backupctl.scheduling.admission import Places, paused, why_not
from backupctl.scheduling.calendar import Timetable
from backupctl.scheduling.daylight import change_in_words
from backupctl.scheduling.tags import nobody_takes
from backupctl.scheduling.timetables import timetables


@dataclass(slots=True)
class Planned:
    """One start that the calendar names. `runs` False: it will not be, and `notes` begin with why."""

    kind: str
    name: str
    scheduled: datetime
    starts: datetime
    zone: str
    runs: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def wall_clock(self) -> str:
        return shown(self.starts, self.zone)


def shown(instant: datetime, zone: str) -> str:
    """As a person reads it; seconds only when there are some."""
    wall = to_zone(instant, zone)
    return f"{wall:%a %Y-%m-%d %H:%M}{f':{wall:%S}' if wall.second else ''} {zone}"


def plan(settings: Settings, catalog: Catalog, now: datetime, until: datetime) -> list[Planned]:
    """Every start until then, in order; first what was missed and is caught up at the next look."""
    pauses = catalog.pauses()
    found = [one for each in timetables(settings) for one in _planned(settings, catalog, each, pauses, now, until)]
    return sorted(found, key=lambda one: (one.starts, one.kind, one.name))


def _planned(
    settings: Settings, catalog: Catalog, timetable: Timetable, pauses: list[Pause], now: datetime, until: datetime
) -> Iterator[Planned]:
    last = catalog.last_scheduled(timetable.kind, timetable.name, until=now)
    steps = following.steps(settings.jobs[timetable.job]) if timetable.kind == "backup" else []
    after = last or now - calendar.jitter_of(timetable.name, timetable.jitter)
    before: Planned | None = None
    for one in _starts(timetable, after, last is not None, now, until):
        pause = _pause_at(pauses, timetable.job, max(one.starts, now))
        if one.runs and pause is not None:
            one.runs, one.notes = False, [paused(pause, timetable.zone)]
        if before is not None and before.runs and before.starts == one.starts and timetable.catch_up != "all":
            # both wait for the same opening of a window: only the newest fires
            newer = to_zone(_wanted(timetable, one.scheduled), one.zone)
            before.runs, before.starts = False, _wanted(timetable, before.scheduled)
            before.notes = [f"outside its windows; of those that wait the newest runs, that of {newer:%a %H:%M}"]
        if one.runs and steps:
            one.notes.append("then " + ", ".join(f"{kind} {name}" for kind, name in steps))
        if before is not None:
            yield before
        before = one
    if before is not None:
        yield before


def _starts(timetable: Timetable, after: datetime, met: bool, now: datetime, until: datetime) -> Iterator[Planned]:
    """What is owed from before `now` as one start at `now`, then the starts to come."""
    overdue = calendar.newest(timetable, now) if met else None
    if overdue is not None and overdue > after:
        begins = calendar.starts(timetable, overdue)
        if begins <= now:
            yield _overdue(timetable, overdue, after, now)
            after = overdue
        else:  # it waits for its window; of those before it only the newest can matter
            first = calendar.next_start(timetable, last=after, now=now).scheduled
            after = first - timedelta(seconds=1)
    for scheduled in calendar.instants(timetable, after):
        begins = calendar.starts(timetable, scheduled)
        if begins > until or scheduled > until:
            return
        if begins <= now:
            continue
        one = Planned(timetable.kind, timetable.name, scheduled, begins, timetable.zone)
        wanted = _wanted(timetable, scheduled)
        if begins != wanted:
            due = to_zone(wanted, timetable.zone)
            one.notes.append(f"due {due:%a %H:%M}, outside its windows: begins when they open")
        changed = change_in_words(timetable.cron, timetable.zone, scheduled)
        if changed and wanted != scheduled:
            changed += f", and {format_duration(wanted - scheduled)} of jitter"
        if changed:
            one.notes.append(changed)
        yield one


def _overdue(timetable: Timetable, overdue: datetime, after: datetime, now: datetime) -> Planned:
    one = Planned(timetable.kind, timetable.name, overdue, now, timetable.zone)
    count = 0
    for instant in calendar.instants(timetable, after):
        if instant > overdue or count >= 1000:
            break
        count += 1
    begins = calendar.starts(timetable, overdue)
    if now - begins <= timetable.tolerance:
        one.notes.append("due now: runs at the next look")
    elif timetable.catch_up == "skip":
        one.runs = False
        one.notes.append(f"missed at {shown(begins, timetable.zone)}, and catch_up is skip")
    elif timetable.catch_up == "all" and count > 1:
        one.notes.append(f"{count} starts were missed, the last at {shown(begins, timetable.zone)}: all are caught up")
    else:
        missed = f"{count} starts were missed, the last" if count > 1 else "was missed"
        one.notes.append(f"{missed} at {shown(begins, timetable.zone)}: caught up at the next look")
    opens = calendar.opening(timetable, now)
    if one.runs and opens != now:
        one.starts = opens
        one.notes.append("now is outside its windows: begins when they open")
    return one


def _wanted(timetable: Timetable, scheduled: datetime) -> datetime:
    """Jitter included, windows not."""
    return scheduled + calendar.jitter_of(timetable.name, timetable.jitter)


def _pause_at(pauses: list[Pause], job: str, instant: datetime) -> Pause | None:
    for pause in pauses:
        if pause.job in ("", job) and pause.ended is None and pause.created <= instant < pause.until:
            return pause
    return None


MOST_ALIKE = 4
"""More starts of one name that are alike, on one day, are told as one for people."""


def folded(planned: Sequence[Planned]) -> list[Planned]:
    """The same for people: of many that are alike on one day the first, which says how many more there are."""
    alike: dict[tuple[object, ...], list[Planned]] = {}
    for one in planned:
        day = to_zone(one.starts, one.zone).date()
        alike.setdefault((one.kind, one.name, one.runs, tuple(one.notes), day), []).append(one)
    found = []
    for group in alike.values():
        if len(group) > MOST_ALIKE:
            last = to_zone(group[-1].starts, group[-1].zone)
            more = f"and {len(group) - 1} more that day, the last at {last:%H:%M}"
            group = [replace(group[0], notes=[more, *group[0].notes])]
        found += group
    return sorted(found, key=lambda one: (one.starts, one.kind, one.name))


def unscheduled(settings: Settings) -> list[tuple[str, str, str]]:
    """(kind, name, why) of what never starts by the calendar."""
    found = []
    for job in settings.jobs.values():
        steps = following.steps(job)
        if job.schedule is None:
            found.append(("backup", job.job, "has no `schedule`: it runs only when somebody runs it"))
        for name, drill in job.drills.items():
            one = ("drill", f"{job.job}/{name}")
            if drill.cron is None:
                why = f"follows each complete backup of {job.job}" if one in steps else "has no `cron`: only by hand"
                found.append((*one, why))
    for name, repository in settings.repositories.items():
        if repository.check is None:
            by = [job.job for job in settings.jobs.values() if ("check", name) in following.steps(job)]
            found.append(
                ("check", name, f"follows backups of {', '.join(by)}" if by else "has no `check`: only by hand")
            )
    return found


def explain(settings: Settings, catalog: Catalog, job: Job, now: datetime) -> list[tuple[str, str]]:
    """What the schedule of a job says, where it stands and what comes next: (topic, sentence) by (topic, sentence)."""
    schedule, zone = job.schedule, job.timezone
    if schedule is None:
        return [("schedule", "none: it runs only when somebody runs it")]
    timetable = next(one for one in timetables(settings) if (one.kind, one.name) == ("backup", job.job))
    zone = timetable.zone
    told = [("schedule", f'cron "{schedule.cron}" on the wall clock of {zone}')]
    offset = calendar.jitter_of(job.job, schedule.jitter)
    if schedule.jitter:
        told.append(
            (
                "jitter",
                f"always {format_duration(offset)} after that, its fixed part of {format_duration(schedule.jitter)}",
            )
        )
    if schedule.allowed:
        told.append(("allowed", "begins only " + ", ".join(map(str, schedule.allowed))))
    if schedule.denied:
        told.append(("denied", "does not begin " + ", ".join(map(str, schedule.denied))))
    told.append(("missed", CATCH_UP[schedule.catch_up]))
    told.append(("overlap", OVERLAP[schedule.overlap]))
    if schedule.deadline is not None:
        told.append(("deadline", f"stopped after {format_duration(schedule.deadline)}"))
    told.append(("retries", _retries(job)))
    steps = ", then ".join(f"{kind} {name}" for kind, name in following.steps(job))
    told.append(("then", steps + ", each when the one before it ended well" if steps else "nothing follows"))
    if schedule.priority:
        told.append(("priority", f"{schedule.priority}: of several that wait, the higher one starts first"))
    told += _standing(settings, catalog, job, timetable, now)
    return told


CATCH_UP = {
    "once": "missed starts are caught up by one run, when possible",
    "all": "missed starts are caught up by one run each, the oldest first",
    "skip": "missed starts are not caught up",
}
OVERLAP = {
    "skip": "a start that comes while the last run goes on is left out",
    "queue": "a start that comes while the last run goes on waits for its end; of several, the first",
    "replace": "a start that comes while the last run goes on stops that one and takes its place",
}


def _retries(job: Job) -> str:
    policy = job.schedule.retries if job.schedule is not None else None
    if policy is None:
        return "none"
    wait, longest = format_duration(policy.wait), format_duration(policy.longest)
    return f"up to {policy.times}, after {wait}, doubled each time up to {longest}; only after what may pass"


def _standing(
    settings: Settings, catalog: Catalog, job: Job, timetable: Timetable, now: datetime
) -> Iterator[tuple[str, str]]:
    zone = timetable.zone
    pauses = catalog.pauses(at=now)
    for pause in pauses:
        if pause.job in ("", job.job):
            yield "paused", f"{paused(pause, zone)}; end it with: backupctl schedule resume {pause.job or '--all'}"
    runs = [run for run in catalog.runs(kind="backup", name=job.job, limit=20) if run.trigger != "first_seen"]
    for run in runs[:5]:
        yield "run", _of_run(run, zone)
    if not runs:
        yield "run", "none is known"
    stands = following.chain(catalog, settings, job, now)
    if stands.waiting is not None and stands.waiting.state == "queued":
        places = Places(settings, catalog.runs(states=("running",)))
        reason = why_not(settings, pauses, places, stands.waiting, now)
        reason = reason or nobody_takes(settings, catalog.workers() if settings.fleet else (), stands.waiting, now)
        reason = reason or ("until a worker has room" if settings.fleet else "at the next look")
        yield "waits", f"{stands.waiting.kind} {stands.waiting.name}: {reason}"
    if stands.next is not None:
        what = "retry of" if stands.next.trigger == "retry" else "step"
        yield "next", f"{shown(max(stands.next.starts, now), zone)}: {what} {stands.next.kind} {stands.next.name}"
    if stands.broken is not None and stands.left:
        left = ", ".join(f"{kind} {name}" for kind, name in stands.left)
        yield "stopped", f"{left} did not follow: {stands.broken.kind} {stands.broken.name} did not end well"
    coming = list(_planned(settings, catalog, timetable, catalog.pauses(), now, now + timedelta(days=40)))
    runs_next = next((one for one in coming[5:] if one.runs), None) if not any(one.runs for one in coming[:5]) else None
    for one in coming[:5] + [one for one in (runs_next,) if one is not None]:
        notes = f": {'; '.join(one.notes)}" if one.notes else ""
        yield "next" if one.runs else "not", one.wall_clock + notes
    if not coming:
        yield "next", shown(calendar.next_start(timetable, last=None, now=now).starts, zone)


def _of_run(run: Run, zone: str) -> str:
    words = f"{shown(run.scheduled.replace(microsecond=0), zone)}: {run.state}"
    words += f" ({run.trigger.replace('_', ' ')})" if run.trigger != "schedule" else ""
    if run.state in LIVE_STATES and run.worker:
        words += f", by {run.worker.split(' ')[0]}"
    return words + (f": {run.message}" if run.message else "")
