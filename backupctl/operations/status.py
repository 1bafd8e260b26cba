"""What should exist against what is in the repository. Freshness is judged from snapshots that are really there, never from
what a run said of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from backupctl.catalog.models import Drill, Run
from backupctl.config.durations import format_duration
from backupctl.config.models import Job
from backupctl.errors import UserError
from backupctl.operations.anomalies import remembered, unsettled
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, of_job
from backupctl.operations.wal_status import log_point
from backupctl.repository.fence import require_epoch
from backupctl.repository.format.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot of a job, as far as freshness is concerned."""

    id: str
    time: datetime
    complete: bool
    rewritten: bool = False
    marked: Snapshot | None = None  # itself, where it is suspicious and the repository was asked


@dataclass(slots=True)
class CopyStatus:
    """One copy of a job, judged like the primary: by the snapshots that are really in it. `state` as in JobStatus."""

    job: str
    repository: str
    state: str = "ok"
    newest: datetime | None = None  # newest complete snapshot in the copy
    newest_id: str = ""
    age_seconds: float | None = None
    rpo_seconds: float = 0.0
    snapshots: int = 0
    behind: int | None = None  # complete snapshots of the primary newer than that; None: the primary cannot be asked
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class DrillStatus:
    """The last time that one drill of a job was run; `verdict` is empty when it never was. `missed`: in words, which
    objective the job's objectives of today would have been missed by it."""

    job: str
    drill: str
    verdict: str = ""
    level: int | None = None
    declared: datetime | None = None
    rto_seconds: float | None = None
    rpo_seconds: float | None = None
    missed: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(slots=True)
class JobStatus:
    """`state`: ok, stale (newest complete snapshot older than the RPO, or none), unreachable."""

    job: str
    repository: str
    state: str = "ok"
    newest: datetime | None = None  # newest complete snapshot
    newest_id: str = ""
    newest_any: datetime | None = None  # incomplete ones too: that something ran
    age_seconds: float | None = None
    rpo_seconds: float = 0.0
    rto_seconds: float = 0.0
    snapshots: int = 0
    incomplete_since: int = 0  # incomplete snapshots newer than `newest`
    suspicious: int = 0  # snapshots that look attacked and that nobody has looked at
    last_run: str = ""
    run: Run | None = None  # that one, where the catalog knows it
    last_drill: str = ""
    last_drill_at: datetime | None = None
    level: int | None = None
    drills: list[DrillStatus] = field(default_factory=list)
    copies: list[CopyStatus] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)  # what is so, and asks nobody to do anything
    notes: list[str] = field(default_factory=list)  # what somebody should look at

    def fields(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "run"}
        return found | {
            "copies": [one.fields() for one in self.copies],
            "drills": [one.fields() for one in self.drills],
        }


def status(context: Context, jobs: list[Job], *, ask: bool = True) -> list[JobStatus]:
    """Without `ask`, by the snapshots that the catalog knows: no key and no repository is needed."""
    return [_status_of(context, job, ask) for job in jobs]


def _snapshots(context: Context, name: str, job: str, ask: bool) -> list[Seen]:
    """Oldest first. Raises UserError when the repository cannot be asked."""
    if not ask:
        rows = context.catalog.snapshots(job=job, repository=name)
        return [Seen(row.id, row.time, row.status == "complete") for row in reversed(rows)]
    found = []
    for one in of_job(context.resources.repository(name).snapshots(), job):
        tags = SnapshotTags.of(one)
        found.append(Seen(one.id, one.time, tags.complete, tags.rewritten, one if tags.suspicious else None))
    return found


def _status_of(context: Context, job: Job, ask: bool) -> JobStatus:
    objectives = job.objectives
    found = JobStatus(job.job, job.repository, rpo_seconds=objectives.rpo.total_seconds())
    found.rto_seconds = objectives.rto.total_seconds()
    _look_at_runs(context, job, found)
    _look_at_drills(context, job, found)
    try:
        mine = _snapshots(context, job.repository, job.job, ask)
    except UserError as error:
        found.state = "unreachable"
        found.notes.append(error.message)
        found.copies = [_copy_status(context, job, name, None, ask) for name in job.copies]
        return found
    marked = [one.marked for one in mine if one.marked is not None]
    found.suspicious, notes = unsettled(context, job, marked) if ask else remembered(context, job)
    found.notes += notes
    complete = [one for one in mine if one.complete]
    found.copies = [_copy_status(context, job, name, complete, ask) for name in job.copies]
    found.snapshots = len(mine)
    found.newest_any = mine[-1].time if mine else None
    if not found.last_run and mine:  # another machine's: what it left is what is known
        found.last_run = "complete" if mine[-1].complete else "incomplete"
    if rewritten := [one.id[:8] for one in mine if one.rewritten]:
        found.notes.append(f"{', '.join(rewritten)}: rewritten by another program, and so of no job's run: not counted")
    if not complete:
        found.state = "stale"
        found.notes.append("there is no complete snapshot")
        return found
    found.newest, found.newest_id = complete[-1].time, complete[-1].id
    found.incomplete_since = sum(one.time > found.newest for one in mine)
    if found.incomplete_since:
        found.notes.append(f"{found.incomplete_since} incomplete since the newest complete snapshot")
    if ask:
        _look_at_epoch(context, job, found)
    point = log_point(context, job, complete[-1].id, found.facts, found.notes) if ask else None
    found.age_seconds = (context.clock.now() - (point or found.newest)).total_seconds()
    if found.age_seconds > found.rpo_seconds:
        found.state = "stale"
    return found


