"""Transactions in an archived log that took much away, for whoever has to go back to just before one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.operations.wal_status import logged_sources
from backupctl.repository.log_archive import LogArchive
from backupctl.sources.wal_archive import LogIndex
from backupctl.sources.wal_format import format_lsn, segment_name
from backupctl.sources.wal_index import Span
from backupctl.sources.wal_losses import Loss, read_losses


@dataclass(slots=True)
class LogSearch:
    """`losses` in the order of each span of the log, with the timeline on which they are. `since`: of what was looked at."""

    source: str
    since: datetime
    segments: int = 0
    losses: list[tuple[int, Loss]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def point(self, timeline: int, loss: Loss) -> str:
        """What `restore --at` takes to stop just before it."""
        newest = max((one for one, _ in self.losses), default=timeline)
        return f"before:{format_lsn(loss.lsn)}" + (f"@{timeline}" if timeline != newest else "")


def search_log(
    context: Context, job: Job, source: str, *, since: datetime | None, until: datetime | None, rows: int
) -> LogSearch:
    """`since` None: since the newest base backup. Raises NoSuchError without one, or without a log."""
    chosen = [name for name in logged_sources(job, every=True) if source in ("", name)]
    if len(chosen) != 1:
        raise UsageError(
            f"job {job.job} has {len(chosen)} PostgreSQL sources with `method: physical` that could be meant",
            next_step=f"name one: {job.job}/SOURCE",
        )
    repository = context.resources.repository(job.repository)
    for snapshot in reversed(of_job(repository.snapshots(), job.job, complete_only=True)):
        facts = fingerprint_of(repository, snapshot)["sources"].get(chosen[0], {}).get("fingerprint", {})
        if facts.get("method") == "physical":
            break
    else:
        raise NoSuchError(f"job {job.job} has no base backup of {chosen[0]}", next_step=f"backupctl run {job.job}")
    index = LogIndex.read(LogArchive(repository, facts["system_identifier"]), facts["segment_bytes"])
    if not index.spans():
        raise NoSuchError(f"no log of {chosen[0]} is archived", next_step=f"backupctl job check {job.job}")
    search = LogSearch(chosen[0], since or parse_iso(facts["time"]))
    search.notes += [f"hole in the log: {one}; what happened in it cannot be told" for one in index.holes()]
    for span in index.spans():
        _search_span(index, span, search, until, rows)
    search.losses = [
        (timeline, loss)
        for timeline, loss in search.losses
        if loss.time is None or (loss.time >= search.since and (until is None or loss.time <= until))
    ]
    return search


def _search_span(index: LogIndex, span: Span, search: LogSearch, until: datetime | None, rows: int) -> None:
    wanted: list[int] = []
    for lsn in range(span.start, span.end, index.segment_bytes):
        facts = index.facts(segment_name(span.timeline, lsn, index.segment_bytes))
        if not wanted and (not facts["last_commit"] or parse_iso(facts["last_commit"]) < search.since):
            continue
        if until is not None and facts["first_commit"] and parse_iso(facts["first_commit"]) > until:
            break
        wanted.append(lsn)
    if wanted:
        part = Span(span.timeline, wanted[0], wanted[-1] + index.segment_bytes)
        found, unread = read_losses(index, part, rows)
        search.losses += [(span.timeline, loss) for loss in found]
        search.notes += unread
        search.segments += len(wanted)
