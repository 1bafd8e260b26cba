"""`doctor`: is everything in place?"""

from __future__ import annotations

from itertools import chain

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
@click.option("--here", is_flag=True, help="Look at this machine only; ask no host and no store.")
@click.option("--all", "every", is_flag=True, help="Also what is in order.")
def doctor(jobs: tuple[str, ...], here: bool, every: bool) -> int:
    """Look at versions, clocks, permissions, disks, secrets, every host and store, the settings of buckets, and what would
    stop the coming runs of each JOB (default: all). Nothing is changed, and nothing is written to a store.

    Exit code: 0 all in order, 3 warnings, 1 something would fail.
    """
    from backupctl.operations.doctor import examine
    from backupctl.scheduling.tonight import tonight

    output = output_of()
    context = open_context()
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    severities = []
    for one in chain(examine(context, far=not here), tonight(context, chosen, far=not here)):
        severities.append(one.severity)
        if output.json_lines:
            fields = {name: getattr(one, name) for name in one.__dataclass_fields__}
            output.result("diagnosis", "", **fields)
        elif every or one.severity in ("warning", "error"):
            text = f"{one.severity}: {one.area}: {one.subject}: {one.message}"
            output.result("diagnosis", text + (f"\n  next: {one.next_step}" if one.next_step else ""))
    errors, warnings = severities.count("error"), severities.count("warning")
    good = len(severities) - errors - warnings
    if not output.json_lines:
        bad = f"{count(errors, 'error')}, {count(warnings, 'warning')}, " if errors or warnings else ""
        output.result("summary", f"{bad}{good} of {len(severities)} things in order")
    return 1 if errors else 3 if warnings else 0
