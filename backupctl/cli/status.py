"""`status`: what should exist against what does."""

from __future__ import annotations

import click

from backupctl.cli.main import Common, output_of
from backupctl.cli.output import duration
from backupctl.cli.session import open_context


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
def status(jobs: tuple[str, ...]) -> int:
    """Is every job's newest complete snapshot younger than its RPO, judged from the repository itself?

    Exit code: 0 all fresh, 6 something is stale, 14 a repository could not be reached.
    """
    from backupctl.operations.status import status as look

    context = open_context()
    output = output_of()
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    found = look(context, chosen)
    rows = []
    for one in found:
        rows.append(
            one.fields()
            | {
                "newest_complete": one.newest,
                "age": duration(one.age_seconds) if one.age_seconds is not None else None,
                "rpo": duration(one.rpo_seconds),
                "drilled": one.last_drill and f"{one.last_drill} (L{one.level})",
            }
        )
    columns = ("job", "state", "newest_complete", "age", "rpo", "snapshots", "last_run", "drilled")
    output.table("status", rows, columns, empty="no job is configured")
    if not output.json_lines:
        for one in found:
            for note in one.notes:
                output.event("note", f"{one.job}: {note}")
    states = {one.state for one in found}
    return 6 if "stale" in states else 14 if "unreachable" in states else 0
