"""Which two snapshots a person means to compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.browse import locate, repository_name
from backupctl.operations.context import Context
from backupctl.operations.records import of_job
from backupctl.repository.diff import SnapshotDiff
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository


@contextmanager
def open_diff(
    context: Context, old: str, new: str, path: bytes = b"", *, metadata: bool = False
) -> Iterator[tuple[Snapshot, Snapshot, SnapshotDiff]]:
    """Two snapshots by id, or by a job's name for its newest complete one. UsageError when they lie in different
    repositories: equal content has unequal names there."""
    repository, before = locate(context, old)
    other, after = locate(context, new)
    if other is not repository:
        names = [repository_name(context, one) for one in (repository, other)]
        raise UsageError(
            f"{before.short_id} is in {names[0]} and {after.short_id} in {names[1]}: only snapshots of one repository "
            "can be compared",
            next_step="backupctl snapshots",
        )
    with _locked(repository, before, after, path, metadata) as found:
        yield found


@contextmanager
def open_job_diff(
    context: Context, job: str, path: bytes = b"", *, metadata: bool = False
) -> Iterator[tuple[Snapshot, Snapshot, SnapshotDiff]]:
    """The two newest complete snapshots of a job. Raises NoSuchError when it has fewer."""
    repository = context.resources.repository(context.job(job).repository)
    complete = of_job(repository.snapshots(), job, complete_only=True)
    if len(complete) < 2:
        raise NoSuchError(
            f"job {job} has {len(complete)} complete snapshot(s): two are needed to compare",
            next_step=f"backupctl run {job}",
        )
    with _locked(repository, complete[-2], complete[-1], path, metadata) as found:
        yield found


@contextmanager
def _locked(
    repository: Repository, old: Snapshot, new: Snapshot, path: bytes, metadata: bool
) -> Iterator[tuple[Snapshot, Snapshot, SnapshotDiff]]:
    with repository.lock():
        yield old, new, SnapshotDiff(repository, old, new, path, metadata=metadata)
