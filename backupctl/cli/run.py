"""`run`: back up now, or what is due."""

from __future__ import annotations

from functools import partial

import click

from backupctl.cli import completing
from backupctl.cli.main import Common
from backupctl.cli.session import open_context
from backupctl.errors import UsageError


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
@click.option("--due", is_flag=True, help="Everything that is due: backups, checks and drills. Safe to call from cron.")
def run(jobs: tuple[str, ...], due: bool) -> int:
    """Back up each JOB now (default: all of them), each as its own run in its own process.

    With --due, start what the schedules say is due and was not started yet, including one catch-up for starts that were
    missed, and wait for it. Two of these at once, or one beside `serve`, never run the same thing twice.

    Exit code: the worst of all runs. 0 complete, 3 incomplete (the snapshot names what it lacks), 1 failed.
    """
    from backupctl.cli.dispatching import launcher_of, run_in_foreground
    from backupctl.cli.watching import is_watched, watched

    if due and jobs:
        raise UsageError("--due looks at every schedule", next_step="backupctl run --due, or backupctl run JOB")
    if not due and (code := watched()) is not None:
        return code
    from backupctl.operations.ahead import before_all

    context = open_context(ahead=partial(before_all, kind="backup", names=jobs) if is_watched() else None)
    if due:  # what this needs brings the scheduler, which a run asked for by name can do without
        from backupctl.cli.worst import worst
        from backupctl.scheduling.service import Service
        from backupctl.scheduling.telling import Teller

        service = Service(
            context.settings,
            context.catalog,
            context.clock,
            launcher_of(context).foreground,
            parallel=1,
            tell=Teller(context),
        )
        return worst(service.run_due())
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    if not chosen:
        raise UsageError("the configuration has no job", next_step="write one; `backupctl config schema` describes it")
    return run_in_foreground(context, [("backup", job.job, {}) for job in chosen])
