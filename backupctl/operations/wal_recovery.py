"""`restore --at` for a PostgreSQL source whose log is archived: any instant, LSN, transaction or named point, exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from backupctl.config.models import Job
from backupctl.errors import UsageError
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.operations.select import parse_time
from backupctl.operations.wal_status import logged_sources
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.postgresql import PostgresqlSource
from backupctl.sources.protocol import DatabaseSource, Instance, SnapshotFiles
from backupctl.sources.wal_archive import LogIndex, Target, base_for, roll_forward
from backupctl.sources.wal_format import parse_lsn

_PREFIXED = re.compile(r"(lsn|before|xid|point):(.+?)(?:@(\d+))?")
_SNAPSHOT = re.compile(r"[0-9a-f]{4,64}")


def parse_target(at: str, zone: str) -> Target | None:
    """`latest`, a time, `lsn:0/16B3748`, `before:0/16B3748`, `xid:1234`, `point:NAME`, the last four with `@TIMELINE` behind them
    if need be; None for the id of a snapshot, which is a point already. Raises UsageError."""
    at = at.strip()
    if found := _PREFIXED.fullmatch(at):
        kind, value, timeline = found[1], found[2], int(found[3]) if found[3] else None
        try:
            if kind in ("lsn", "before"):
                return Target("lsn", lsn=parse_lsn(value), timeline=timeline, inclusive=kind == "lsn")
            if kind == "xid":
                return Target("xid", xid=int(value), timeline=timeline)
        except ValueError:
            raise UsageError(f"{value!r} is no {kind}", next_step="--at lsn:0/16B3748, --at xid:1234") from None
        return Target("point", name=value, timeline=timeline)
    if at == "latest":
        return Target("latest")
    try:
        return Target("time", time=parse_time(at, zone))
    except UsageError:
        if _SNAPSHOT.fullmatch(at):
            return None
        raise


@dataclass(frozen=True, slots=True)
class PointOrder:
    """A recovery behind a base backup, decided and not yet begun."""

    source: str
    snapshot: Snapshot
    facts: dict[str, Any]
    target: Target
    index: LogIndex

    @property
    def shown(self) -> str:
        return str(self.target)

    def load(
        self, source: DatabaseSource, instance: Instance, files: SnapshotFiles, databases: list[str] | None
    ) -> list[str]:
        return cast(PostgresqlSource, source).recover(
            instance,
            files,
            lambda place, own: roll_forward(self.index, self.facts, self.target, place, own),
            databases=databases,
        )


def point_order(context: Context, job: Job, at: str, only: str, repository: Repository) -> PointOrder | None:
    """What `--at` asks of the source that `--only` names, as `db:…` or by itself; None when that has no archived log, or a
    snapshot is meant. Raises NoSuchError when no base backup leads there."""
    wanted, database = only.strip("/"), ""
    if only.startswith("db:"):
        wanted, _, database = only.removeprefix("db:").rpartition("/")
    sources = [name for name in logged_sources(job) if wanted in ("", name)]
    target = parse_target(at, job.timezone) if sources else None
    if target is None:
        refuse_point(at)
        return None
    for name in sources:
        candidates: list[tuple[Snapshot, dict[str, Any]]] = []
        for snapshot in of_job(repository.snapshots(), job.job, complete_only=True):
            facts = fingerprint_of(repository, snapshot)["sources"].get(name, {}).get("fingerprint", {})
            if facts.get("method") == "physical" and database in ("", *facts["databases"]):
                candidates.append((snapshot, facts))
        if not candidates:
            continue
        newest = candidates[-1][1]
        candidates = [one for one in candidates if one[1]["system_identifier"] == newest["system_identifier"]]
        index = LogIndex.read(LogArchive(repository, newest["system_identifier"]), newest["segment_bytes"])
        base = base_for([facts for _, facts in candidates], index, target)
        snapshot = next(one for one, facts in candidates if facts is base)
        return PointOrder(name, snapshot, base, target, index)
    refuse_point(at)  # no source with an archived log holds it
    return None


def refuse_point(at: str) -> None:
    if _PREFIXED.fullmatch(at.strip()):
        raise UsageError(
            f"--at {at}: a point in the log needs a server that replays it",
            next_step="--only db:NAME --start-database, with a source that has `method: physical` and `wal`",
        )
