"""What one run makes due: another attempt after a failure that may pass, and the steps of `then` after a complete backup.

Both are read from the configuration and the runs in the catalog, at any time and by anybody, with the same answer: the
follower of a run is scheduled for an instant that follows from that run's own row, so that it exists once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import LIVE_STATES, Run
from backupctl.config.models import Job, Settings
from backupctl.config.scheduling import Retries
from backupctl.scheduling.calendar import Firing, jitter_of
from backupctl.scheduling.timetables import job_of

BY_SCHEDULE = ("schedule", "catch_up", "retry")
"""Triggers of backups that others follow. Who backs up by hand also says what comes next."""


@dataclass(slots=True)
class Chain:
    """What follows a backup. `done` begins with the backup itself; `next` is due now; `waiting` was started and goes on;
    `broken` ended so that nothing follows it; `left` are the steps that are still to come, in order."""

    done: list[Run] = field(default_factory=list)
    next: Firing | None = None
    waiting: Run | None = None
    broken: Run | None = None
    left: list[tuple[str, str]] = field(default_factory=list)


def steps(job: Job) -> list[tuple[str, str]]:
    """(kind, name) of what follows the job's backup, in order."""
    found: list[tuple[str, str]] = []
    for step in job.schedule.then if job.schedule is not None else ():
        if step == "check":
            found.append(("check", job.repository))
        elif step == "drill":
            found += [("drill", f"{job.job}/{name}") for name, drill in job.drills.items() if drill.cron is None]
        else:
            found.append((step, job.job))
    return found


def ended_well(run: Run) -> bool:
    """Complete, warnings or not. The exit code of a check or drill is its verdict: 0 is `pass` and nothing else."""
    return run.state == "complete" and run.exit_code in (0, 3)


def may_pass(run: Run) -> bool:
    """Whether a run ended in a way that may be gone next time: what it met was transient, or its process was killed."""
    killed = run.state == "failed" and run.exit_code is None
    return killed or (run.state in ("failed", "incomplete") and bool(run.summary.get("transient")))


def retries_of(settings: Settings, run: Run) -> Retries | None:
    job = settings.jobs.get(job_of(run)) if run.kind != "drill" else None  # a drill that could not run says so
    return job.schedule.retries if job is not None and job.schedule is not None else None


def retry_of(settings: Settings, run: Run) -> Firing | None:
    """The next attempt of a run that ended, when there is one. It begins later by the time to wait."""
    policy, attempt = retries_of(settings, run), int(run.options.get("attempt", 1))
    if policy is None or run.finished is None or run.trigger == "manual" or not may_pass(run) or attempt > policy.times:
        return None
    wait = min(policy.wait * 2 ** min(attempt - 1, 30), policy.longest)
    at = run.finished + wait + jitter_of(run.id, wait / 10)  # not all of a fleet at once when the store is back
    options = {**run.options, "attempt": attempt + 1, "retry_of": run.id}
    return Firing(run.kind, run.name, at, at, "retry", options)


Lookup = tuple[str, str, datetime]
_Asking = Generator[Lookup, "Run | None", None]
"""Asks for runs by (kind, name, scheduled), one after the other, and is sent each, or None where there is none."""


def chain(catalog: Catalog, settings: Settings, job: Job, now: datetime) -> Chain:
    """Where the steps after the job's newest backup stand. An earlier backup's are not gone on with."""
    return chains(catalog, settings, [job], now)[job.job]


def chains(catalog: Catalog, settings: Settings, jobs: Iterable[Job], now: datetime) -> dict[str, Chain]:
    """The same for many jobs: each round of questions is one statement for all of them. The newest backup of a job is the
    newest that the schedule started and that really ran, or runs."""
    found = {job.job: Chain(left=steps(job)) for job in jobs}
    names = [("backup", name) for name in found]
    newest = catalog.newest(names, triggers=BY_SCHEDULE, skipped=False, until=now)
    asking: list[tuple[_Asking, Lookup]] = []
    for (_, name), last in newest.items():
        one = _follow(settings, found[name], last)
        asking += _next_question(one, None, first=True)
    while asking:
        answers = catalog.at({key for _, key in asking})
        asking = [more for one, key in asking for more in _next_question(one, answers.get(key))]
    return found


def _next_question(one: _Asking, answer: Run | None, *, first: bool = False) -> list[tuple[_Asking, Lookup]]:
    try:
        return [(one, next(one) if first else one.send(answer))]
    except StopIteration:
        return []


def _follow(settings: Settings, found: Chain, last: Run) -> _Asking:
    if not (yield from _stands(settings, found, last)):
        return
    while found.left:
        kind, name = found.left[0]
        before = found.done[-1].finished
        assert before is not None
        run = yield kind, name, before
        if run is None:
            options = {"job": last.name, "after": found.done[-1].id}
            found.next = Firing(kind, name, before, before, "after", options)
            return
        del found.left[0]
        if not (yield from _stands(settings, found, run)):
            return


def _stands(settings: Settings, found: Chain, run: Run) -> Generator[Lookup, Run | None, bool]:
    """Note how this run, or its last retry, ended; False when nothing follows it, or not yet."""
    while True:
        if run.state in LIVE_STATES:
            found.waiting = run
            return False
        again = retry_of(settings, run)
        if again is None:
            break
        later = yield run.kind, run.name, again.scheduled
        if later is None:
            found.next = again
            return False
        run = later
    if not ended_well(run) and run.kind != "drill":  # one drill's verdict is no reason to leave out another
        found.broken = run
        return False
    found.done.append(run)
    return True
