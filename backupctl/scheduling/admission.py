"""Whether a queued run may begin now, and if not, why not in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from backupctl.catalog.models import Pause, Run
from backupctl.clock import to_zone
from backupctl.config.models import Settings
from backupctl.errors import SkippedError
from backupctl.scheduling.timetables import job_of

KINDS = ("backup", "check", "prune", "copy", "drill")


def pause_of(pauses: Iterable[Pause], job: str) -> Pause | None:
    """The pause that keeps this job from running; with job "" (a repository's check) only one of everything."""
    return next((pause for pause in pauses if pause.job in ("", job)), None)


def paused(pause: Pause, zone: str) -> str:
    what = "everything is paused" if pause.job == "" else "paused"
    return f"{what} until {to_zone(pause.until, zone):%a %Y-%m-%d %H:%M} by {pause.owner}: {pause.reason}"


def order(settings: Settings, run: Run) -> tuple[int, datetime, int, str]:
    """Sorts what waits: by priority, then by who was due first."""
    job = settings.jobs.get(job_of(run))
    priority = job.schedule.priority if job is not None and job.schedule is not None else 0
    return -priority, run.scheduled, KINDS.index(run.kind) if run.kind in KINDS else len(KINDS), run.name


def why_not(settings: Settings, pauses: Iterable[Pause], running: Sequence[Run], run: Run, now: datetime) -> str:
    """Why this queued run may not begin now, "" when it may. Who asks for a run by name waits for none of this."""
    if run.trigger == "manual":
        return ""
    job = settings.jobs.get(job_of(run))
    zone = job.timezone if job is not None else settings.defaults.timezone
    pause = pause_of(pauses, job_of(run))
    if pause is not None:
        return paused(pause, zone)
    if job is not None and job.schedule is not None:
        wall = to_zone(now, job.schedule.timezone or job.timezone)
        if not job.schedule.permits(wall):
            return f"{wall:%a %H:%M} is outside its windows"
    return full(settings, running, run)


def admit(settings: Settings, run: Run, running: Sequence[Run]) -> None:
    """Raises SkippedError when a limit or a run of the same name leaves no place. The catalog asks it at the moment of the
    claim, so that nobody gets in between."""
    reason = "" if run.trigger == "manual" else full(settings, running, run)
    if reason:
        raise SkippedError(f"{run.kind} {run.name} waits: {reason}", next_step="backupctl schedule explain")


def full(settings: Settings, running: Sequence[Run], run: Run) -> str:
    """Which limit is reached, or which run of the same name goes on; "" when there is a place."""
    others = [one for one in running if one.id != run.id]
    if any((one.kind, one.name) == (run.kind, run.name) for one in others):
        return f"the last {run.kind} of {run.name} still runs"
    total = settings.concurrency.total
    if total is not None and len(others) >= total:
        return f"{len(others)} run(s) go on, and concurrency.total is {total}"
    used = [uses(settings, one) for one in others]
    hosts, repositories = uses(settings, run)
    for host in sorted(hosts):
        limit = settings.hosts[host].concurrency if host in settings.hosts else None
        limit, count = limit or settings.concurrency.host, sum(host in one for one, _ in used)
        if limit is not None and count >= limit:
            return f"{count} run(s) on host {host} go on, and its limit is {limit}"
    for name in sorted(repositories):
        limit = settings.repositories[name].concurrency if name in settings.repositories else None
        limit, count = limit or settings.concurrency.repository, sum(name in one for _, one in used)
        if limit is not None and count >= limit:
            return f"{count} run(s) in repository {name} go on, and its limit is {limit}"
    return ""


def uses(settings: Settings, run: Run) -> tuple[set[str], set[str]]:
    """The hosts and repositories that a run works on."""
    if run.kind == "check":
        return set(), {run.name}
    name, _, drill = run.name.partition("/")
    job = settings.jobs.get(name)
    if job is None:
        return set(), set()
    if run.kind == "drill":
        return {job.drills[drill].on} if drill in job.drills else set(), {job.repository}
    hosts = {source.host for source in job.sources.values()} if run.kind == "backup" else set()
    return hosts, {job.repository, *job.copies}
