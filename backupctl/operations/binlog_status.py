"""Up to which instant a MariaDB source can be recovered, by what is in the bucket: its newest backup, and the received binary logs
that follow it without a hole. Nothing that a server says of itself counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import ReceivedLogs, archive_of
from backupctl.sources.mariadb import MariadbOptions
from backupctl.sources.mariadb_binlog import Position
from backupctl.sources.mariadb_recovery import start_of


@dataclass(frozen=True, slots=True)
class Row:
    """What is held of a log, or what is missing behind it: `end` is then a position, and nobody knows how many bytes."""

    file: str
    what: str
    start: int
    end: str
    bytes: int | None


@dataclass(slots=True)
class BinlogStatus:
    """`since` to `until`: the instants that a recovery from the newest backup can reach."""

    source: str
    snapshot: str
    since: datetime
    until: datetime
    start: Position
    end: Position
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self, local: Callable[[datetime], str]) -> str:
        more = f"binary logs from {self.start} to {self.end}" if self.end != self.start else "no binary log behind it"
        return (
            f"recoverable up to the last commit at {local(self.until)}: "
            f"backup {self.snapshot[:8]} of {local(self.since)}, {more}"
        )

    def fields(self) -> dict[str, Any]:
        names = ("source", "snapshot", "since", "until", "notes")
        found = {name: getattr(self, name) for name in names}
        return found | {"start": str(self.start), "end": str(self.end)}


def received_sources(job: Job) -> list[str]:
    """Sources whose binary logs are received, by the configuration."""
    return [
        name
        for name, settings in job.sources.items()
        if isinstance(settings.options, MariadbOptions) and settings.options.binlog is not None
    ]


def binlog_status(context: Context, job: Job, source: str = "") -> list[BinlogStatus]:
    """Raises NoSuchError without a backup, UsageError without such a source."""
    chosen = [name for name in received_sources(job) if source in ("", name)]
    if not chosen:
        raise UsageError(
            f"job {job.job} has no MariaDB source {source or ''}with `binlog`", next_step="backupctl config show"
        )
    repository = context.resources.repository(job.repository)
    complete = of_job(repository.snapshots(), job.job, complete_only=True)
    if not complete:
        raise NoSuchError(f"job {job.job} has no complete snapshot", next_step=f"backupctl run {job.job}")
    return [status_of(repository, complete[-1], name) for name in chosen]


def status_of(repository: Repository, snapshot: Snapshot, source: str) -> BinlogStatus:
    """Raises NoSuchError when the snapshot holds no backup of the source that logs can follow, DamageError for a stored log that
    cannot be read."""
    facts = fingerprint_of(repository, snapshot)["sources"].get(source, {}).get("fingerprint", {})
    if facts.get("kind") != "mariadb" or not facts.get("server_uid"):
        raise NoSuchError(
            f"snapshot {snapshot.short_id} holds no backup of {source} that binary logs can follow",
            next_step="backupctl run",
        )
    start, since = start_of(source, facts), parse_iso(facts["time"])
    logs = ReceivedLogs(archive_of(repository, facts["server_uid"]))
    end, newest = logs.reach(start)
    holes = logs.holes()
    found = BinlogStatus(source, snapshot.id, since, max(since, newest or since), start, end)
    for file, pieces in logs.files.items():
        if pieces:
            found.rows.append(Row(file, "log", 0, str(pieces[-1].end), pieces[-1].end))
        found.rows += [
            Row(file, "HOLE", one.after.offset, str(one.before), None) for one in holes if one.after.file == file
        ]
    if holes:
        shown = "; ".join(map(str, holes[:3]))
        found.notes.append(f"{len(holes)} hole(s) in the binary logs: {shown}; no recovery leads across one")
    return found
