"""Up to which instant a PostgreSQL source can be recovered, by what is in the bucket: its newest base backup, and the log that
follows it without a hole. Nothing that a server says of itself counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.clock import iso, parse_iso
from backupctl.config.models import Job
from backupctl.errors import NoSuchError, UsageError, UserError
from backupctl.operations.binlog_status import received_sources
from backupctl.operations.binlog_status import status_of as received_status
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.wal_archive import LogIndex
from backupctl.sources.wal_format import format_lsn, parse_lsn
from backupctl.sources.wal_index import Span, newest_descendant, segments_along, way_to


@dataclass(slots=True)
class LogStatus:
    """`since` to `until`: the instants that a recovery from the newest base backup can reach."""

    source: str
    snapshot: str
    since: datetime
    until: datetime
    timeline: int
    lsn_end: int
    segments: int  # behind the base backup, without a hole
    spans: list[Span] = field(default_factory=list)
    holes: list[Span] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lsn(self, number: int) -> str:
        return format_lsn(number)

    def text(self, local: Callable[[datetime], str]) -> str:
        more = f" and {self.segments} segment(s) of log" if self.segments else ", no log behind it"
        return (
            f"recoverable up to the last commit at {local(self.until)} (LSN {format_lsn(self.lsn_end)}, timeline {self.timeline}): "
            f"base backup {self.snapshot[:8]} of {local(self.since)}{more}"
        )

    def fields(self) -> dict[str, Any]:
        names = ("source", "snapshot", "since", "until", "timeline", "segments", "notes")
        found = {name: getattr(self, name) for name in names}
        return found | {"lsn": format_lsn(self.lsn_end), "holes": [str(one) for one in self.holes]}


def log_status(context: Context, job: Job, source: str = "") -> list[LogStatus]:
    """For each source of the job with a physical method. Raises NoSuchError without a base backup, UsageError without such a
    source."""
    chosen = [name for name in logged_sources(job, every=True) if source in ("", name)]
    if not chosen:
        raise UsageError(
            f"job {job.job} has no PostgreSQL source {source or ''}with `method: physical`",
            next_step="backupctl config show",
        )
    repository = context.resources.repository(job.repository)
    complete = of_job(repository.snapshots(), job.job, complete_only=True)
    if not complete:
        raise NoSuchError(f"job {job.job} has no complete snapshot", next_step=f"backupctl run {job.job}")
    return [status_of(repository, complete[-1], name) for name in chosen]


def log_point(context: Context, job: Job, snapshot_id: str, facts: list[str], notes: list[str]) -> datetime | None:
    """The instant up to which everything can be recovered from a snapshot on, when every source of the job has its log
    archived or received; else None. How far each log leads is told in `facts`, what is wrong with it in `notes`."""
    received = received_sources(job)
    points = []
    for name in (*logged_sources(job), *received):
        try:
            repository = context.resources.repository(job.repository)
            snapshot = repository.read_snapshot(snapshot_id)
            one = (received_status if name in received else status_of)(repository, snapshot, name)
        except UserError as error:
            notes.append(f"{name}: {error.message}")
            return None
        points.append(one.until)
        facts.append(f"{name}: {one.text(iso)}")
        notes += [f"{name}: {note}" for note in one.notes]
    return min(points) if points and len(points) == len(job.sources) else None


def logged_sources(job: Job, *, every: bool = False) -> list[str]:
    """Sources whose log is archived, by the configuration; with `every`, all whose log could be."""
    return [
        name
        for name, settings in job.sources.items()
        if settings.kind == "postgresql"
        and getattr(settings.options, "method", "") == "physical"
        and (every or getattr(settings.options, "wal", None) is not None)
    ]


def status_of(repository: Repository, snapshot: Snapshot, source: str) -> LogStatus:
    """Raises NoSuchError when the snapshot holds no physical backup of the source."""
    facts = fingerprint_of(repository, snapshot)["sources"].get(source, {}).get("fingerprint", {})
    if facts.get("method") != "physical":
        raise NoSuchError(
            f"snapshot {snapshot.short_id} holds no physical backup of {source}", next_step="backupctl run"
        )
    index = LogIndex.read(LogArchive(repository, facts["system_identifier"]), facts["segment_bytes"])
    end, since = parse_lsn(facts["log_end"]), parse_iso(facts["time"])
    timeline = newest_descendant(facts["timeline"], end, index.histories)
    found = LogStatus(source, snapshot.id, since, since, facts["timeline"], end, 0, index.spans(), index.holes())
    found.notes += index.bad
    behind: list[str] = []
    for name, lsn in segments_along(way_to(timeline, index.histories), facts["timeline"], end, index.segment_bytes):
        if name not in index.names and name not in index.opened:
            break
        behind.append(name)
        found.timeline, found.lsn_end, found.segments = int(name[:8], 16), lsn + index.segment_bytes, len(behind)
        if name in index.damaged and (broken := index.facts(name).get("broken")):
            what = f"the record at {broken}, in {name}, was broken when it was archived"
            found.notes.append(f"{what}; no recovery leads past it: back up again")
            break
    for number, name in enumerate(reversed(behind)):
        held = index.facts(name)
        if number == 0 and held.get("end"):
            found.lsn_end = max(end, parse_lsn(held["end"]))
        if held.get("last_commit"):
            found.until = max(since, parse_iso(held["last_commit"]))
            break
    if found.holes:
        shown = ", ".join(map(str, found.holes[:3]))
        found.notes.append(f"{len(found.holes)} hole(s) in the log: {shown}; no recovery leads across one")
    return found
