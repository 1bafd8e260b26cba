"""Looking into repositories without restoring: which snapshots there are, and what one holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from backupctl.errors import NoSuchError, UsageError, UserError
from backupctl.governance.clearances import Clearance, clearances
from backupctl.governance.holds import held
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, of_job
from backupctl.operations.select import select_snapshot
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class ListedSnapshot:
    repository: str
    snapshot: Snapshot
    tags: SnapshotTags
    bytes: int | None  # what a restore gives back; None when the snapshot does not say
    hold: str  # reason, or ""
    decision: str = ""  # what somebody said of a suspicious one


def repository_names(context: Context, wanted: Sequence[str] = ()) -> list[str]:
    """`wanted`, or every repository there is. Raises NoSuchError for a name the configuration has not."""
    known = list(context.settings.repositories)
    for name in wanted:
        if name not in known:
            raise NoSuchError(
                f"no repository named {name!r}; known: {', '.join(known) or 'none'}", next_step="backupctl config show"
            )
    if not known:
        raise UsageError("the configuration names no repository", next_step="backupctl config schema")
    return list(wanted) or known


def check_run_name(context: Context, name: str) -> None:
    """Raises NoSuchError for what neither the configuration nor any run is called by: a job, JOB/DRILL or repository."""
    settings = context.settings
    drills = [f"{job.job}/{drill}" for job in settings.jobs.values() for drill in job.drills]
    known = [*settings.jobs, *drills, *settings.repositories]
    # what was taken out of the configuration has its runs
    if name in known or context.catalog.runs(name=name, limit=1):
        return
    near = difflib.get_close_matches(name, known, 3, 0.6)
    words = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    raise NoSuchError(f"no job, drill or repository named {name!r}; {words}", next_step="backupctl runs")


def list_snapshots(context: Context, job: str | None) -> list[ListedSnapshot]:
    """Oldest first; with `job`, only its own. Raises NoSuchError for an unknown job."""
    names = [context.job(job).repository] if job is not None else list(context.settings.repositories)
    listed = []
    for name in names:
        repository = context.resources.repository(name)
        holds = held(repository, context.clock.now())
        every = repository.snapshots()
        decided: dict[str, Clearance] | None = None  # read when there is something to decide
        for snapshot in of_job(every, job) if job is not None else every:
            size = snapshot.summary.get("total_bytes_processed")
            tags = SnapshotTags.of(snapshot)
            if tags.suspicious and decided is None:
                decided = clearances(repository)
            decision = decided[tags.run].decision if decided and tags.suspicious and tags.run in decided else ""
            listed.append(ListedSnapshot(name, snapshot, tags, size, holds.get(snapshot.id, ""), decision))
    return sorted(listed, key=lambda one: (one.snapshot.time, not one.tags.complete, one.snapshot.id))


@contextmanager
def open_reader(context: Context, word: str) -> Iterator[SnapshotReader]:
    """`word`: a job's name (its newest complete snapshot), or a snapshot id in any repository."""
    repository, snapshot = locate(context, word)
    with repository.lock(), SnapshotReader(repository, snapshot) as reader:
        yield reader


def locate(context: Context, word: str) -> tuple[Repository, Snapshot]:
    """The first repository that knows the word. Raises NoSuchError when none does, or several snapshots there begin so; why
    one could not be opened when no other has it."""
    if word in context.settings.jobs:
        job = context.settings.jobs[word]
        repository = context.resources.repository(job.repository)
        return repository, select_snapshot(context, repository, job.job, "latest", job.timezone)
    names = repository_names(context)
    closed: UserError | None = None
    for name in names:
        try:
            repository = context.resources.repository(name)
            there = any(snapshot_id.startswith(word) for snapshot_id in repository.snapshot_ids())
        except UserError as error:
            closed = closed or error  # another one may have it
            continue
        if there:
            return repository, repository.load_snapshot(word)
    if closed is not None:
        raise closed
    raise NoSuchError(
        f"{word!r} is no job, and no snapshot in {', '.join(names)} begins so", next_step="backupctl snapshots"
    )


def repository_name(context: Context, repository: Repository) -> str:
    """What the configuration calls a repository that it opened."""
    return next(name for name in context.settings.repositories if context.resources.repository(name) is repository)
