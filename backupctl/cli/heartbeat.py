"""`heartbeat`: a row with the time, by which a drill tells how much would have been lost."""

from __future__ import annotations

import click

from backupctl.cli.main import Common, output_of
from backupctl.cli.session import settings


@click.command(cls=Common)
@click.argument("source", metavar="JOB[/SOURCE]")
def heartbeat(source: str) -> int:
    """Write the time into the heartbeat table of a PostgreSQL source: by cron, every minute.

    \b
    * * * * *  backup  backupctl heartbeat website/site-db --quiet

    Needs `heartbeat: DATABASE` in the source, and the table there; `backupctl job check JOB` says how to make it. Each drill
    reads it back from what was restored, and counts the RPO from it. Exit code: 0 it is committed, anything else it is not.
    """
    from backupctl.clock import SystemClock
    from backupctl.config.resources import Resources
    from backupctl.operations.heartbeat import beat

    resources = Resources(settings(), SystemClock())
    click.get_current_context().call_on_close(resources.close)
    name, at = beat(resources, source)
    output = output_of()
    output.event("heartbeat", f"{name}: {output.local(at)}", source=name, at=at)
    return 0
