"""What should exist against what is in the repository. Freshness is judged from snapshots that are really there, never from
what a run said of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.config.models import Job
from backupctl.errors import UserError
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, of_job


@dataclass(slots=True)
class JobStatus:
    """`state`: ok, stale (newest complete snapshot older than the RPO, or none), unreachable."""

    job: str
    repository: str
    state: str = "ok"
    newest: datetime | None = None  # newest complete snapshot
    age_seconds: float | None = None
    rpo_seconds: float = 0.0
    snapshots: int = 0
    incomplete_since: int = 0  # incomplete snapshots newer than `newest`
    last_run: str = ""
    last_drill: str = ""
    last_drill_at: datetime | None = None
    level: int | None = None
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def status(context: Context, jobs: list[Job]) -> list[JobStatus]:
    return [_status_of(context, job) for job in jobs]


def _status_of(context: Context, job: Job) -> JobStatus:
    found = JobStatus(job.job, job.repository, rpo_seconds=job.objectives.rpo.total_seconds())
    runs = context.catalog.runs(kind="backup", name=job.job, limit=20)
    real = [run for run in runs if run.trigger != "first_seen"]
    if real:
        found.last_run = real[0].state
        if real[0].state in ("failed", "incomplete", "cancelled"):
            found.notes.append(f"last run {real[0].state}: {real[0].message}")
    drills = context.catalog.drills(job=job.job, limit=1)
    if drills:
        found.last_drill, found.last_drill_at, found.level = drills[0].verdict, drills[0].declared, drills[0].level
        if drills[0].verdict != "pass":
            found.notes.append(f"last drill: {drills[0].verdict}: {'; '.join(map(str, drills[0].reasons))}")
    else:
        found.notes.append("never drilled: nobody has proven that it can be restored")
    try:
        mine = of_job(context.resources.repository(job.repository).snapshots(), job.job)
    except UserError as error:
        found.state = "unreachable"
        found.notes.append(error.message)
        return found
    complete = [one for one in mine if SnapshotTags.of(one).complete]
    found.snapshots = len(mine)
    if not complete:
        found.state = "stale"
        found.notes.append("there is no complete snapshot")
        return found
    found.newest = complete[-1].time
    found.incomplete_since = sum(one.time > found.newest for one in mine)
    found.age_seconds = (context.clock.now() - found.newest).total_seconds()
    if found.age_seconds > found.rpo_seconds:
        found.state = "stale"
    return found
