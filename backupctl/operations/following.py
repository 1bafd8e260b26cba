"""What a schedule's `then` runs after a backup and has no other run of its own: retention, the copies, and the standbys."""

from __future__ import annotations

from typing import Any

from backupctl.catalog.models import Run
from backupctl.clock import iso
from backupctl.errors import UserError
from backupctl.operations import copy, retain, standby
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


def run_refresh(context: Context, run: Run) -> Outcome:
    """`standby refresh` of every standby that follows the job, as a run: each is tried. Failed when one could not be refreshed,
    incomplete when a file could not be restored."""
    job = context.job(run.name)
    refreshed, lacking, errors = [], [], list[UserError]()
    for name in [name for name, one in context.settings.standby.items() if job.job in one.jobs]:
        try:
            for done in standby.refresh(context, name):
                refreshed.append({"standby": name, **_told(done)})
                if done.problems:
                    lacking.append(f"{name}: {len(done.problems)} file(s) of {done.job} could not be restored")
        except UserError as error:
            context.reporter.event("error", f"{name}: {error}", job=job.job, standby=name)
            errors.append(error)
    return Outcome(
        state="failed" if errors else "incomplete" if lacking else "complete",
        exit_code=max([error.exit_code for error in errors] + [3 if lacking else 0]),
        message="; ".join([error.message for error in errors] + lacking),
        job=job.job,
        repository=job.repository,
        transient=bool(errors) and not lacking and all(error.transient for error in errors),
        summary={"refreshed": refreshed},
    )


def _told(done: standby.Refreshed) -> dict[str, Any]:
    return {
        **{name: getattr(done, name) for name in ("job", "files", "bytes", "removed", "seconds")},
        "snapshot": done.snapshot.id,
        "snapshot_time": iso(done.snapshot.time),
        "servers": [{"source": one.source, "lsn": one.lsn, "lag_seconds": one.lag_seconds} for one in done.servers],
    }
