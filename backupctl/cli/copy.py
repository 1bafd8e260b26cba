"""`copy`: the same snapshots in a second repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, size
from backupctl.errors import UsageError

if TYPE_CHECKING:
    from backupctl.operations.copy import CopyResult


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
@click.option("--snapshot", metavar="ID", help="Only this one, complete or not, whoever made it.")
@click.option(
    "--to",
    metavar="REPOSITORY",
    help="Into this repository (default: the job's `copies`).",
    shell_complete=completing.repositories,
)
def copy(jobs: tuple[str, ...], snapshot: str | None, to: str | None) -> int:
    """Bring the copies of each JOB (default: every job that has some) up to date: what its repository holds and a copy
    lacks is copied, verified, and sealed with the copy's own key.

    \b
    backupctl copy website                          into each of its `copies`
    backupctl copy website --to vault               into this one
    backupctl copy --snapshot 4f2a91c0 --to vault   one snapshot

    A snapshot that is there already is not copied again, and one that retention would remove from the copy at once is
    not copied. Stopped half-way, the same command goes on where it was.

    Exit code: 0 up to date, 3 some copy lags, 4 a snapshot could not be read from its repository (it is named).
    """
    from backupctl.cli.worst import worst
    from backupctl.errors import UserError
    from backupctl.operations import copy as operation

    context = open_context()
    output = output_of()
    if snapshot is not None:
        return worst(_told(one) for one in operation.copy_selected(context, jobs, snapshot, to))
    if not jobs and to is None and not any(job.copies for job in context.settings.jobs.values()):
        raise UsageError("no job names a copy", next_step="add `copies: [REPOSITORY]` to a job, or name one with --to")
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    codes = []
    for job in chosen:
        if not jobs and to is None and not job.copies:
            continue
        try:
            done = operation.copy_job_into(context, job, operation.targets(job, to))
            if len(chosen) == 1 and to is not None and (stopped := done[0][1]) is not None:
                raise stopped
        except UserError as error:
            if len(chosen) == 1:
                raise
            output.event("error", f"{job.job}: {error}", job=job.job)
            codes.append(error.exit_code)
            continue
        for result, failure in done:
            if failure is None:
                codes.append(_told(result))
            else:
                text = f"{job.job} to {result.destination}: {failure}"
                output.event("error", text, job=job.job, repository=result.destination)
                codes.append(failure.exit_code)
    return worst(codes)


def _told(result: CopyResult) -> int:
    output = output_of()
    for problem in result.problems:
        output.event("problem", problem, job=result.job, repository=result.source)
    what = f"{result.job or 'snapshot'}: {result.source} → {result.destination}"
    text = f"{what}: {count(len(result.copied), 'snapshot')} copied ({size(result.stored_bytes)} stored)"
    text += f", {result.present} there already" if result.present else ""
    text += f", {count(result.log_segments, 'log segment')} copied" if result.log_segments else ""
    text += f", {len(result.lacking)} could NOT be copied" if result.lacking else ""
    output.result("copied", text, **result.fields())
    return result.exit_code
