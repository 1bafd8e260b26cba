"""Transactions in stored binary logs that took much away, for whoever has to go back to just before one of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.operations.recovery import stored_logs
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_format import BinlogDamage, BinlogFile, follows
from backupctl.sources.binlog_losses import BinlogLoss, BinlogLossFinder
from backupctl.sources.mariadb_binlog import Position, read_whole
from backupctl.sources.mariadb_recovery import logs_from, start_of
from backupctl.sources.mariadb_replay import Logs, key

KIND = "mariadb"


@dataclass(slots=True)
class BinlogSearch:
    """`since`: of what was looked at; `start`: where the first log that was read was begun."""

    source: str
    since: datetime
    start: Position
    logs: int = 0
    losses: list[BinlogLoss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def search_binlogs(
    context: Context, job: Job, source: str, *, since: datetime | None, until: datetime | None, rows: int
) -> BinlogSearch:
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
    search = BinlogSearch(chosen[0], since or parse_iso(facts["time"]), start)
    with ExitStack() as stack:
        logs, _ = logs_from(start, facts, stored_logs(repository, KIND, stack, facts))
        if start.file not in logs.names:
            raise NoSuchError(
                f"no binary log of {chosen[0]} is stored from {start} on", next_step=f"backupctl job check {job.job}"
            )
        _search(logs, start, search, rows)
    search.losses = [
        one
        for one in search.losses
        if key(Position(one.file, one.start)) >= key(start) and one.time >= search.since.replace(microsecond=0)
        if until is None or one.time <= until
    ]
    return search


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


def _search(logs: Logs, start: Position, search: BinlogSearch, rows: int) -> None:
    before: BinlogFile | None = None
    unread = 0
    for name in logs.names[logs.names.index(start.file) :]:
        finder = BinlogLossFinder(name, rows)
        try:
            found: BinlogFile | None = read_whole(logs.open(name), finder.reader)
        except (BinlogDamage, DamageError) as error:
            search.notes.append(f"binary log {name} {error}; what came behind that in it cannot be told")
            found = None
        if before is not None and found is not None and (why := follows(before, name, found)):
            search.notes.append(f"binary logs have a gap: {why}; what happened in it cannot be told")
        before = found
        search.losses += finder.found
        search.logs += 1
        unread += finder.unread
    if unread:
        search.notes.append(f"{unread} events are compressed or of an unknown form: rows in them were not counted")
