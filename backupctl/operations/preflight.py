"""`job check`: everything a job needs, tried before its first night."""

from __future__ import annotations

from backupctl.config.models import Job
from backupctl.errors import UserError
from backupctl.hosts.staging import require_marker
from backupctl.operations.context import Context
from backupctl.sources.protocol import PreflightFinding

Finding = tuple[str, PreflightFinding]


def preflight(context: Context, job: Job) -> list[Finding]:
    """(what was tried, what was found); only what deserves attention."""
    found: list[Finding] = []
    try:
        context.resources.repository(job.repository)
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
            require_marker(context.resources.host(drill.on), str(options.scratch).encode(), drill.on)
        except UserError as error:
            found.append((f"drill {name}", _error(error)))
    if job.retention is None:
        found.append(("retention", PreflightFinding("info", "no policy: every snapshot is kept for ever")))
    if not job.drills:
        message = "no drill: nobody will know whether this can be restored"
        found.append(("drills", PreflightFinding("warning", message, "add `drills:` to the job")))
    return found


def _error(error: UserError) -> PreflightFinding:
    return PreflightFinding("error", error.message, error.next_step)
