"""From a due instant to a run row to a finished child process. `serve` and `run --due` both come through here, so that
both give the same runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import LIVE_STATES, Pause, Run
from backupctl.clock import Clock, iso
from backupctl.config.models import Settings
from backupctl.errors import SkippedError
from backupctl.scheduling.admission import order, pause_of, paused, why_not
from backupctl.scheduling.calendar import Firing, Timetable, due
from backupctl.scheduling.following import chain
from backupctl.scheduling.identity import is_certainly_alive, is_certainly_dead
from backupctl.scheduling.timetables import is_configured, timetables

log = logging.getLogger(__name__)

SILENT_FOR = timedelta(minutes=15)
"""A run of another machine without a heartbeat for this long is taken for dead (heartbeats come every 30 s)."""

STOPS_WITHIN = timedelta(minutes=5)
"""A worker that was asked to stop and still runs after this is written off: its next word is refused."""


def look(catalog: Catalog, clock: Clock, settings: Settings) -> list[Run]:
    """Everything that waits to be started, in the order in which it should: settle what is dead, put down what is due by
    the calendar, by a retry, or because something else ended. `ready` says which of it may begin."""
    settle(catalog, clock)
    pauses = catalog.pauses(at=clock.now())
    fire(catalog, clock, timetables(settings), pauses)
    for job in settings.jobs.values():
        if job.schedule is None or not (job.schedule.then or job.schedule.retries):
            continue
        if pause_of(pauses, job.job) is not None:
            continue
        follower = chain(catalog, settings, job, clock.now()).next
        if follower is not None and follower.starts <= clock.now():
            catalog.enqueue(
                follower.kind, follower.name, follower.scheduled, trigger=follower.trigger, options=follower.options
            )
    queued = catalog.runs(states=("queued",))
    for run in queued:
        if run.trigger != "manual" and not is_configured(settings, run):
            catalog.cancel(run.id, message="it is no longer configured", state="skipped")
    waiting = (run for run in queued if run.trigger == "manual" or is_configured(settings, run))
    return sorted(waiting, key=lambda run: order(settings, run))


def ready(
    settings: Settings, pauses: Sequence[Pause], running: Sequence[Run], waiting: Iterable[Run], now: datetime
) -> list[Run]:
    """Those of `waiting` (in its order) that may all begin now, beside what is running."""
    chosen: list[Run] = []
    for run in waiting:
        reason = why_not(settings, pauses, [*running, *chosen], run, now)
        if reason:
            log.info("%s %s waits: %s", run.kind, run.name, reason)
        else:
            chosen.append(run)
    return chosen


def settle(catalog: Catalog, clock: Clock) -> list[Run]:
    """Close every run whose worker is gone, so that none stays `running` for ever. The epoch moves on: if that worker
    was only asleep, its next word is refused. A worker of this machine that is there is no matter of clocks."""
    settled = []
    for run in catalog.runs(states=("running",)):
        now = clock.now()
        if run.stopping is not None and now - run.stopping > STOPS_WITHIN:
            closed = catalog.cancel(run.id, message=f"{run.message}; it did not stop when asked", state="cancelled")
        elif is_certainly_dead(run.worker) or (
            now - (run.heartbeat or run.started or run.created) > SILENT_FOR and not is_certainly_alive(run.worker)
        ):
            closed = catalog.cancel(run.id, message="the worker process ended without finishing the run")
        else:
            continue
        if closed is not None:
            log.warning("run %s of %s %s: its worker is gone, marked %s", run.id, run.kind, run.name, closed.state)
            settled.append(closed)
    return settled


def fire(catalog: Catalog, clock: Clock, timetables: Iterable[Timetable], pauses: Sequence[Pause] = ()) -> list[Run]:
    """Insert one queued run for everything that the calendar makes due now and return it, after those that an earlier
    process queued and never started. An instant that another process inserted first is left to it; one that comes while
    its job is paused is recorded as skipped, with the reason."""
    queued = list(reversed(catalog.runs(states=("queued",))))
    for timetable in timetables:
        now = clock.now()
        last = catalog.last_scheduled(timetable.kind, timetable.name, until=now)
        if last is None:
            _remember_first_sight(catalog, timetable, now)
            continue
        for firing in due(timetable, last=last, first_seen=now, now=now):
            pause = pause_of(pauses, timetable.job)
            if pause is not None:
                _skip(catalog, firing, paused(pause, timetable.zone))
                continue
            run = enqueue(catalog, firing, overlap=_overlap(timetable, firing))
            if run is not None:
                queued.append(run)
    return queued


def _overlap(timetable: Timetable, firing: Firing) -> str:
    """With `catch_up: all` what was missed waits for its turn, whatever the rule for what comes in time."""
    return "wait" if timetable.catch_up == "all" and firing.trigger == "catch_up" else timetable.overlap


def enqueue(
    catalog: Catalog, firing: Firing, options: dict[str, object] | None = None, *, overlap: str = "skip"
) -> Run | None:
    """The run of one firing, or None when it exists already or is not to be. When the previous run of the same name still
    goes on, `overlap` decides: `skip` records the instant as skipped, `queue` lets it wait unless one waits already,
    `replace` asks the running one to stop and waits for that; `wait` leaves the instant for a later look."""
    going = catalog.runs(kind=firing.kind, name=firing.name, states=LIVE_STATES)
    if going and overlap == "wait":
        return None
    running = [one for one in going if one.state == "running"]
    before = going[-1] if going else None
    if before is not None and (overlap == "skip" or (overlap == "queue" and len(going) > len(running))):
        if overlap == "queue":
            before = next(one for one in going if one.state == "queued")
        _skip(catalog, firing, f"the run scheduled for {iso(before.scheduled)} was still {before.state}")
        return None
    run = catalog.enqueue(firing.kind, firing.name, firing.scheduled, trigger=firing.trigger, options=options)
    if run is None or overlap != "replace":
        return run
    reason = f"replaced by the run scheduled for {iso(firing.scheduled)}"
    for one in going:
        if one.state == "queued":
            catalog.cancel(one.id, message=reason, state="skipped")
        elif catalog.ask_to_stop(one.id, message=reason):
            log.warning(
                "%s %s: the run scheduled for %s is asked to stop: %s", one.kind, one.name, one.scheduled, reason
            )
    return run


def _skip(catalog: Catalog, firing: Firing, reason: str) -> None:
    if catalog.enqueue(firing.kind, firing.name, firing.scheduled, trigger=firing.trigger, skipped=reason) is not None:
        log.warning("%s %s at %s skipped: %s", firing.kind, firing.name, iso(firing.scheduled), reason)


def enqueue_now(catalog: Catalog, clock: Clock, kind: str, name: str, options: dict[str, object] | None = None) -> Run:
    """A run that a person asks for now. Raises SkippedError when one of the same name still goes on."""
    settle(catalog, clock)
    going = catalog.runs(kind=kind, name=name, states=LIVE_STATES, limit=1)
    run = None if going else catalog.enqueue(kind, name, clock.now(), trigger="manual", options=options)
    if run is None:
        which = f"run {going[0].id}, {going[0].state} since {iso(going[0].created)}" if going else "one this instant"
        raise SkippedError(f"a {kind} of {name} already goes on: {which}", next_step="wait for it: backupctl status")
    return run


def _remember_first_sight(catalog: Catalog, timetable: Timetable, now: datetime) -> None:
    """A name never seen before owes nothing for the past. This row is the scheduler's memory that it has met it."""
    message = "first seen by the scheduler; nothing was due before"
    catalog.enqueue(timetable.kind, timetable.name, now, trigger="first_seen", skipped=message)
