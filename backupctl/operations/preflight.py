"""`job check`: everything a job needs, tried before its first night."""

from __future__ import annotations

from collections.abc import Iterator

from backupctl.config.models import Job
from backupctl.errors import UserError
from backupctl.hosts.options import HostOptions
from backupctl.hosts.protocol import Host
from backupctl.hosts.staging import require_marker
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.repository.fence import require_epoch
from backupctl.repository.manifest import read_manifest
from backupctl.sources.protocol import PreflightFinding, StagedSource

Finding = tuple[str, PreflightFinding]


def preflight(context: Context, job: Job) -> list[Finding]:
    """(what was tried, what was found); only what deserves attention."""
    found: list[Finding] = []
    try:
        require_epoch(context.resources.repository(job.repository), job.job, job.epoch)
    except UserError as error:
        found.append((f"repository {job.repository}", _error(error)))
    for name, settings in job.sources.items():
        try:
            host = context.resources.host(settings.host)
            found += [(f"source {name}", one) for one in context.resources.source(job, name).preflight(host)]
        except UserError as error:
            found.append((f"source {name}", _error(error)))
    for name, drill in job.drills.items():
        options = context.settings.hosts[drill.on]
        try:
            staging = context.resources.host(drill.on)
            require_marker(staging, str(options.scratch).encode(), drill.on)
            found += [(f"drill {name}", one) for one in _staging(context, job, staging, options)]
        except UserError as error:
            found.append((f"drill {name}", _error(error)))
    if job.retention is None:
        found.append(("retention", PreflightFinding("info", "no policy: every snapshot is kept for ever")))
    if not job.drills:
        message = "no drill: nobody will know whether this can be restored"
        found.append(("drills", PreflightFinding("warning", message, "add `drills:` to the job")))
    return found


def _staging(context: Context, job: Job, staging: Host, options: HostOptions) -> Iterator[PreflightFinding]:
    """What the staging host lacks, and whether it has room: as the sources say, or as the newest snapshot does."""
    room = 0
    stored = _stored_bytes(context, job)
    for name, settings in job.sources.items():
        source = context.resources.source(job, name)
        room += stored.get(name, 0) if not isinstance(source, StagedSource) else 0
        if isinstance(source, StagedSource):
            try:
                needs = source.staging_needs(context.resources.host(settings.host), staging)
            except (UserError, OSError):
                continue  # the source's own finding says why
            room += needs.bytes
            yield from needs.findings
    scratch = str(options.scratch)
    free = staging.free_bytes(scratch.encode("utf-8", "surrogateescape"))
    if room > free:
        message = f"{scratch} on host {staging.name} has {free:,} bytes free; a drill needs about {room:,}"
        yield PreflightFinding("error", message, "make room there, or name another `scratch`")
    if options.max_disk is not None and room > options.max_disk:
        message = f"drills on host {staging.name} may use {options.max_disk:,} bytes; this one needs about {room:,}"
        yield PreflightFinding("error", message, f"raise `max_disk` of host {staging.name}")


def _stored_bytes(context: Context, job: Job) -> dict[str, int]:
    """What each source held in the newest complete snapshot; nothing before the first night."""
    try:
        repository = context.resources.repository(job.repository)
        snapshots = of_job(repository.snapshots(), job.job, complete_only=True)
        if not snapshots:
            return {}
        manifest = read_manifest(repository, fingerprint_of(repository, snapshots[-1])["manifest"])
    except (UserError, OSError):
        return {}  # the repository's own finding says why
    return {name: manifest.totals(name).bytes for name in job.sources}


def _error(error: UserError) -> PreflightFinding:
    return PreflightFinding("error", error.message, error.next_step)
