"""Whether a queued run may begin now, and if not, why not in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from backupctl.catalog.models import Pause, Run
from backupctl.clock import to_zone
from backupctl.config.models import Settings
from backupctl.errors import SkippedError
from backupctl.scheduling.timetables import job_of

KINDS = ("stretch", "backup", "check", "prune", "copy", "refresh", "drill")


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


class Places:
    """What runs, counted as the limits of the configuration count it."""

    def __init__(self, settings: Settings, running: Iterable[Run]) -> None:
        self._settings = settings
        self._ids: set[str] = set()
        self._names: Counter[tuple[str, str]] = Counter()
        self._hosts: Counter[str] = Counter()
        self._repositories: Counter[str] = Counter()
        for run in running:
            self.take(run)

    def take(self, run: Run) -> None:
        if run.id in self._ids:
            return
        self._ids.add(run.id)
        self._names[run.kind, run.name] += 1
        hosts, repositories = uses(self._settings, run.kind, run.name)
        self._hosts.update(hosts)
        self._repositories.update(repositories)

    def full(self, run: Run) -> str:
        """Which limit is reached, or which run of the same name goes on; "" when there is a place for this one."""
        settings = self._settings
        if self._names[run.kind, run.name]:
            return f"the last {run.kind} of {run.name} still runs"
        total = settings.concurrency.total
        if total is not None and len(self._ids) >= total:
            return f"{len(self._ids)} run(s) go on, and concurrency.total is {total}"
        hosts, repositories = uses(settings, run.kind, run.name)
        for host in sorted(hosts):
            limit = settings.hosts[host].concurrency if host in settings.hosts else None
            limit, count = limit or settings.concurrency.host, self._hosts[host]
            if limit is not None and count >= limit:
                return f"{count} run(s) on host {host} go on, and its limit is {limit}"
        for name in sorted(repositories):
            limit = settings.repositories[name].concurrency if name in settings.repositories else None
            limit, count = limit or settings.concurrency.repository, self._repositories[name]
            if limit is not None and count >= limit:
                return f"{count} run(s) in repository {name} go on, and its limit is {limit}"
        return ""


def why_not(settings: Settings, pauses: Iterable[Pause], places: Places, run: Run, now: datetime) -> str:
    """Why this queued run may not begin now, "" when it may. Who asks for a run by name waits for none of this."""
    if run.trigger == "manual":
        return ""
    return _not_now(settings, pauses, run, now) or places.full(run)


def _not_now(settings: Settings, pauses: Iterable[Pause], run: Run, now: datetime) -> str:
    job = settings.jobs.get(job_of(run))
    zone = job.timezone if job is not None else settings.defaults.timezone
    pause = pause_of(pauses, job_of(run))
    if pause is not None:
        return paused(pause, zone)
    if job is not None and job.schedule is not None:
        wall = to_zone(now, job.schedule.timezone or job.timezone)
        if not job.schedule.permits(wall):
            return f"{wall:%a %H:%M} is outside its windows"
    return ""


def admit(settings: Settings, pauses: Iterable[Pause], run: Run, running: Sequence[Run], now: datetime) -> None:
    """Raises SkippedError when it may not begin after all: a limit is reached, its job is paused, its window has closed since
    it was handed out. The catalog asks it at the moment of the claim, so that nobody gets in between."""
    reason = why_not(settings, pauses, Places(settings, (one for one in running if one.id != run.id)), run, now)
    if reason:
        raise SkippedError(f"{run.kind} {run.name} waits: {reason}", next_step="backupctl schedule explain")


def uses(settings: Settings, kind: str, name: str) -> tuple[set[str], set[str]]:
    """The hosts and repositories that a run works on."""
    if kind == "check":
        return set(), {name} & settings.repositories.keys()
    name, _, part = name.partition("/")
    job = settings.jobs.get(name)
    if job is None:
        return set(), set()
    if kind == "stretch":
        source = job.sources.get(part.partition("/")[0])
        return ({source.host} if source is not None else set()), {job.repository}
    if kind == "drill":
        return {job.drills[part].on} if part in job.drills else set(), {job.repository}
    if kind == "refresh":
        followers = [one for one in settings.standby.values() if name in one.jobs]
        repositories = {
            settings.jobs[each].repository for one in followers for each in one.jobs if each in settings.jobs
        }
        return {one.host for one in followers}, repositories
    hosts = {source.host for source in job.sources.values()} if kind == "backup" else set()
    return hosts, {job.repository, *job.copies}
