"""`wal-push`, `wal-fetch`, `wal`: PostgreSQL's write-ahead log, archived and got back.

The first two are typed by the server, once for each segment: they load nothing that they do not need.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupctl.cli.losses import search_options, tell_losses
from backupctl.cli.main import Common, Group, output_of
from backupctl.cli.session import open_context, settings
from backupctl.cli.words import count, size

if TYPE_CHECKING:
    from backupctl.config.resources import Resources

ABSENT = 10  # not 1: a Python that cannot start us ends in that


def _resources() -> Resources:
    from backupctl.clock import SystemClock
    from backupctl.config.resources import Resources

    resources = Resources(settings(), SystemClock())
    click.get_current_context().call_on_close(resources.close)
    return resources


@click.command("wal-push", cls=Common)
@click.argument("source", metavar="JOB[/SOURCE]")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--system", default="", metavar="IDENTIFIER", help="The server's identifier, where nothing else says it.")
def wal_push(source: str, path: Path, system: str) -> int:
    """Store the log segment at PATH in the repository of JOB: archive_command = 'backupctl wal-push site/db %p'.

    Exit code: 0 it is stored, or was already; anything else: the server has to try again. A segment of that name with other
    content is never replaced. One with a broken record is stored, since a server that cannot archive stops; it is told here, by
    `backupctl status` and by `backupctl check`: back up again.
    """
    from backupctl.operations import wal as operation

    resources = _resources()
    archive, began = operation.writable_archive(resources, resources.settings, source)
    pushed = operation.push(archive, path, system, began)
    text = f"{path.name} {'stored' if pushed.new else 'is there already, the same'}"
    output_of().event("pushed", text, name=path.name)
    if pushed.damage:
        output_of().event("warning", operation.damage_words(path.name, pushed, source), name=path.name)
    return 0


@click.command("wal-fetch", cls=Common)
@click.argument("source", metavar="JOB[/SOURCE]")
@click.argument("name", metavar="SEGMENT")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--system", default="", metavar="IDENTIFIER", help="The server's identifier (default: of the data directory here)."
)
def wal_fetch(source: str, name: str, path: Path, system: str) -> int:
    """Write the log segment SEGMENT to PATH, as PostgreSQL's restore_command.

    \b
    restore_command = 'backupctl -q wal-fetch site/db %f %p; case $? in 0) ;; 10) exit 10;; *) exit 200;; esac'

    Exit code: 0 it is there, 10 the archive does not hold it, 200 anything else. PostgreSQL takes 1 to 125 for the end of the
    log and stops with an error at 200: a network that is down, or a program that cannot start, must never look like the end.
    """
    from backupctl.errors import NoSuchError, UsageError
    from backupctl.operations import wal as operation

    server = system or operation.server_of(Path.cwd())
    if not server:
        raise UsageError(
            "whose log is wanted, nobody knows: this is no data directory", next_step="--system IDENTIFIER"
        )
    resources = _resources()
    archive = operation.archive_of(resources, resources.settings, source, server)
    try:
        data = operation.fetch(archive, name)
    except NoSuchError as error:
        output_of().event("absent", error.message, name=name)
        return ABSENT
    beside = path.with_name(path.name + ".backupctl")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return 0


@click.group(cls=Group)
def wal() -> None:
    """Show what is archived of a server's log, or receive it as it is written."""


@wal.command()
@click.argument("source", metavar="JOB[/SOURCE]")
def show(source: str) -> int:
    """What the archive holds of SOURCE's log: spans without a hole, the holes, and up to when it can be recovered.

    Exit code: 0 no hole, 3 holes or something unreadable, 10 no base backup or no log.
    """
    from backupctl.operations.wal_status import log_status

    output = output_of()
    context = open_context()
    job = context.one_job(source.partition("/")[0])
    worst = 0
    for found in log_status(context, job, source.partition("/")[2]):
        rows = [
            {
                "timeline": one.timeline,
                "from": found.lsn(one.start),
                "to": found.lsn(one.end),
                "what": "log",
                "bytes": size(one.end - one.start),
            }
            for one in found.spans
        ]
        rows += [
            {
                "timeline": one.timeline,
                "from": found.lsn(one.start),
                "to": found.lsn(one.end),
                "what": "HOLE",
                "bytes": size(one.end - one.start),
            }
            for one in found.holes
        ]
        rows.sort(key=lambda row: (str(row["timeline"]), str(row["from"])))
        output.table(
            "span", rows, ("timeline", "what", "from", "to", "bytes"), empty=f"{found.source}: no log is archived"
        )
        output.result("log", f"{found.source}: {found.text(output.local)}", **found.fields())
        for note in found.notes:
            output.event("warning", f"{found.source}: {note}")
        worst = max(worst, 3 if found.holes or found.notes else 0)
    return worst


@wal.command("find")
@click.argument("source", metavar="JOB[/SOURCE]")
@search_options("base backup")
def find_losses(source: str, since: str | None, until: str | None, rows: int) -> int:
    """Transactions in SOURCE's archived log that took much away, and what `restore --at` takes to stop just before each.

    Told are dropped databases, dropped or emptied tables and indexes, and many deleted or updated rows. The log has no names:
    a recovered server has. Exit code: 0 whatever is found, 3 the log has a hole, 10 no base backup or no log.
    """
    from backupctl.operations.select import parse_time
    from backupctl.operations.wal_find import search_log

    output = output_of()
    context = open_context()
    job = context.one_job(source.partition("/")[0])
    found = search_log(
        context,
        job,
        source.partition("/")[2],
        since=parse_time(since, job.timezone, start=True) if since else None,
        until=parse_time(until, job.timezone, start=False) if until else None,
        rows=rows,
    )
    table = [
        {
            "committed": loss.time,
            "xid": loss.xid,
            "timeline": timeline,
            "what": loss.words,
            "at": found.point(timeline, loss),
            "files": [list(one) for one in loss.relations],
        }
        for timeline, loss in found.losses
    ]
    return tell_losses(
        output,
        found,
        table,
        ("committed", "xid", "what", "at"),
        empty=f"nothing was dropped, emptied, or deleted or updated by {rows:,} rows at once",
        unit="segment",
        read=found.segments,
        restore=f"backupctl restore {job.job} --only db:NAME",
        point="before:LSN",
    )


@wal.command()
@click.argument("source", metavar="JOB[/SOURCE]")
def receive(source: str) -> int:
    """Receive SOURCE's log over a replication slot as it is written, and store each segment; until stopped.

    What is received of the newest segment is stored every few seconds: what a disaster costs is seconds, not a segment.
    Needs `wal: {slot: NAME, spool: DIRECTORY}` in the source. Exit code: 130 when it was stopped, anything else is a failure.
    """
    from backupctl.operations.wal_receive import receive as run

    context = open_context()
    stored = run(context, context.one_job(source.partition("/")[0]), source.partition("/")[2])
    output_of().result("received", f"{count(stored, 'segment')} stored", segments=stored)
    return 0
