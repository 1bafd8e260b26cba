"""`schedule`: what will run, when, and why not."""

from __future__ import annotations

from datetime import timedelta

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count
from backupctl.errors import UsageError


@click.group(cls=Group)
def schedule() -> None:
    """Look at the schedule, explain it, pause it."""


@schedule.command()
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True)
def preview(days: int) -> int:
    """Every start in the coming days, in order, and which of them will not be, with the reason.

    Jitter is included, because it is the same every day. Nights on which clocks are changed are told in words. More than
    four starts of a day that are alike stand in one line; with --json each has its own.
    """
    from backupctl.scheduling.planning import folded, plan, unscheduled

    context = open_context()
    output = output_of()
    now = context.clock.now()
    coming = plan(context.settings, context.catalog, now, now + timedelta(days=days))
    rows = [
        {
            "starts": one.starts,
            "kind": one.kind,
            "name": one.name,
            "runs": one.runs,
            "note": one.notes if output.json_lines else "; ".join(one.notes),
            "wall_clock": one.wall_clock,
            "scheduled": one.scheduled,
        }
        for one in (coming if output.json_lines else folded(coming))
    ]
    empty = f"nothing starts by the calendar in the next {count(days, 'day')}"
    output.table("firing", rows, ("wall_clock", "kind", "name", "runs", "note"), empty=empty)
    for kind, name, why in unscheduled(context.settings):
        output.event("unscheduled", f"{kind} {name}: {why}", kind=kind, name=name, why=why)
    return 0


@schedule.command()
@click.argument("job", shell_complete=completing.jobs)
def explain(job: str) -> int:
    """What the schedule of JOB says, in words; where it stands; its last runs and its next starts."""
    from backupctl.scheduling.planning import explain as told

    context = open_context()
    chosen = context.job(job)
    rows = [
        {"job": job, "topic": topic, "words": words}
        for topic, words in told(context.settings, context.catalog, chosen, context.clock.now())
    ]
    output_of().table("explanation", rows, ("topic", "words"), empty="")
    return 0


@schedule.command()
@click.argument("job", required=False, shell_complete=completing.jobs)
@click.option("--all", "everything", is_flag=True, help="Every job, drill and check.")
@click.option("--reason", required=True, help="Why; it is shown wherever the pause is.")
@click.option("--until", metavar="TIME|2d", required=True, help="When it ends by itself; a day counts whole.")
def pause(job: str | None, everything: bool, reason: str, until: str) -> int:
    """Start nothing of JOB by the schedule until then: no backup, no step after it, no drill.

    Starts that come meanwhile are recorded as skipped, with the reason, and are not caught up. What runs goes on, and
    `backupctl run JOB` still works. A paused job grows stale like any other: `status` says so.
    """
    from backupctl.operations.pauses import pause as place

    name = _chosen(job, everything)
    context = open_context()
    output = output_of()
    made = place(context, name, reason=reason, until=until)
    what = name or "everything"
    output.result(
        "paused",
        f"{what} is paused until {output.local(made.until)}: {made.reason}",
        job=name,
        reason=made.reason,
        until=made.until,
        owner=made.owner,
    )
    return 0


@schedule.command()
@click.argument("job", required=False, shell_complete=completing.jobs)
@click.option("--all", "everything", is_flag=True, help="End the pause of everything.")
def resume(job: str | None, everything: bool) -> int:
    """End the pause of JOB now. One of everything ends with --all only."""
    from backupctl.operations.pauses import resume as go_on

    name = _chosen(job, everything)
    context = open_context()
    ended = go_on(context, name)
    reasons = "; ".join(one.reason for one in ended)
    still = [one for one in context.catalog.pauses(at=context.clock.now()) if one.job == "" and name]
    output_of().result("resumed", f"{name or 'everything'} runs again (it was paused: {reasons})", job=name)
    for one in still:
        output_of().event("warning", f"everything is still paused: {one.reason}; backupctl schedule resume --all")
    return 0


def _chosen(job: str | None, everything: bool) -> str:
    if (job is None) != everything:
        raise UsageError("name one JOB, or --all", next_step="backupctl schedule pause --help")
    return job or ""
