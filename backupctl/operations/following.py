"""What a schedule's `then` runs after a backup and has no other run of its own: retention, and the copies."""

from __future__ import annotations

from backupctl.catalog.models import Run
from backupctl.operations import copy, retain
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome


def run_prune(context: Context, run: Run) -> Outcome:
    """`prune JOB --apply` as a run. Raises UserError for what stopped it, after every repository was tried."""
    job = context.job(run.name)
    done = retain.apply(context, [job])
    for preview, _ in done:
        if preview.damage is not None:
            raise preview.damage
    return Outcome(
        state="complete",
        exit_code=0,
        job=job.job,
        repository=job.repository,
        summary={
            "removed": sum(len(preview.forget) for preview, _ in done),
            "freed_bytes": sum(stats.freed_bytes for _, stats in done),
        },
    )


def run_copy(context: Context, run: Run) -> Outcome:
    """`copy JOB` as a run: every copy is tried. Failed when one could not be written, incomplete when one lacks snapshots
    that the primary cannot give. Raises UserError for what stops them all."""
    job = context.job(run.name)
    done = copy.copy_job_into(context, job, copy.targets(job, None))
    results = [result for result, error in done if error is None]
    errors = [error for _, error in done if error is not None]
    for result, error in done:
        if error is not None:
            name = result.destination
            context.reporter.event("error", f"{job.job} to {name}: {error}", job=job.job, repository=name)
    lacking = [f"{one.destination} lacks {len(one.lacking)} snapshot(s)" for one in results if one.lacking]
    return Outcome(
        state="failed" if errors else "incomplete" if lacking else "complete",
        exit_code=max([error.exit_code for error in errors] + [result.exit_code for result in results], default=0),
        message="; ".join([error.message for error in errors] + lacking),
        job=job.job,
        repository=job.repository,
        transient=bool(errors) and not lacking and all(error.transient for error in errors),
        summary={"copied": sum(len(one.copied) for one in results), "copies": [one.fields() for one in results]},
    )
