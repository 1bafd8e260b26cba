"""What should exist against what is in the repository. Freshness is judged from snapshots that are really there, never from
what a run said of itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import UserError
from backupctl.operations.check import coverage_now, missed_reading
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, of_job
from backupctl.repository.format.snapshot import Snapshot


@dataclass(slots=True)
class CopyStatus:
    """One copy of a job, judged like the primary: by the snapshots that are really in it. `state` as in JobStatus."""

    job: str
    repository: str
    state: str = "ok"
    newest: datetime | None = None  # newest complete snapshot in the copy
    age_seconds: float | None = None
    rpo_seconds: float = 0.0
    snapshots: int = 0
    behind: int | None = None  # complete snapshots of the primary newer than that; None: the primary cannot be asked
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


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
    copies: list[CopyStatus] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what somebody should look at

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "copies": [one.fields() for one in self.copies]
        }


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """The last check of a repository, as the catalog remembers it; `verdict` is empty when there was none."""

    repository: str
    verdict: str = ""
    mode: str = ""
    checked_at: datetime | None = None
    age_seconds: float | None = None
    problems: int = 0
    read_or_written_since: datetime | None = None  # true of every stored byte
    never_read_bytes: int | None = None
    within_seconds: float | None = None  # the objective for that
    unread: bool = False  # the objective is missed
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def status(context: Context, jobs: list[Job]) -> list[JobStatus]:
    return [_status_of(context, job) for job in jobs]


def repositories_of(context: Context, jobs: list[Job]) -> list[RepositoryStatus]:
    """Every repository these jobs back up to, or are copied into."""
    names = dict.fromkeys(name for job in jobs for name in (job.repository, *job.copies))
    return [_read(context, _checked(context, name)) for name in names]


def _read(context: Context, found: RepositoryStatus) -> RepositoryStatus:
    """With what the ledger of reading says: now, where there is an objective; else as the last check left it."""
    configured = context.settings.repositories[found.repository].check
    if configured is None or configured.within is None:
        last = next((one.coverage for one in context.catalog.checks(repository=found.repository, limit=1)), {})
        oldest = parse_iso(last["oldest"]) if last.get("oldest") else None
        return replace(found, read_or_written_since=oldest, never_read_bytes=last.get("never_read_bytes"))
    try:
        coverage = coverage_now(context, found.repository)
    except UserError as error:
        return replace(found, notes=[*found.notes, f"what was read is not known: {error.message}"])
    missed = missed_reading(context, found.repository, coverage, configured.within)
    return replace(
        found,
        read_or_written_since=coverage.oldest,
        never_read_bytes=coverage.never_read_bytes,
        within_seconds=configured.within.total_seconds(),
        unread=bool(missed),
        notes=[*found.notes, missed] if missed else found.notes,
    )


def _checked(context: Context, name: str) -> RepositoryStatus:
    found = context.catalog.checks(repository=name)
    if not found:
        note = "never checked: nobody has read it back"
        return RepositoryStatus(name, notes=[f"{note}; backupctl check {name}"])
    last = found[0]
    deep = next((one for one in found if one.mode != "structure"), last)
    if last.verdict == "pass" and deep.verdict == "fail":
        last = deep  # a later look at the structure alone takes nothing back of what reading every byte found
    age = (context.clock.now() - last.finished).total_seconds()
    notes = []
    if last.verdict != "pass":
        objects = ", ".join(str(one["object"]) for one in last.problems[:3])
        notes.append(f"last check: {last.verdict}" + (f": {objects}" if objects else ""))
    return RepositoryStatus(name, last.verdict, last.mode, last.finished, age, len(last.problems), notes=notes)


def _status_of(context: Context, job: Job) -> JobStatus:
    found = JobStatus(job.job, job.repository, rpo_seconds=job.objectives.rpo.total_seconds())
    runs = context.catalog.runs(kind="backup", name=job.job, limit=20)
    real = [run for run in runs if run.trigger != "first_seen"]
    if real:
        found.last_run = real[0].state
        if real[0].state in ("failed", "incomplete", "cancelled"):
            found.notes.append(f"last run {real[0].state}: {real[0].message}")
        elif real[0].state == "complete" and real[0].exit_code:
            found.notes.append(f"last run complete, with warnings: {real[0].message}")
    _look_at_drills(context, job, found)
    try:
        mine = of_job(context.resources.repository(job.repository).snapshots(), job.job)
    except UserError as error:
        found.state = "unreachable"
        found.notes.append(error.message)
        found.copies = [_copy_status(context, job, name, None) for name in job.copies]
        return found
    complete = [one for one in mine if SnapshotTags.of(one).complete]
    found.copies = [_copy_status(context, job, name, complete) for name in job.copies]
    found.snapshots = len(mine)
    if rewritten := [one.short_id for one in mine if SnapshotTags.of(one).rewritten]:
        found.notes.append(f"{', '.join(rewritten)}: rewritten by another program, and so of no job's run: not counted")
    if not complete:
        found.state = "stale"
        found.notes.append("there is no complete snapshot")
        return found
    found.newest = complete[-1].time
    found.incomplete_since = sum(one.time > found.newest for one in mine)
    if found.incomplete_since:
        found.notes.append(f"{found.incomplete_since} incomplete since the newest complete snapshot")
    found.age_seconds = (context.clock.now() - found.newest).total_seconds()
    if found.age_seconds > found.rpo_seconds:
        found.state = "stale"
    return found


def _copy_status(context: Context, job: Job, name: str, primary: list[Snapshot] | None) -> CopyStatus:
    """`primary`: the complete snapshots there, oldest first."""
    found = CopyStatus(job.job, name, rpo_seconds=job.objectives.rpo.total_seconds())
    try:
        mine = of_job(context.resources.repository(name).snapshots(), job.job)
    except UserError as error:
        found.state = "unreachable"
        found.notes.append(error.message)
        return found
    complete = [one for one in mine if SnapshotTags.of(one).complete]
    found.snapshots = len(mine)
    if complete:
        found.newest = complete[-1].time
        found.age_seconds = (context.clock.now() - found.newest).total_seconds()
    if primary is not None:
        found.behind = sum(found.newest is None or one.time > found.newest for one in primary)
    if found.age_seconds is None or found.age_seconds > found.rpo_seconds:
        found.state = "stale"
    catch_up = f"backupctl copy {job.job} --to {name}"
    if not complete:
        found.notes.append(f"there is no complete snapshot of {job.job}; {catch_up}")
    elif found.behind:
        found.notes.append(f"lacks the newest {found.behind} complete snapshot(s) of {job.job}; {catch_up}")
    return found


def _look_at_drills(context: Context, job: Job, found: JobStatus) -> None:
    """The newest drill, and a note for every configured one that did not pass the last time or never ran."""
    newest = context.catalog.drills(job=job.job, limit=1)
    if not newest:
        found.notes.append("never drilled: nobody has proven that it can be restored")
        return
    found.last_drill, found.last_drill_at, found.level = newest[0].verdict, newest[0].declared, newest[0].level
    for name in job.drills:
        last = context.catalog.drills(drill=f"{job.job}/{name}", limit=1)
        if not last:
            found.notes.append(f"drill {name} never ran")
        elif last[0].verdict != "pass":
            reasons = [str(reason) for reason in last[0].reasons]
            more = f" (and {len(reasons) - 1} more: backupctl drill show {job.job}/{name})" if reasons[1:] else ""
            first = f": {reasons[0]}" if reasons else ""
            found.notes.append(f"last drill {name}: {last[0].verdict}{first}{more}")
        elif last[0].reasons:
            found.notes.append(f"last drill {name}: pass, but {last[0].reasons[0]}")
