"""Backup operation and integrity: which days have a complete backup, and how much of each repository was read."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backupctl.catalog.models import LIVE_STATES, RUN_STATES, Check, Finding, Run
from backupctl.clock import iso, parse_iso
from backupctl.evidence.bounds import floor, rate
from backupctl.evidence.records import Records, firings

if TYPE_CHECKING:
    from backupctl.config.models import Job, Settings

# One letter per day of the calendar.
COMPLETE, INCOMPLETE, FAILED, NONE = "c", "i", "f", "n"
NOT_DUE, RUNNING, UNRECORDED, FUTURE = "-", "r", "u", "."
BAD = (FAILED, INCOMPLETE, NONE)
UNSCHEDULED = ("manual", "retry")  # triggers of runs that stand for no instant of the schedule


def operation(records: Records, settings: Settings) -> dict[str, Any]:
    jobs = [_job(records, name, job) for name, job in sorted(settings.jobs.items())]
    return {
        "jobs": jobs,
        "runs": {state: sum(run.state == state for run in records.backups) for state in RUN_STATES},
        "first_attempt": rate(
            sum(job["first_attempt"]["successes"] for job in jobs), sum(job["first_attempt"]["trials"] for job in jobs)
        ),
        "notices": {
            "sent": len(records.notices),
            "delivered": sum(notice.delivered is not None for notice in records.notices),
            "failed": sum(notice.delivered is None for notice in records.notices),
        },
    }


def _job(records: Records, name: str, job: Job) -> dict[str, Any]:
    quarter = records.quarter
    runs = [run for run in records.backups if run.name == name]
    by_day: dict[date, list[Run]] = defaultdict(list)
    for run in runs:
        by_day[quarter.day_of(run.scheduled)].append(run)
    first = records.first_record(name)
    expected = _expected(records, job, since=None)
    owed = _expected(records, job, since=first)  # a job that began at noon does not owe the night before
    first_day = quarter.day_of(first) if first else None
    today = quarter.day_of(records.until - timedelta(microseconds=1))
    calendar, missed = "", 0
    for day in quarter.days():
        if day > today:
            calendar += FUTURE
        elif first_day and day < first_day and expected[day]:
            calendar += UNRECORDED
        else:
            calendar += _cell(owed[day], by_day[day])
            scheduled = sum(run.trigger not in UNSCHEDULED for run in by_day[day])
            missed += max(0, owed[day] - scheduled)
    attempts = [run for run in runs if run.state not in LIVE_STATES and run.trigger not in UNSCHEDULED]
    last = max(
        (row for row in records.snapshots if row.job == name and row.status == "complete"),
        key=lambda row: (_time(row), row.repository == job.repository),  # of the same snapshot and its copies, itself
        default=None,
    )
    return {
        "job": name,
        "scheduled": job.schedule is not None,
        "runs": dict(Counter(run.state for run in runs)),
        "missed": missed,
        "first_attempt": rate(sum(run.state == "complete" for run in attempts), len(attempts) + missed),
        "calendar": calendar,
        "days_complete": calendar.count(COMPLETE),
        "days_due": sum(calendar.count(letter) for letter in (COMPLETE, *BAD)),
        "unrecorded_days": calendar.count(UNRECORDED),
        "last_complete": None
        if last is None
        else {
            "snapshot": last.id,
            "repository": last.repository,
            "time": iso(last.time),
            "age_seconds": round((records.until - last.time).total_seconds(), 3),
            "files": last.files,
            "bytes": last.bytes,
            "stored_bytes": last.stored_bytes,
        },
    }


def _time(row: Any) -> Any:
    return row.time


def _expected(records: Records, job: Job, *, since: datetime | None) -> Counter[date]:
    """How many backups the schedule now in force asks for, per local day, from `since` up to now."""
    if job.schedule is None:
        return Counter()
    zone = job.schedule.timezone or job.timezone
    instants = firings(job.schedule.cron, zone, records.quarter.start, records.until)
    return Counter(records.quarter.day_of(instant) for instant in instants if since is None or instant >= since)


def _cell(expected: int, runs: list[Run]) -> str:
    """A day is complete only with as many complete runs as the schedule asks for; else its worst outcome is shown."""
    states = Counter(run.state for run in runs)
    if states["complete"] and states["complete"] >= expected:
        return COMPLETE
    if states["failed"] or states["cancelled"]:
        return FAILED
    if states["incomplete"]:
        return INCOMPLETE
    if any(states[state] for state in LIVE_STATES):
        return RUNNING
    return NONE if expected else NOT_DUE


def integrity(records: Records, settings: Settings) -> list[dict[str, Any]]:
    """Per repository, copies too: what there is by the newest check, how much of it was read in the quarter, and since when
    every byte was read."""
    used = {name for job in settings.jobs.values() for name in (job.repository, *job.copies)}
    used |= {check.repository for check in records.quarter_checks}
    return [_repository(records, settings, name) for name in sorted(used)]


def _repository(records: Records, settings: Settings, name: str) -> dict[str, Any]:
    ever = [check for check in records.checks if check.repository == name]
    mine = [check for check in ever if check in records.quarter_checks]
    newest = ever[-1] if ever else None
    read: Check | None = next((c for c in reversed(mine) if c.mode == "read-data"), None)
    there = newest.pack_bytes if newest else None
    bytes_read = read.bytes_read if read else 0
    for check in mine:  # by a check that read a part, the last ones before it having read the rest
        since = _covered_since(check)
        if since is not None and since >= records.quarter.start:
            bytes_read = max(bytes_read, check.pack_bytes - int(check.coverage["never_read_bytes"]))
    last_read_ever = next((c for c in reversed(ever) if c.mode == "read-data"), None)
    return {
        "repository": name,
        "bytes_there": there,
        "bytes_read": min(bytes_read, there or 0),
        "share": floor(min(1.0, bytes_read / there)) if there else None,
        "checks": len(mine),
        "checks_failed": sum(check.verdict == "fail" for check in mine),
        "last_check": iso(newest.finished) if newest else None,
        "last_mode": newest.mode if newest else None,
        "last_verdict": newest.verdict if newest else None,
        "last_full_read": iso(last_read_ever.finished) if last_read_ever else None,
        "reading": _reading(records, settings, name, newest),
        "problems": [
            {"object": str(problem.get("object", "")), "message": str(problem.get("message", "")), "check": check.id}
            for check in mine
            for problem in check.problems or []
        ],
        "bytes_read_in_all_checks": sum(check.bytes_read for check in mine),
    }


def _covered_since(check: Check) -> datetime | None:
    """Every byte that was stored then was read, or written, since this instant; None when the check did not note it."""
    oldest = check.coverage.get("oldest") if check.coverage else None
    return parse_iso(oldest) if oldest else None


def _reading(records: Records, settings: Settings, name: str, newest: Check | None) -> dict[str, Any]:
    """What the newest check knows about when every byte was read, against the objective `check.within`. What came after
    that check was written after it, so the instant holds until now."""
    since = _covered_since(newest) if newest else None
    configured = settings.repositories.get(name)
    within = configured.check.within if configured and configured.check else None
    age = records.until - since if since is not None else None
    return {
        "read_or_written_since": iso(since) if since else None,
        "as_of": iso(newest.finished) if newest and since else None,
        "never_read_bytes": newest.coverage.get("never_read_bytes") if newest and since else None,
        "age_seconds": age.total_seconds() if age is not None else None,
        "within_seconds": within.total_seconds() if within else None,
        "met": (age is not None and age <= within) if within else None,
    }


def findings(records: Records) -> list[dict[str, Any]]:
    """What was open during the quarter: still open first, the gravest first, then the oldest."""
    rows = [
        _finding(records, row) for row in records.findings if row.closed is None or row.closed >= records.quarter.start
    ]
    gravity = {"critical": 0, "major": 1, "minor": 2}
    return sorted(rows, key=lambda r: (not r["open"], gravity.get(r["severity"], 3), r["opened"], r["id"]))


def _finding(records: Records, row: Finding) -> dict[str, Any]:
    is_open = row.closed is None
    until = records.now if row.closed is None else row.closed
    return {
        "id": row.id,
        "source": row.source,
        "run": row.run,
        "job": row.job,
        "severity": row.severity,
        "title": row.title,
        "detail": row.detail,
        "owner": row.owner,
        "opened": iso(row.opened),
        "due": iso(row.due) if row.due else None,
        "closed": iso(row.closed) if row.closed else None,
        "closure": row.closure,
        "age_days": (until - row.opened) // timedelta(days=1),
        "open": is_open,
        "overdue": bool(is_open and row.due and row.due < records.now),
    }


def holds(records: Records) -> list[dict[str, Any]]:
    return [
        {
            "id": row.id,
            "repository": row.repository,
            "snapshot": row.snapshot,
            "reason": row.reason,
            "owner": row.owner,
            "created": iso(row.created),
            "expires": iso(row.expires) if row.expires else None,
            "expired": bool(row.expires and row.expires <= records.now),
        }
        for row in sorted(records.holds, key=lambda row: (row.created, row.id))
    ]
