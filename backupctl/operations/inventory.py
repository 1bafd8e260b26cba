"""How a host differs now from the software inventory in a snapshot."""

from __future__ import annotations

from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.fallback import open_snapshot
from backupctl.operations.select import select_snapshot
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.software import SoftwareSource
from backupctl.sources.software_inventory import SectionDifference


def compare_host(
    context: Context, host_name: str, job_name: str, *, source_name: str | None, at: str
) -> tuple[Snapshot, str, list[SectionDifference]]:
    """(the snapshot, the source, one result per section). Raises NoSuchError when the job or snapshot has no such source,
    UsageError when it has several and none is named."""
    job = context.job(job_name)
    names = [name for name, settings in job.sources.items() if settings.kind == "software"]
    if source_name is not None and source_name not in names:
        raise NoSuchError(
            f"job {job_name} has no software source {source_name!r}; it has: {', '.join(names) or 'none'}",
            next_step=f"add `{source_name}: {{software: {{host: {host_name}}}}}` to its sources, and run it",
        )
    if source_name is None and len(names) != 1:
        raise (UsageError if names else NoSuchError)(
            f"job {job_name} has {len(names)} software sources: {', '.join(names) or 'none'}",
            next_step="name one with --source"
            if names
            else f"add `system: {{software: {{host: {host_name}}}}}` to its sources, and run it",
        )
    name = source_name or names[0]
    source = context.resources.source(job, name)
    assert isinstance(source, SoftwareSource)
    found = open_snapshot(
        context, job, lambda repository: select_snapshot(context, repository, job.job, at, job.timezone)
    )
    with found.repository.lock(), SnapshotReader(found.repository, found.snapshot) as reader:
        return found.snapshot, name, source.differences(context.resources.host(host_name), reader.files(name))
