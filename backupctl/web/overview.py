"""What the status page shows, as facts: from the catalog alone, so that it needs no key and reads no repository."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from backupctl.clock import iso, to_zone
from backupctl.operations.context import Context
from backupctl.operations.repository_status import RepositoryStatus
from backupctl.operations.status import DrillStatus, JobStatus
from backupctl.scheduling.standing import standing

RECENT_RUNS = 25


def overview(context: Context) -> dict[str, Any]:
    """JSON-ready: every job with its newest snapshot, last run and drills; every repository's last check; recent runs;
    `problems`, one line for each thing that somebody should look at."""
    found = standing(context, list(context.settings.jobs.values()), ask=False)
    jobs = [_job(one) for one in found.jobs]
    checks = [_repository(one) for one in found.repositories]
    runs = [
        {
            "run": run.id,
            "kind": run.kind,
            "name": run.name,
            "scheduled": iso(run.scheduled),
            "state": run.state,
            "verdict": run.summary.get("verdict", ""),
            "exit_code": run.exit_code,
            "message": run.message or "",
        }
        for run in context.catalog.runs(limit=RECENT_RUNS)
        if run.trigger != "first_seen"
    ]
    problems = [f"{one['job']}: {note}" for one in jobs for note in one["notes"]]
    problems += [f"{copy.repository}: {note}" for copy in found.copies for note in copy.notes]
    problems += [f"{repository.repository}: {note}" for repository in found.repositories for note in repository.notes]
    problems += [f"{one.kind} {one.name}: {one.what}: {one.message}" for one in found.lapses]
    problems += [
        f"{one.job or 'everything'}: paused until {iso(one.until)} by {one.owner}: {one.reason}" for one in found.pauses
    ]
    problems += [
        f"the service refused the new configuration and runs the old one: {one.refused}" for one in found.refused
    ]
    return {
        "generated": iso(found.judged),
        "zone": context.settings.defaults.timezone,
        "problems": problems,
        "jobs": jobs,
        "repositories": checks,
        "runs": runs,
        "pauses": [
            {"job": one.job, "until": iso(one.until), "reason": one.reason, "owner": one.owner} for one in found.pauses
        ],
        "lapses": [
            {
                "what": one.what,
                "kind": one.kind,
                "name": one.name,
                "scheduled": iso(one.scheduled),
                "message": one.message,
            }
            for one in found.lapses
        ],
    }


def _job(one: JobStatus) -> dict[str, Any]:
    notes = ["the newest complete snapshot is too old"] if one.state == "stale" and one.newest is not None else []
    notes += one.notes
    if not one.drills:
        notes.append("no drill is configured: nobody proves that it can be restored")
    return {
        "job": one.job,
        "state": one.state,
        "newest": iso(one.newest) if one.newest else None,
        "age_seconds": round(one.age_seconds) if one.age_seconds is not None else None,
        "rpo_seconds": one.rpo_seconds,
        "last_run": one.last_run or None,
        "drills": [_drill(drill) for drill in one.drills],
        "notes": notes,
    }


def _drill(one: DrillStatus) -> dict[str, Any]:
    return one.fields() | {"declared": iso(one.declared) if one.declared else None}


def _repository(one: RepositoryStatus) -> dict[str, Any]:
    return one.fields() | {"checked_at": iso(one.checked_at) if one.checked_at else None}


def shown(instant: str | None, zone: str) -> str:
    """For people: the wall clock of the configuration's zone, which the page names once."""
    return f"{to_zone(datetime.fromisoformat(instant), zone):%Y-%m-%d %H:%M}" if instant else "never"
