"""What the configuration wants to run, and when: every job, drill and repository check that has a cron expression."""

from __future__ import annotations

from datetime import timedelta

from backupctl.catalog.models import Run
from backupctl.config.models import Settings
from backupctl.scheduling.calendar import Timetable


def timetables(settings: Settings) -> list[Timetable]:
    """In configuration order: backups first, so that a drill due at the same instant sees the night's snapshot."""
    backups, drills, checks = [], [], []
    for job in settings.jobs.values():
        if job.schedule is not None:
            backups.append(
                Timetable(
                    "backup",
                    job.job,
                    job.schedule.cron,
                    job.schedule.timezone or job.timezone,
                    jitter=job.schedule.jitter,
                    catch_up=job.schedule.catch_up,
                    schedule=job.schedule,
                    job=job.job,
                )
            )
        for name, drill in job.drills.items():
            if drill.cron is not None:
                drills.append(Timetable("drill", f"{job.job}/{name}", drill.cron, job.timezone, job=job.job))
    for name, repository in settings.repositories.items():
        if repository.check is not None:
            checks.append(Timetable("check", name, repository.check.cron, settings.defaults.timezone))
    return backups + checks + drills


def job_of(run: Run) -> str:
    """The job a run belongs to; "" for the scheduled check of a repository, which is nobody's."""
    return str(run.options.get("job") or "") if run.kind == "check" else run.name.partition("/")[0]


def is_configured(settings: Settings, run: Run) -> bool:
    """Whether what this run is of still stands in the configuration."""
    if run.kind == "check":
        return run.name in settings.repositories
    name, slash, part = run.name.partition("/")
    job = settings.jobs.get(name)
    if job is None or not slash:
        return job is not None
    return part.partition("/")[0] in job.sources if run.kind == "stretch" else part in job.drills


def deadline_of(settings: Settings, kind: str, name: str) -> timedelta | None:
    """How long a run may take before it is stopped; None: as long as it needs."""
    if kind == "backup" and name in settings.jobs:
        schedule = settings.jobs[name].schedule
        return schedule.deadline if schedule is not None else None
    return None  # a drill keeps its own time, so that running out of it becomes a verdict
