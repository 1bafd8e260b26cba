"""`restore`: get it back."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, duration, size

if TYPE_CHECKING:
    from backupctl.operations.restore import Restored, RestoreOrder


@click.command(cls=Common)
@click.argument("job", required=False, shell_complete=completing.jobs)
@click.option(
    "--at",
    default="latest",
    show_default=True,
    metavar="latest|TIME|ID|POINT",
    help="Which snapshot, or, with --start-database, which point of a stored log.",
)
@click.option(
    "--only",
    metavar="PATH|db:NAME|schema:NAME|table:NAME",
    help="Only this path of the snapshot, or this part of a database.",
)
@click.option("--into", required=True, metavar="[HOST:]DIR", help="An empty or new directory, here or on a host.")
@click.option(
    "--start-database", is_flag=True, help="Start a private server in DIR and load what --only names into it."
)
@click.option("--as", "rename", default="", metavar="NAME", help="With a server: call it NAME there.")
@click.option(
    "--into-server",
    metavar="CONNINFO",
    help="Bring the database on into this live server, as a new database NAME; DIR is only on the way.",
)
@click.option(
    "--from",
    "origin",
    metavar="REPOSITORY",
    help="Read from this repository, a copy for example (default: the job's, and its copies for what is damaged there).",
    shell_complete=completing.repositories,
)
@click.option("--overwrite", is_flag=True, help="Restore into a directory that is not empty; equal names are replaced.")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would happen, and stop.")
def restore(
    job: str | None,
    at: str,
    only: str | None,
    into: str,
    start_database: bool,
    rename: str,
    into_server: str | None,
    origin: str | None,
    overwrite: bool,
    only_plan: bool,
) -> int:
    """Restore a snapshot of JOB, or a part of it, into a directory.

    \b
    backupctl restore website --into /srv/back                       the newest complete snapshot
    backupctl restore website --at "2026-11-20 03:00" --only uploads/srv/www --into /srv/back
    backupctl restore website --only db:site --into /srv/dump        the dump files
    backupctl restore website --only db:site --start-database --into /srv/site-db
    … --at "2026-11-20 03:00:12", --at lsn:0/16B3748, --at xid:1234, --at point:NAME   along a log that is archived
    backupctl restore website --only db:site --into /srv/way --into-server "host=/run/postgresql user=postgres" --as site_before
    … --at before:0/16B3748                                          just before what `backupctl wal find` has found
    backupctl restore website --only table:public.articles --start-database --into /srv/articles
    … --at "2026-11-20 03:17:59", --at mysql-bin.000007:4711, --at 0-1-4711            through binary logs that are stored
    backupctl restore website --into web2:/srv/back                  onto an SSH host

    Exit code: 0 everything is back, 3 something is missing (each path is named).
    """
    from backupctl.hosts.workers import prepared
    from backupctl.operations import restore as operation

    if not only_plan:  # before there are threads
        click.get_current_context().with_resource(prepared("backupctl.repository.restore"))
    context = open_context()
    output = output_of()
    order = operation.plan(
        context,
        job,
        at=at,
        only=only,
        into=into,
        start_database=start_database,
        rename=rename,
        overwrite=overwrite,
        origin=origin,
        into_server=into_server,
        exact=only_plan,
    )
    facts = order.fields()
    when = output.local(order.snapshot.time)
    incomplete = "" if facts["complete"] else ", NOT complete"
    to = f", rolled forward to {facts['point']}," if facts["point"] else ""
    loaded = f"{order.shown}, from " if order.start_database else ""
    on = f", and from there into the server {facts['into_server']}" if facts["into_server"] else ""
    directories = f", {count(order.directories, 'directory')}" if order.directories is not None else ""
    what = (
        f"{loaded}{facts['path']} of snapshot {order.snapshot.short_id} ({when}{incomplete}){to} into {order.target}: "
        f"{count(order.files, 'file')}{directories}, {size(order.bytes)}; "
        f"{size(order.free_bytes)} free there{on}"
    )
    for problem in order.problems:
        output.event("problem", problem)
    if only_plan:
        output.result("plan", f"would restore {what}", **facts)
        return 0
    output.event("restore", f"restoring {what}", **facts)
    started = time.monotonic()
    done = operation.apply(context, order)
    seconds = time.monotonic() - started
    shown = 20
    for warning in done.warnings if output.json_lines else done.warnings[:shown]:
        output.event("warning", warning)
    if len(done.warnings) > shown and not output.json_lines:
        output.event("warning", f"… and {len(done.warnings) - shown} more things could not be set")
    rate = f", {size(done.bytes / seconds)}/s" if seconds > 0 else ""
    text = f"restored {count(done.files, 'file')}, {size(done.bytes)} in {duration(seconds)}{rate} into {order.target}"
    elsewhere = order.fallback.notes if order.fallback is not None else []
    if elsewhere:
        text += f"; {'; '.join(elsewhere)}; see: backupctl check --read-data"
    if done.problems:
        text += f"; {len(done.problems)} could NOT be restored"
    fields: dict[str, object] = {}
    if done.instance is not None:
        text, fields = _served(order, done)
    if done.sent:
        text, fields = f"{'; '.join(done.sent)} ({duration(seconds)})", {"sent": done.sent}
    output.result(
        "restored",
        text,
        files=done.files,
        bytes=done.bytes,
        seconds=seconds,
        target=str(order.target),
        snapshot=order.snapshot.id,
        problems=[{"path": one.path, "message": one.message} for one in done.problems],
        warnings=len(done.warnings),
        repository=facts["repository"],
        elsewhere=elsewhere,
        **fields,
    )
    return 3 if done.problems else 0


def _served(order: RestoreOrder, done: Restored) -> tuple[str, dict[str, object]]:
    """How to look into the restored database, and how to get rid of it: commands to copy."""
    instance = done.instance
    assert instance is not None
    pid = instance.pid
    end = [f"kill {pid}", f"tail --pid={pid} -f /dev/null"] if pid else []  # tail: until the server has really ended
    end.append(f"rm -r {shlex.join(done.leftovers)}")
    where = "" if order.target.host == "local" else f" on host {order.target.host}"
    by = f"served by process {pid}" if pid else "restored"
    text = (
        f"{order.shown} is {by}{where} ({instance.kind} {instance.version}) in {order.target.directory}\n"
        f"  look inside{where}: {shlex.join(done.connect)}\n"
        f"  when done{where}: {' && '.join(end)}"
    )
    fields = {"pid": pid, "connection": instance.connection, "connect": done.connect, "remove": done.leftovers}
    return text, fields
