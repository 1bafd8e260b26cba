"""A heartbeat row written into a source. Works without the catalog: cron types it every minute."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from backupctl.config.resources import Resources
from backupctl.errors import NoSuchError, UsageError
from backupctl.sources.postgresql import PostgresqlSource


def beat(resources: Resources, name: str) -> tuple[str, datetime]:
    """Of JOB/SOURCE, or of JOB when it has one source with a heartbeat: JOB/SOURCE, and the server's time. Raises NoSuchError,
    UsageError, SourceError."""
    settings = resources.settings
    job_name, _, source = name.partition("/")
    if job_name not in settings.jobs:
        known = ", ".join(sorted(settings.jobs)) or "none"
        raise NoSuchError(f"no job named {job_name!r}; known jobs: {known}", next_step="backupctl config show")
    job = settings.jobs[job_name]
    fitting = [
        one
        for one, options in job.sources.items()
        if source in ("", one) and getattr(options.options, "heartbeat", None) is not None
    ]
    if len(fitting) != 1:
        raise UsageError(
            f"job {job_name} has {len(fitting)} sources with a heartbeat that could be meant by {name!r}",
            next_step=f"name one: {job_name}/SOURCE"
            if fitting
            else "add `heartbeat: DATABASE` to the PostgreSQL source",
        )
    chosen = cast(PostgresqlSource, resources.source(job, fitting[0]))
    return f"{job_name}/{fitting[0]}", chosen.beat(resources.host(job.sources[fitting[0]].host))
