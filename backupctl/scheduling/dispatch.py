"""From a due instant to a run row to a finished child process. `serve` and `run --due` both come through here, so that
both give the same runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import LIVE_STATES, Pause, Run
from backupctl.catalog.runs import FIRED
from backupctl.clock import Clock, iso
from backupctl.config.models import Settings
from backupctl.errors import SkippedError
from backupctl.scheduling.admission import Places, order, pause_of, paused, why_not
from backupctl.scheduling.calendar import Firing, Timetable, due
from backupctl.scheduling.following import chains
from backupctl.scheduling.identity import is_certainly_alive, is_certainly_dead
from backupctl.scheduling.timetables import is_configured, timetables

if TYPE_CHECKING:
    from backupctl.config.fleet import FleetSettings

log = logging.getLogger(__name__)

SILENT_FOR = timedelta(minutes=15)
"""A run of another machine without a heartbeat for this long is taken for dead (heartbeats come every 30 s)."""

STOPS_WITHIN = timedelta(minutes=5)
"""A worker that was asked to stop and still runs after this is written off: its next word is refused."""


def look(catalog: Catalog, clock: Clock, settings: Settings) -> list[Run]:
    """Everything that waits to be started, in the order in which it should: settle what is dead, put down what is due by
    the calendar, by a retry, or because something else ended. `ready` says which of it may begin."""
    settle(catalog, clock, settings.fleet)
    pauses = catalog.pauses(at=clock.now())
    fire(catalog, clock, timetables(settings), pauses)
    _follow(catalog, clock, settings, pauses)
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
    places = Places(settings, running)
    for run in waiting:
        reason = why_not(settings, pauses, places, run, now)
        if reason:
            log.info("%s %s waits: %s", run.kind, run.name, reason)
        else:
            chosen.append(run)
            places.take(run)
    return chosen


def settle(catalog: Catalog, clock: Clock, fleet: FleetSettings | None = None) -> list[Run]:
    """Close every run whose worker is gone, so that none stays `running` for ever; in a fleet another worker takes it over,
    unless that happened too often. The epoch moves on: if that worker was only asleep, its next word is refused. A worker
    of this machine that is there is no matter of clocks."""
    settled = []
    silent_for = fleet.stalled_after if fleet is not None else SILENT_FOR
    for run in catalog.runs(states=("running",)):
        now = clock.now()
        if run.stopping is not None and now - run.stopping > STOPS_WITHIN:
            closed = _cancelled(catalog, run, "it did not stop when asked")
        elif is_certainly_dead(run.worker) or (
            now - (run.heartbeat or run.started or run.created) > silent_for and not is_certainly_alive(run.worker)
        ):
            closed = _without_worker(catalog, run, fleet)
        else:
            continue
        if closed is not None:
            log.warning("run %s of %s %s: its worker is gone, marked %s", run.id, run.kind, run.name, closed.state)
            settled.append(closed)
    return settled


def _without_worker(catalog: Catalog, run: Run, fleet: FleetSettings | None) -> Run | None:
    times = int(run.options.get("taken_over", 0))
    if run.stopping is not None:
        return _cancelled(catalog, run, "its process ended before it heard of it")
    if fleet is None:
        return catalog.cancel(run.id, message="the worker process ended without finishing the run")
    if times >= fleet.takeovers:
        message = f"{times + 1} workers fell silent over it, the last: {run.worker.split(' ')[0]}"
        return catalog.cancel(run.id, message=message)
    message = (
        f"taken over: its worker on {run.worker.split(' ')[0]} is silent since {iso(run.heartbeat or run.created)}"
    )
    return catalog.take_over(run.id, run.epoch, message=message, options={**run.options, "taken_over": times + 1})


def _cancelled(catalog: Catalog, run: Run, how: str) -> Run | None:
    return catalog.cancel(run.id, message=f"{run.message}; {how}", state="cancelled")


def _follow(catalog: Catalog, clock: Clock, settings: Settings, pauses: Sequence[Pause]) -> None:
    """Queue what follows from runs that ended."""
    jobs = [
        job
        for job in settings.jobs.values()
        if job.schedule is not None
        and (job.schedule.then or job.schedule.retries)
        and pause_of(pauses, job.job) is None
    ]
    now = clock.now()
    followers = (stands.next for stands in chains(catalog, settings, jobs, now).values())
    catalog.enqueue_all(
        catalog.draft(one.kind, one.name, one.scheduled, trigger=one.trigger, options=one.options)
        for one in followers
        if one is not None and one.starts <= now
    )


def fire(catalog: Catalog, clock: Clock, timetables: Iterable[Timetable], pauses: Sequence[Pause] = ()) -> list[Run]:
    """Insert one queued run for everything that the calendar makes due now and return it, after those that an earlier
    process queued and never started. An instant that another process inserted first is left to it; one that comes while
    its job is paused is recorded as skipped, with the reason."""
    known = list(timetables)
    now = clock.now()
    last = catalog.newest([(one.kind, one.name) for one in known], triggers=FIRED, until=now)
    live: dict[tuple[str, str], list[Run]] = {}
    queued = []
    for run in reversed(catalog.runs(states=LIVE_STATES)):
        live.setdefault((run.kind, run.name), []).append(run)
        if run.state == "queued":
            queued.append(run)
    drafts: list[Run] = []
    replaced: dict[str, list[Run]] = {}
    for timetable in known:
        name = (timetable.kind, timetable.name)
        if name not in last:
            # what was never seen before owes nothing for the past; this row is the scheduler's memory that it has met it
            message = "first seen by the scheduler; nothing was due before"
            drafts.append(catalog.draft(*name, now, trigger="first_seen", skipped=message))
            continue
        for firing in due(timetable, last=last[name].scheduled, first_seen=now, now=now):
            pause = pause_of(pauses, timetable.job)
            going = live.get(name, [])
            reason = paused(pause, timetable.zone) if pause is not None else _left_out(timetable, firing, going)
            if reason is None:
                continue
            drafts.append(catalog.draft(*name, firing.scheduled, trigger=firing.trigger, skipped=reason))
            if not reason and timetable.overlap == "replace":
                replaced[drafts[-1].id] = going
    for run in catalog.enqueue_all(drafts):
        if run.state == "queued":
            queued.append(run)
            _replace(catalog, run, replaced.get(run.id, []))
        elif run.trigger != "first_seen":
            log.warning("%s %s at %s skipped: %s", run.kind, run.name, iso(run.scheduled), run.message)
    return queued


def _left_out(timetable: Timetable, firing: Firing, going: Sequence[Run]) -> str | None:
    """Why this firing is not to run, "" when it is; None leaves the instant for a later look. `going` are the runs of the
    same name that are queued or running, oldest first. `skip` records the instant as skipped, `queue` lets it wait unless
    one waits already, `replace` asks the running one to stop and waits for that. With `catch_up: all` what was missed waits
    for its turn, whatever the rule for what comes in time."""
    if not going:
        return ""
    if timetable.catch_up == "all" and firing.trigger == "catch_up":
        return None
    waiting = [one for one in going if one.state == "queued"]
    if timetable.overlap == "skip" or (timetable.overlap == "queue" and waiting):
        before = waiting[-1] if timetable.overlap == "queue" else going[0]
        return f"the run scheduled for {iso(before.scheduled)} was still {before.state}"
    return ""


def _replace(catalog: Catalog, run: Run, going: Sequence[Run]) -> None:
    reason = f"replaced by the run scheduled for {iso(run.scheduled)}"
    for one in going:
        if one.state == "queued":
            catalog.cancel(one.id, message=reason, state="skipped")
        elif catalog.ask_to_stop(one.id, message=reason):
            log.warning(
                "%s %s: the run scheduled for %s is asked to stop: %s", one.kind, one.name, iso(one.scheduled), reason
            )


def enqueue_now(
    catalog: Catalog,
    clock: Clock,
    kind: str,
    name: str,
    options: dict[str, object] | None = None,
    *,
    fleet: FleetSettings | None = None,
) -> Run:
    """A run that a person asks for now. Raises SkippedError when one of the same name still goes on."""
    settle(catalog, clock, fleet)
    going = catalog.runs(kind=kind, name=name, states=LIVE_STATES, limit=1)
    run = None if going else catalog.enqueue(kind, name, clock.now(), trigger="manual", options=options)
    if run is None:
        which = f"run {going[0].id}, {going[0].state} since {iso(going[0].created)}" if going else "one this instant"
        raise SkippedError(
            f"a {kind} of {name} already goes on: {which}", next_step="wait for it: backupctl runs --live"
        )
    return run
