"""Transactions in stored binary logs that took much away, for whoever has to go back to just before one of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.operations.recovery import stored_logs
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_losses import BinlogLoss, search_logs
from backupctl.sources.mariadb_recovery import logs_from, start_of

KIND = "mariadb"


@dataclass(slots=True)
class LogsSearched:
    """`since`: of what was looked at."""

    source: str
    since: datetime
    logs: int
    losses: list[BinlogLoss]
    notes: list[str]


def search_binlogs(
    context: Context, job: Job, source: str, *, since: datetime | None, until: datetime | None, rows: int
) -> LogsSearched:
    """`since` None: since the newest backup. Raises NoSuchError without one that logs can follow, or without a log."""
    chosen = [name for name, settings in job.sources.items() if settings.kind == KIND and source in ("", name)]
    if len(chosen) != 1:
        raise UsageError(
            f"job {job.job} has {len(chosen)} MariaDB sources that could be meant",
            next_step=f"name one: {job.job}/SOURCE",
        )
    repository = context.resources.repository(job.repository)
    facts = _backup(repository, job, chosen[0], since)
    start = start_of(chosen[0], facts)
    with ExitStack() as stack:
        logs, _ = logs_from(start, facts, stored_logs(repository, KIND, stack, facts))
        if start.file not in logs.names:
            raise NoSuchError(
                f"no binary log of {chosen[0]} is stored from {start} on", next_step=f"backupctl job check {job.job}"
            )
        found = search_logs(logs, start, rows)
    since = since or parse_iso(facts["time"])
    losses = [
        one for one in found.losses if one.time >= since.replace(microsecond=0) if until is None or one.time <= until
    ]
    return LogsSearched(chosen[0], since, found.logs, losses, found.notes)


def _backup(repository: Repository, job: Job, source: str, since: datetime | None) -> dict[str, Any]:
    """The newest backup from before `since`, or else the oldest."""
    found: dict[str, Any] | None = None
    for snapshot in reversed(of_job(repository.snapshots(), job.job, complete_only=True)):
        facts: dict[str, Any] = fingerprint_of(repository, snapshot)["sources"].get(source, {}).get("fingerprint", {})
        if facts.get("kind") == KIND and (facts.get("base") or facts.get("binary_log")):
            found = facts
            if since is None or parse_iso(facts["time"]) <= since:
                return facts
    if found is None:
        raise NoSuchError(
            f"job {job.job} has no backup of {source} that binary logs can follow", next_step=f"backupctl run {job.job}"
        )
    return found
