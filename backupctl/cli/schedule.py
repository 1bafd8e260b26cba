"""`schedule`: what will run, and when."""

from __future__ import annotations

from datetime import timedelta

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context


@click.group(cls=Group)
def schedule() -> None:
    """Look at the schedule."""


@schedule.command()
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True)
def preview(days: int) -> int:
    """Every start in the coming days, in order; jitter included, because it is the same every day."""
    from backupctl.clock import to_zone
    from backupctl.scheduling.calendar import instants, jitter_of
    from backupctl.scheduling.timetables import timetables

    context = open_context()
    now = context.clock.now()
    until = now + timedelta(days=days)
    rows = []
    for timetable in timetables(context.settings):
        offset = jitter_of(timetable.name, timetable.jitter)
        for scheduled in instants(timetable, now - offset):
            if scheduled + offset > until:
                break
            rows.append(
                {
                    "starts": scheduled + offset,
                    "kind": timetable.kind,
                    "name": timetable.name,
                    "wall_clock": f"{to_zone(scheduled + offset, timetable.zone):%a %Y-%m-%d %H:%M:%S} {timetable.zone}",
                    "cron": timetable.cron,
                    "scheduled": scheduled,
                }
            )
    rows.sort(key=lambda row: str(row["scheduled"]))
    output_of().table("firing", rows, ("wall_clock", "kind", "name", "cron"), empty="nothing is scheduled")
    return 0