def _look_at_epoch(context: Context, job: Job, found: JobStatus) -> None:
    try:
        require_epoch(context.resources.repository(job.repository), job.job, job.epoch)
    except UserError as error:
        found.notes.append(error.message)


def _copy_status(context: Context, job: Job, name: str, primary: Sequence[Seen] | None, ask: bool) -> CopyStatus:
    """`primary`: the complete snapshots there, oldest first."""
    found = CopyStatus(job.job, name, rpo_seconds=job.objectives.rpo.total_seconds())
    try:
        mine = _snapshots(context, name, job.job, ask)
    except UserError as error:
        found.state = "unreachable"
        found.notes.append(error.message)
        return found
    complete = [one for one in mine if one.complete]
    found.snapshots = len(mine)
    if complete:
        found.newest, found.newest_id = complete[-1].time, complete[-1].id
        found.age_seconds = (context.clock.now() - found.newest).total_seconds()
    if primary is not None:
        found.behind = sum(found.newest is None or one.time > found.newest for one in primary)
    if found.age_seconds is None or found.age_seconds > found.rpo_seconds:
        found.state = "stale"
    catch_up = f"backupctl copy {job.job} --to {name}"
    if not complete:
        there = primary is None or bool(primary)  # else there is nothing that could be copied
        found.notes.append(f"there is no complete snapshot of {job.job}" + (f"; {catch_up}" if there else ""))
    elif found.behind:
        found.notes.append(f"lacks the newest {found.behind} complete snapshot(s) of {job.job}; {catch_up}")
    return found


def _look_at_runs(context: Context, job: Job, found: JobStatus) -> None:
    runs = context.catalog.runs(kind="backup", name=job.job, limit=20)
    real = [run for run in runs if run.trigger != "first_seen"]
    if not real:
        return
    found.run, found.last_run = real[0], real[0].state
    if real[0].state in ("failed", "incomplete", "cancelled"):
        found.notes.append(f"last run {real[0].state}: {real[0].message}")
    elif real[0].state == "complete" and real[0].exit_code:
        found.notes.append(f"last run complete, with warnings: {real[0].message}")


def _look_at_drills(context: Context, job: Job, found: JobStatus) -> None:
    """The newest drill, and a note for every configured one that did not pass the last time or never ran."""
    newest = context.catalog.drills(job=job.job, limit=1)
    if not newest:
        found.notes.append("never drilled: nobody has proven that it can be restored")
        found.drills = [DrillStatus(job.job, name) for name in job.drills]
        return
    found.last_drill, found.last_drill_at, found.level = newest[0].verdict, newest[0].declared, newest[0].level
    for name in job.drills:
        last = context.catalog.drills(drill=f"{job.job}/{name}", limit=1)
        if not last:
            found.drills.append(DrillStatus(job.job, name))
            found.notes.append(f"drill {name} never ran")
            continue
        missed = _missed(job, last[0])
        found.drills.append(_drill_status(name, last[0], missed))
        if last[0].verdict != "pass":
            reasons = [str(reason) for reason in last[0].reasons]
            more = f" (and {len(reasons) - 1} more: backupctl drill show {job.job}/{name})" if reasons[1:] else ""
            first = f": {reasons[0]}" if reasons else ""
            found.notes.append(f"last drill {name}: {last[0].verdict}{first}{more}")
        elif missed or last[0].reasons:
            found.notes.append(f"last drill {name}: pass, but {missed[0] if missed else last[0].reasons[0]}")


def _drill_status(name: str, last: Drill, missed: list[str]) -> DrillStatus:
    times = (last.rto_seconds, last.rpo_seconds)
    return DrillStatus(last.job, name, last.verdict, last.level, last.declared, *times, tuple(missed))


def _missed(job: Job, last: Drill) -> list[str]:
    """By the objectives of today: those of that day may have been other ones."""
    pairs = (
        ("recovery took", last.rto_seconds, "RTO", job.objectives.rto),
        ("data were lost for", last.rpo_seconds, "RPO", job.objectives.rpo),
    )
    return [
        f"{what} {format_duration(timedelta(seconds=round(took)))}, the {name} is {format_duration(objective)}"
        for what, took, name, objective in pairs
        if took is not None and took > objective.total_seconds()
    ]
