"""`job`: look at jobs before they run at night."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context


@click.group(cls=Group)
def job() -> None:
    """List jobs, or check one before its first night."""


@job.command("list")
def list_() -> None:
    """All jobs."""
    context = open_context()
    rows = [
        {
            "job": one.job,
            "class": one.rating,
            "owner": one.owner,
            "sources": [f"{name} ({source.kind} on {source.host})" for name, source in one.sources.items()],
            "repository": one.repository,
            "schedule": one.schedule.cron if one.schedule else None,
            "drills": list(one.drills),
        }
        for one in context.settings.jobs.values()
    ]
    columns = ("job", "class", "owner", "sources", "repository", "schedule", "drills")
    output_of().table("job", rows, columns, empty="no job is configured")


@job.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
def check(jobs: tuple[str, ...]) -> int:
    """Reach every host, source, repository and staging host of each JOB (default: all) and say what would go wrong tonight.

    Exit code: 0 nothing, 3 warnings only, 1 something would fail.
    """
    from backupctl.operations.preflight import preflight

    output = output_of()
    context = open_context()
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    worst = 0
    for one in chosen:
        found = preflight(context, one)
        rows = [
            {
                "job": one.job,
                "subject": subject,
                "severity": finding.severity,
                "message": finding.message,
                "next_step": finding.next_step,
            }
            for subject, finding in found
        ]
        if output.json_lines or not rows:
            output.table("finding", rows, (), empty=f"{one.job}: everything is in place")
        else:  # sentences, which a table would make too wide to read
            for row in rows:
                text = f"{row['severity']}: {row['job']}: {row['subject']}: {' '.join(row['message'].split())}"
                output.result("finding", text + (f"\n  next: {row['next_step']}" if row["next_step"] else ""))
        severities = {finding.severity for _, finding in found}
        worst = 1 if "error" in severities else max(worst, 3 if "warning" in severities and worst != 1 else worst)
    return worst
