"""How far behind the newest backup each standby is: told from the repository, where every refresh leaves a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.durations import format_duration
from backupctl.config.models import Job
from backupctl.config.standby import StandbySettings
from backupctl.errors import UserError
from backupctl.operations.binlog_status import newest_commit
from backupctl.operations.context import Context
from backupctl.operations.records import of_job
from backupctl.operations.standby import PROMOTED, REFRESHED, open_place, records_of
from backupctl.operations.standby_mariadb import server_of
from backupctl.operations.standby_servers import Servers
from backupctl.operations.wal_status import status_of
from backupctl.repository.fence import find_fence
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.sources.wal_format import parse_lsn


@dataclass(slots=True)
class StandbyStatus:
    """The files of one job on one standby, or one server, as JOB/SOURCE. `state`: ok; behind, by more than its objective; never,
    nothing was put there yet; promoted, it is no standby any more; unreachable, the repository cannot be asked. `lag_seconds`:
    from what lies there to the newest complete backup, by the time of their data; of a server from the last commit that it has
    replayed to the last that is stored."""

    standby: str
    job: str
    host: str
    state: str = "ok"
    snapshot: str = ""
    applied: datetime | None = None
    newest: datetime | None = None
    refreshed: datetime | None = None
    lag_seconds: float | None = None
    objective_seconds: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def missed(self) -> str:
        """The objective that is missed, in words; "" when none is."""
        if self.objective_seconds is None or self.state not in ("behind", "never"):
            return ""
        return f"standby {self.standby}: {self.job} " + (
            "was never put there" if self.state == "never" else "is behind by more than its objective"
        )

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def standbys(context: Context, *, names: tuple[str, ...] = (), ask: bool = True) -> list[StandbyStatus]:
    """Of all, or those named. Without `ask` by the catalog alone: what this machine refreshed, and the snapshots it knows."""
    found = []
    for name, settings in context.settings.standby.items():
        if not names or name in names:
            for job in settings.jobs:
                found += _status_of(context, name, settings, job, ask)
    return found


def _status_of(context: Context, name: str, settings: StandbySettings, job_name: str, ask: bool) -> list[StandbyStatus]:
    """The job's files, then each of its servers."""
    job = context.job(job_name)
    found = StandbyStatus(name, job_name, settings.host)
    found.objective_seconds = settings.lag.total_seconds() if settings.lag is not None else None
    newest: Snapshot | None = None
    try:
        if ask:
            repository = context.resources.repository(job.repository)
            complete = of_job(repository.snapshots(), job_name, complete_only=True)
            newest = complete[-1] if complete else None
            times = [one.time for one in complete]
            records = [facts for _, facts in records_of(repository)]
            fences = [find_fence(repository, job_name, epoch) for epoch in (job.epoch, job.epoch + 1)]
            promoted = any(one and (one.standby, one.host) == (name, settings.host) for one in fences)
        else:
            rows = context.catalog.snapshots(job=job_name, repository=job.repository)
            times = [row.time for row in rows if row.status == "complete"]
            events = context.catalog.events_of([REFRESHED, PROMOTED], name)
            records = [event.detail for event in events if event.action == REFRESHED]
            promoted = bool(events) and events[-1].action == PROMOTED
    except UserError as error:
        found.state = "unreachable"
        found.notes.append(error.message)
        return [found]
    found.newest = max(times, default=None)
    mine = [one for one in records if (one["standby"], one["job"]) == (name, job_name)]
    if not mine:
        found.state = "never"
        found.notes.append(f"nothing was put there yet: backupctl standby refresh {name}")
        return [found]
    last = mine[-1]
    found.snapshot, found.applied = last["snapshot"], parse_iso(last["snapshot_time"])
    found.refreshed = parse_iso(last["refreshed"])
    if promoted:
        found.state = "promoted"
        return [found]
    if not last.get("whole"):
        found.notes.append(f"the last refresh has left something out: backupctl standby refresh {name}")
    if last["host"] != settings.host:
        found.notes.append(f"it was refreshed on host {last['host']}, and is on {settings.host} by the configuration")
    if found.newest is not None:
        _judge(found, max(0.0, (found.newest - found.applied).total_seconds()))
    servers = last.get("servers", {})
    return [found, *(_server(context, job, found, source, facts, newest) for source, facts in sorted(servers.items()))]


def _judge(found: StandbyStatus, lag_seconds: float) -> None:
    found.lag_seconds = lag_seconds
    if found.objective_seconds is not None and lag_seconds > found.objective_seconds:
        found.state = "behind"
        shown = format_duration(timedelta(seconds=found.objective_seconds))
        found.notes.append(f"further behind than {shown}: backupctl standby refresh {found.standby}")


def _server(
    context: Context, job: Job, files: StandbyStatus, source: str, facts: dict[str, Any], newest: Snapshot | None
) -> StandbyStatus:
    """As the last refresh found it, beside what is archived by now; without `newest` beside what was archived then."""
    found = StandbyStatus(files.standby, f"{job.job}/{source}", files.host, refreshed=files.refreshed)
    found.objective_seconds = files.objective_seconds
    found.applied, found.newest = parse_iso(facts["commit"]), parse_iso(facts["archived"])
    behind = found.applied < found.newest
    if newest is not None:
        try:
            found.newest, behind = _stored(context.resources.repository(job.repository), newest, source, facts)
        except UserError as error:
            found.state = "unreachable"
            found.notes.append(error.message)
            return found
    _judge(found, max(0.0, (found.newest - found.applied).total_seconds()) if behind else 0.0)
    if not facts["recovering"]:
        found.state = "promoted"
    return found


def _stored(repository: Repository, newest: Snapshot, source: str, facts: dict[str, Any]) -> tuple[datetime, bool]:
    """The last commit that is stored of a server's log by now; and whether the server is not there yet."""
    commit = parse_iso(facts["commit"])
    if facts.get("kind") == "mariadb":
        until = max(
            parse_iso(facts["archived"]), newest_commit(repository, server_of(repository, newest, source)) or commit
        )
        return until, until > commit
    archive = status_of(repository, newest, source)
    return archive.until, parse_lsn(facts["lsn"]) < archive.lsn_end


def look_now(context: Context, found: list[StandbyStatus]) -> None:
    """Where each server is at this moment, asked of itself; what cannot be asked is noted at its files. Raises nothing that a host
    or a server says."""
    for files in [one for one in found if "/" not in one.job and one.state in ("ok", "behind")]:
        settings, job = context.settings.standby[files.standby], context.job(files.job)
        servers = {one.job.partition("/")[2]: one for one in found if _is_of(one, files)}
        try:
            repository = context.resources.repository(job.repository)
            newest = of_job(repository.snapshots(), job.job, complete_only=True)[-1]
            place = open_place(context, files.standby)
            place.require()
            for now in Servers(context, place, settings, job).look(repository, newest):
                if (one := servers.pop(now.source, None)) is not None:
                    one.state = "ok" if now.recovering else "promoted"
                    one.applied, one.newest, one.notes = now.commit, now.archived, list(now.notes)
                    _judge(one, now.lag_seconds)
        except UserError as error:
            files.notes.append(f"its servers cannot be asked: {error.message}")
            continue
        for one in servers.values():
            one.notes.append(f"it does not run: backupctl standby refresh {files.standby}")


def _is_of(one: StandbyStatus, files: StandbyStatus) -> bool:
    return one.standby == files.standby and one.job.startswith(f"{files.job}/")
