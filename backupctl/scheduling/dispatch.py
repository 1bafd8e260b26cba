"""From a due instant to a run row to a finished child process. `serve` and `run --due` both come through here, so that
both give the same runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import LIVE_STATES, Run
from backupctl.clock import Clock, iso
from backupctl.errors import SkippedError
from backupctl.scheduling.calendar import Firing, Timetable, due
from backupctl.scheduling.identity import is_certainly_dead

log = logging.getLogger(__name__)

SILENT_FOR = timedelta(minutes=15)
"""A run of another machine without a heartbeat for this long is taken for dead (heartbeats come every 30 s)."""


def settle(catalog: Catalog, clock: Clock) -> list[Run]:
    """Close every run whose worker is gone, so that none stays `running` for ever. The epoch moves on: if that worker
    was only asleep, its next word is refused."""
    settled = []
    for run in catalog.runs(states=("running",)):
        last_word = run.heartbeat or run.started or run.created
        if is_certainly_dead(run.worker) or clock.now() - last_word > SILENT_FOR:
            closed = catalog.cancel(run.id, message="the worker process ended without finishing the run")
            if closed is not None:
                log.warning("run %s of %s %s: its worker is gone, marked failed", run.id, run.kind, run.name)
                settled.append(closed)
    return settled


def fire(catalog: Catalog, clock: Clock, timetables: Iterable[Timetable]) -> list[Run]:
    """Insert one queued run for everything that is due now and return the ones to execute, plus those that an earlier
    process queued and never started. An instant that another process inserted first is left to it."""
    queued = list(reversed(catalog.runs(states=("queued",))))
    for timetable in timetables:
        last = catalog.last_scheduled(timetable.kind, timetable.name)
        now = clock.now()
        if last is None:
            _remember_first_sight(catalog, timetable, now)
            continue
        for firing in due(timetable, last=last, first_seen=now, now=now):
            run = enqueue(catalog, firing)
            if run is not None:
                queued.append(run)
    return queued


def enqueue(catalog: Catalog, firing: Firing, options: dict[str, object] | None = None) -> Run | None:
    """The run of one firing, or None when it exists already or when the previous run of the same name still goes on
    (then the instant is recorded as skipped, with the reason)."""
    going = catalog.runs(kind=firing.kind, name=firing.name, states=LIVE_STATES, limit=1)
    run = catalog.enqueue(firing.kind, firing.name, firing.scheduled, trigger=firing.trigger, options=options)
    if run is None or not going:
        return run
    reason = f"the run scheduled for {iso(going[0].scheduled)} was still {going[0].state}"
    catalog.cancel(run.id, message=reason, state="skipped")
    log.warning("%s %s at %s skipped: %s", firing.kind, firing.name, iso(firing.scheduled), reason)
    return None


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
    run = catalog.enqueue(timetable.kind, timetable.name, now, trigger="first_seen")
    if run is not None:
        catalog.cancel(run.id, message="first seen by the scheduler; nothing was due before", state="skipped")
