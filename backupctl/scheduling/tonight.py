"""What would stop the runs of the coming day: each job tried before its time, and whether anything would start it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from backupctl.clock import iso
from backupctl.config.models import Job
from backupctl.operations.context import Context
from backupctl.operations.doctor import Diagnosis
from backupctl.operations.preflight import preflight
from backupctl.scheduling.identity import is_certainly_dead
from backupctl.scheduling.planning import plan
from backupctl.scheduling.sweep import sweep
from backupctl.scheduling.tags import taking, unserved

AHEAD = timedelta(hours=24)
AREA = "tonight"


def tonight(context: Context, jobs: list[Job], *, far: bool = True) -> Iterator[Diagnosis]:
    """Without `far`, hosts, sources and stores are not asked."""
    now = context.clock.now()
    names = {job.job for job in jobs}
    planned = [one for one in plan(context.settings, context.catalog, now, now + AHEAD) if one.kind == "backup"]
    for job in jobs:
        starts = [one for one in planned if one.name == job.job]
        stopped = [one for one in starts if not one.runs]
        if job.schedule is None:
            yield Diagnosis(AREA, job.job, "info", "it has no schedule: it runs when somebody says so")
        elif stopped:
            why = stopped[0].notes[0] if stopped[0].notes else "the calendar does not let it"
            yield Diagnosis(
                AREA,
                job.job,
                "error",
                f"will not run at {stopped[0].wall_clock}: {why}",
                f"backupctl schedule explain {job.job}",
            )
        elif starts:
            yield Diagnosis(AREA, job.job, "ok", f"starts at {starts[0].wall_clock}")
        else:
            yield Diagnosis(AREA, job.job, "info", "no start in the next 24 hours")
        if far:
            yield from _tried(context, job)
    yield from _starter(context, jobs)
    yield from _workers(context)
    for lapse in sweep(context.settings, context.catalog, now):
        if not lapse.job or lapse.job in names:
            text = f"{lapse.what}: {lapse.message}"
            subject = f"{lapse.kind} {lapse.name}"
            yield Diagnosis(AREA, subject, "warning", text, "backupctl status")  # it is over: `status` counts it


def _tried(context: Context, job: Job) -> Iterator[Diagnosis]:
    bad = False
    for subject, finding in preflight(context, job):
        bad = bad or finding.severity == "error"
        message = " ".join(finding.message.split())
        yield Diagnosis(AREA, f"{job.job}: {subject}", finding.severity, message, finding.next_step)
    if not bad:
        yield Diagnosis(AREA, job.job, "ok", "hosts, sources, repository and staging hosts are as it needs them")


def _workers(context: Context) -> Iterator[Diagnosis]:
    """Of a fleet: whether some worker has what each run needs."""
    if context.settings.fleet is None:
        return
    alive = taking(context.settings, context.catalog.workers(), context.clock.now())
    lacking = unserved(context.settings, [one.tags for one in alive])
    if not alive:
        yield Diagnosis(AREA, "workers", "error", "no worker takes anything: every run waits", "backupctl worker list")
    for tags in lacking if alive else ():
        yield Diagnosis(AREA, "workers", "error", f"no worker has what some runs need: {tags}", "backupctl worker list")
    if alive and not lacking:
        yield Diagnosis(AREA, "workers", "ok", f"{len(alive)} take runs, and have what each run needs")


def _starter(context: Context, jobs: list[Job]) -> Iterator[Diagnosis]:
    """Whether something starts what is due: a `serve` that lives, or a `run --due` that did lately."""
    if not any(job.schedule is not None for job in jobs):
        return
    services = [one for one in context.catalog.schedulers() if not is_certainly_dead(one.worker)]
    for one in services:
        place = one.worker.partition(" ")[0]
        if one.refused:
            text = f"`serve` on {place} refused the new configuration and runs the old one: {one.refused}"
            yield Diagnosis(AREA, "scheduler", "error", text, "backupctl config validate, then backupctl config reload")
        else:
            yield Diagnosis(
                AREA, "scheduler", "ok", f"`serve` on {place} since {iso(one.started.replace(microsecond=0))}"
            )
    if services:
        return
    lately = context.clock.now() - 2 * AHEAD
    if any(run.trigger in ("schedule", "catch_up") for run in context.catalog.runs(since=lately)):
        yield Diagnosis(AREA, "scheduler", "ok", "no `serve` runs; `run --due` started something in the last two days")
        return
    yield Diagnosis(
        AREA,
        "scheduler",
        "warning",
        "no `serve` runs that this catalog knows of, and `run --due` started nothing in the last two days",
        "systemctl status backupctl backupctl-due.timer; docs/how-to/schedule.md",
    )
