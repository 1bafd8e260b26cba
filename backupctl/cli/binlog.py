"""`binlog`: a MariaDB server's binary logs, received as they are written."""

from __future__ import annotations

import click

from backupctl.cli.losses import search_options, tell_losses
from backupctl.cli.main import Common, Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import size


@click.group(cls=Group)
def binlog() -> None:
    """Show what is stored of a MariaDB server's binary logs, or receive them as they are written."""


@binlog.command(cls=Common)
@click.argument("source", metavar="JOB[/SOURCE]")
def show(source: str) -> int:
    """What was received of SOURCE's binary logs: each log, the holes, and up to when it can be recovered.

    Exit code: 0 no hole, 3 holes or something unreadable, 10 no backup.
    """
    from backupctl.operations.binlog_status import binlog_status

    output = output_of()
    context = open_context()
    job = context.one_job(source.partition("/")[0])
    worst = 0
    for found in binlog_status(context, job, source.partition("/")[2]):
        rows = [
            {
                "file": one.file,
                "what": one.what,
                "from": one.start,
                "to": one.end,
                "bytes": size(one.bytes) if one.bytes is not None else "",
            }
            for one in found.rows
        ]
        output.table(
            "span", rows, ("file", "what", "from", "to", "bytes"), empty=f"{found.source}: no binary log was received"
        )
        output.result("log", f"{found.source}: {found.text(output.local)}", **found.fields())
        for note in found.notes:
            output.event("warning", f"{found.source}: {note}")
        worst = max(worst, 3 if found.notes else 0)
    return worst


@binlog.command("find", cls=Common)
@click.argument("source", metavar="JOB[/SOURCE]")
@search_options("backup")
def find_losses(source: str, since: str | None, until: str | None, rows: int) -> int:
    """Transactions in SOURCE's stored binary logs that took much away, and what `restore --at` takes to stop just before each.

    Told are dropped databases, tables, columns and partitions, emptied or replaced tables, and many deleted or updated rows; of
    a DELETE or UPDATE that was logged as a statement, only one without WHERE. Exit code: 0 whatever is found, 3 the logs have a gap
    or damage, 10 no backup or no log.
    """
    from backupctl.operations.binlog_find import search_binlogs
    from backupctl.operations.select import parse_time

    output = output_of()
    context = open_context()
    job = context.one_job(source.partition("/")[0])
    found = search_binlogs(
        context,
        job,
        source.partition("/")[2],
        since=parse_time(since, job.timezone, start=True) if since else None,
        until=parse_time(until, job.timezone, start=False) if until else None,
        rows=rows,
    )
    table = [
        {"committed": loss.time, "gtid": loss.gtid, "what": loss.words, "at": loss.before} for loss in found.losses
    ]
    return tell_losses(
        output,
        found,
        table,
        ("committed", "gtid", "what", "at"),
        empty=f"nothing was dropped or emptied, or deleted or updated by {rows:,} rows at once",
        unit="log",
        read=found.logs,
        restore=f"backupctl restore {job.job} --only {found.source}",
        point="FILE:POSITION",
    )


@binlog.command(cls=Common)
@click.argument("source", metavar="JOB[/SOURCE]")
def receive(source: str) -> int:
    """Receive SOURCE's binary logs as a replica would, and store what came every few seconds; until stopped.

    Needs `binlog: {}` in the source. A connection that ends is made again, and the log that was interrupted is received from its
    beginning: nothing is kept on the source's host. Exit code: 130 when it was stopped, anything else is a failure.
    """
    from backupctl.operations.binlog_receive import receive as run

    context = open_context()
    stored = run(context, context.one_job(source.partition("/")[0]), source.partition("/")[2])
    output_of().result("received", f"{size(stored)} stored", bytes=stored)
    return 0
