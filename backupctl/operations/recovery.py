"""`restore --at` a point behind a backup, along the logs that later snapshots hold."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.database_part import databases_of
from backupctl.operations.records import SnapshotTags, fingerprint_of, of_job
from backupctl.operations.select import parse_time
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import stored_logs_of
from backupctl.sources.protocol import (
    BeforeBackupError,
    DatabaseSource,
    Fingerprint,
    Instance,
    PointInTimeSource,
    SnapshotFiles,
    StoredLogs,
)

LATEST = "latest"
_WORD = re.compile(r"\S*[-:]\S*")  # of a kind of database: a position, the name of a transaction
_SNAPSHOT = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True)
class StoredLogsOrder:
    """A recovery behind a backup, decided and not yet begun. `target` None is as far as the logs reach."""

    source: str
    snapshot: Snapshot
    facts: dict[str, Any]
    target: datetime | str | None
    shown: str
    repository: Repository

    def load(
        self, source: DatabaseSource, instance: Instance, files: SnapshotFiles, databases: list[str] | None
    ) -> list[str]:
        """`databases` is None: logs are of all of them."""
        assert databases is None and isinstance(source, PointInTimeSource)
        with ExitStack() as stack:
            logs = stored_logs(self.repository, source.kind, stack, self.facts)
            return source.load_until(instance, files, self.facts, logs, self.target)


def stored_logs_order(context: Context, job: Job, at: str, only: str, repository: Repository) -> StoredLogsOrder | None:
    """What `--at` asks of the source that `--only` names; None when a snapshot is the answer: it was asked for by its id, or
    no log of that server is stored. Raises NoSuchError, UsageError."""
    name = only.strip("/")
    source = context.resources.source(job, name) if name in job.sources else None
    if not isinstance(source, PointInTimeSource) or _SNAPSHOT.fullmatch(at):
        return None
    target = parse_target(at, job.timezone)
    candidates: list[tuple[Snapshot, dict[str, Any], datetime]] = []
    for snapshot in of_job(repository.snapshots(), job.job, complete_only=True):
        facts = fingerprint_of(repository, snapshot)["sources"].get(name)
        if facts is not None and facts["kind"] == source.kind and databases_of(facts):
            candidates.append((snapshot, facts["fingerprint"], parse_iso(facts["data_time"])))
    if isinstance(target, datetime):
        candidates = [one for one in candidates if one[2] <= target]
    for snapshot, facts, viewed in reversed(candidates):
        with ExitStack() as stack:
            read = source.log_time(facts, stored_logs(repository, source.kind, stack, facts))
            if not isinstance(target, str) and (read is None or (target is None and read <= viewed)):
                return None
            try:
                source.find(facts, stored_logs(repository, source.kind, stack, facts), target)
            except BeforeBackupError:
                continue
        return StoredLogsOrder(name, snapshot, facts, target, at, repository)
    if isinstance(target, str):
        raise NoSuchError(f"no complete backup of {name} from before {target}", next_step="backupctl snapshots")
    return None


def parse_target(text: str, zone: str) -> datetime | str | None:
    """None for `latest`; an instant for a time (wall clock of `zone` unless it names an offset); else the kind's own word."""
    if text == LATEST:
        return None
    try:
        return parse_time(text, zone)
    except UsageError:
        if _WORD.fullmatch(text):
            return text
        raise


def stored_logs(repository: Repository, kind: str, stack: ExitStack, backup: Fingerprint) -> StoredLogs:
    """What was received of the log of `backup`'s server, then that of every source of that kind, of any job, newest snapshot first.
    A snapshot whose facts cannot be read has none to offer."""
    if backup.get("server_uid"):
        yield from stored_logs_of(repository, backup["server_uid"])
    for snapshot in sorted(repository.snapshots(), key=lambda one: one.time, reverse=True):
        if not SnapshotTags.of(snapshot).ours:
            continue
        try:
            sources = fingerprint_of(repository, snapshot)["sources"]
        except (DamageError, NoSuchError):
            continue
        for name, facts in sources.items():
            if facts["kind"] == kind:
                reader = stack.enter_context(SnapshotReader(repository, snapshot))
                yield facts["fingerprint"], reader.files(name)
