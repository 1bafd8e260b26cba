"""Up to which instant a MariaDB source can be recovered, by what is in the bucket: its newest backup, and the received binary logs
that follow it without a hole. Nothing that a server says of itself counts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, fingerprint_of, of_job
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


def newest_commit(repository: Repository, server_uid: str) -> datetime | None:
    """Of what is stored of a server's binary logs, received or in a snapshot, whether anything leads there or not; by their facts
    alone. Raises DamageError."""
    times: list[int] = []
    logs = ReceivedLogs(archive_of(repository, server_uid))
    held = [file for file, pieces in logs.files.items() if pieces]
    times += [logs.facts(file)["last_time"] for file in held[-2:]]  # the newest may have just begun
    for snapshot in sorted(repository.snapshots(), key=lambda one: one.time, reverse=True):
        if not SnapshotTags.of(snapshot).ours:
            continue
        with suppress(DamageError, NoSuchError):  # it has none to offer
            sources = [one["fingerprint"] for one in fingerprint_of(repository, snapshot)["sources"].values()]
            found = [
                log["last_time"]
                for one in sources
                if one.get("server_uid") == server_uid
                for log in one.get("logs", ())
            ]
            if any(found):
                times += found
                break
    newest = max(times, default=0)
    return datetime.fromtimestamp(newest, UTC) if newest else None
