"""`runs`, `cancel`: what was started and how it ended; ending one that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import duration

if TYPE_CHECKING:
    from datetime import datetime

    from backupctl.catalog.models import Run


@click.command(cls=Common)
@click.argument("name", required=False, metavar="[JOB|JOB/DRILL|REPOSITORY]", shell_complete=completing.runs)
@click.option("--live", is_flag=True, help="Only what waits or goes on.")
@click.option("--limit", type=click.IntRange(1), default=25, show_default=True)
def runs(name: str | None, live: bool, limit: int) -> int:
    """List the newest runs, oldest first, as the catalog knows them: backups and their helpers, checks, drills, and the
    steps after a backup.

    Exit code: 0, also when there is none; 10 for a name that nothing has.
    """
    from backupctl.catalog.models import LIVE_STATES
    from backupctl.operations.browse import check_run_name

    context, output = open_context(), output_of()
    if name is not None:
        check_run_name(context, name)
    found = context.catalog.runs(name=name, states=LIVE_STATES if live else None, first_seen=False, limit=limit)
    now = context.clock.now()
    columns = ("run", "kind", "name", "state", "verdict", "started", "took", "worker", "message")
    output.table(
        "run",
        [_row(run, now, short=not output.json_lines) for run in reversed(found)],
        columns,
        empty="nothing waits or goes on" if live else "no run is known",
        right=("took",),
    )
    return 0


def _row(run: Run, now: datetime, *, short: bool) -> dict[str, object]:
    seconds = None if run.started is None else ((run.finished or now) - run.started).total_seconds()
    return {
        "run": run.id[:8] if short else run.id,
        "kind": run.kind,
        "name": run.name,
        "state": run.state,
        "verdict": run.summary.get("verdict", ""),
        "trigger": run.trigger,
        "scheduled": run.scheduled,
        "started": run.started,
        "finished": run.finished,
        "seconds": seconds,
        "took": None if seconds is None else duration(seconds),
        "stopping": run.stopping,
        "worker": run.worker.partition(" ")[0] if run.state == "running" or not short else "",
        "exit_code": run.exit_code,
        "snapshot": run.snapshot,
        "repository": run.repository,
        "message": run.message,
    }


@click.command(cls=Common)
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=completing.runs)
@click.option("--reason", required=True, help="Why; it stands in the run and in the audit trail.")
def cancel(names: tuple[str, ...], reason: str) -> int:
    """End each RUN that waits or goes on, in whichever process and on whichever machine: by its id, or by the name of its job,
    drill or repository.

    What waits ends at once. What goes on hears of it with its next heartbeat, gives its locks back and ends as cancelled; it
    leaves no snapshot, and the next run does not store again what it has stored. It is not tried again, and nothing follows
    it; the next start of its schedule comes as ever.

    Exit code: 0 all are ended or told, 10 no such run waits or goes on. `backupctl runs --live` lists them.
    """
    from backupctl.scheduling.cancelling import cancel as cancel_run
    from backupctl.scheduling.worker import heartbeat_seconds

    context, output = open_context(), output_of()
    for name in names:
        run, ended = cancel_run(context, name, reason=reason)
        hears = f"is told to stop; it hears of it within {duration(heartbeat_seconds(context.settings))}"
        output.result(
            "cancelled" if ended else "stopping",
            f"{run.kind} {run.name} ({run.id[:8]}) {'is taken out of the queue' if ended else hears}",
            run=run.id,
            kind=run.kind,
            job=run.name,
            reason=reason,
        )
    return 0
