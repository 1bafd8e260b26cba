"""What the status page shows, as facts: from the catalog alone, so that it needs no key and reads no repository."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from backupctl.clock import iso, parse_iso, to_zone
from backupctl.config.models import Job
from backupctl.operations.context import Context
from backupctl.operations.repository_status import RepositoryStatus, repositories_of
from backupctl.scheduling.sweep import sweep

RECENT_RUNS = 25


def overview(context: Context) -> dict[str, Any]:
    """JSON-ready: every job with its newest snapshot, last run and drills; every repository's last check; recent runs;
    `problems`, one line for each thing that somebody should look at."""
    jobs = [_job(context, job) for job in context.settings.jobs.values()]
    checks = [_repository(one) for one in repositories_of(context, list(context.settings.jobs.values()), ask=False)]
    runs = [
        {
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
    newest = {one["job"]: parse_iso(one["newest"]) if one["newest"] else None for one in jobs}
    lapses = sweep(context.settings, context.catalog, context.clock.now(), newest)
    pauses = context.catalog.pauses(at=context.clock.now())
    refused = [one for one in context.catalog.schedulers() if one.refused]
    problems = [f"{one.get('job') or one['repository']}: {note}" for one in [*jobs, *checks] for note in one["notes"]]
    problems += [f"{one.kind} {one.name}: {one.what}: {one.message}" for one in lapses]
    problems += [
        f"{one.job or 'everything'}: paused until {iso(one.until)} by {one.owner}: {one.reason}" for one in pauses
    ]
    problems += [f"the service refused the new configuration and runs the old one: {one.refused}" for one in refused]
    return {
        "generated": iso(context.clock.now()),
        "zone": context.settings.defaults.timezone,
        "problems": problems,
        "jobs": jobs,
        "repositories": checks,
        "runs": runs,
        "pauses": [
            {"job": one.job, "until": iso(one.until), "reason": one.reason, "owner": one.owner} for one in pauses
        ],
        "lapses": [
            {
                "what": one.what,
                "kind": one.kind,
                "name": one.name,
                "scheduled": iso(one.scheduled),
                "message": one.message,
            }
            for one in lapses
        ],
    }


def _job(context: Context, job: Job) -> dict[str, Any]:
    catalog, now = context.catalog, context.clock.now()
    mine = catalog.snapshots(job=job.job, repository=job.repository)
    newest = next((one for one in mine if one.status == "complete"), None)
    runs = [run for run in catalog.runs(kind="backup", name=job.job, limit=20) if run.trigger != "first_seen"]
    age = round((now - newest.time).total_seconds()) if newest else None
    rpo = job.objectives.rpo.total_seconds()
    fresh = age is not None and age <= rpo
    notes = []
    if not fresh:
        notes.append("no complete snapshot is known" if newest is None else "the newest complete snapshot is too old")
    if runs and runs[0].state in ("failed", "incomplete", "cancelled"):
        notes.append(f"last run {runs[0].state}: {runs[0].message}".rstrip(": "))
    drills = [_drill(context, job, name) for name in job.drills]
    notes += [f"drill {one['drill']}: {one['verdict'] or 'never ran'}" for one in drills if one["verdict"] != "pass"]
    if not drills:
        notes.append("no drill is configured: nobody proves that it can be restored")
    return {
        "job": job.job,
        "state": "ok" if fresh else "stale",
        "newest": iso(newest.time) if newest else None,
        "age_seconds": age,
        "rpo_seconds": rpo,
        "last_run": runs[0].state if runs else None,
        "drills": drills,
        "notes": notes,
    }


def _drill(context: Context, job: Job, name: str) -> dict[str, Any]:
    last = next(iter(context.catalog.drills(drill=f"{job.job}/{name}", limit=1)), None)
    return {
        "drill": name,
        "verdict": last.verdict if last else "",
        "level": last.level if last else None,
        "declared": iso(last.declared) if last else None,
        "rto_seconds": last.rto_seconds if last else None,
        "rpo_seconds": last.rpo_seconds if last else None,
    }


def _repository(one: RepositoryStatus) -> dict[str, Any]:
    return one.fields() | {"checked_at": iso(one.checked_at) if one.checked_at else None}


def shown(instant: str | None, zone: str) -> str:
    """For people: the wall clock of the configuration's zone, which the page names once."""
    return f"{to_zone(datetime.fromisoformat(instant), zone):%Y-%m-%d %H:%M}" if instant else "never"
