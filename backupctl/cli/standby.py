"""`standby`: machines that are kept warm from backups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, duration, size

if TYPE_CHECKING:
    from backupctl.operations.standby_kept import ServerState
    from backupctl.operations.standby_promotion import JobPromotion
    from backupctl.operations.standby_status import StandbyStatus

SHOWN_WARNINGS = 20


@click.group(cls=Group)
def standby() -> None:
    """Keep a machine warm from backups, and see how far behind it is."""


@standby.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--live", is_flag=True, help="Also ask the servers where they are at this moment.")
def status(names: tuple[str, ...], live: bool) -> int:
    """How far each standby is behind the newest backup, judged from the repository: what the last refresh has left there.

    Exit code: 0 all well, 6 further behind than its `lag`, or never refreshed; 14 a repository could not be asked.
    """
    from backupctl.operations.standby import standby_of
    from backupctl.operations.standby_status import look_now, standbys

    context = open_context()
    for name in names:
        standby_of(context, name)
    found = standbys(context, names=names)
    if live:
        look_now(context, found)
    show_standbys(found)
    for one in found:
        for note in one.notes:
            output_of().event("warning", f"{one.standby}: {one.job}: {note}")
    if any(one.missed for one in found):
        return 6
    return 14 if any(one.state == "unreachable" for one in found) else 0


def show_standbys(found: list[StandbyStatus]) -> None:
    rows = [
        one.fields()
        | {
            "snapshot": one.snapshot if output_of().json_lines else one.snapshot[:8],
            "lag": None if one.lag_seconds is None else duration(one.lag_seconds),
            "objective": None if one.objective_seconds is None else duration(one.objective_seconds),
        }
        for one in found
    ]
    columns = ("standby", "job", "host", "state", "snapshot", "applied", "lag", "objective", "refreshed")
    output_of().table("standby", rows, columns, empty="no standby is configured")


@standby.command()
@click.argument("name", metavar="NAME")
@click.option("--rebuild", default="", metavar="JOB/SOURCE", help="Build this server anew from the newest base backup.")
def refresh(name: str, rebuild: str) -> int:
    """Make the standby NAME what the newest snapshots of its jobs hold.

    PostgreSQL and MariaDB servers whose log is stored are kept running there, and replay it; they are started when they do not run.

    Only what differs is fetched; what is in no backup any more is removed, below the standby's own directory. A snapshot
    that looks attacked is passed over until somebody has cleared it.

    Exit code: 0 it is, 3 something could not be restored (each path is named), 5 the directory is not this standby's, 11 it
    is being refreshed already.
    """
    from backupctl.operations.standby import refresh as operation

    output = output_of()
    worst = 0
    for done in operation(open_context(), name, rebuild=rebuild):
        shown = done.warnings if output.json_lines else done.warnings[:SHOWN_WARNINGS]
        for warning in shown:
            output.event("warning", warning)
        if len(done.warnings) > len(shown):
            output.event("warning", f"… and {len(done.warnings) - len(shown)} more things could not be set")
        text = (
            f"{done.job}: as of {output.local(done.snapshot.time)} (snapshot {done.snapshot.short_id}): "
            f"{count(done.files, 'file')}, {size(done.bytes)} fetched, {done.kept_files:,} kept, {done.removed:,} removed "
            f"in {duration(done.seconds)}"
        )
        if done.problems:
            text += f"; {len(done.problems)} could NOT be restored"
            worst = 3
        output.result("refreshed", text, standby=name, **done.fields())
        for server in done.servers:
            show_server(name, server)
    return worst


def show_server(name: str, server: ServerState) -> None:
    output = output_of()
    behind = f"{duration(server.lag_seconds)} behind what is stored" if server.lag_seconds else "all that is stored"
    text = (
        f"{server.job}/{server.source}: replayed to {server.lsn}, last commit {output.local(server.commit)}, {behind}"
    )
    if not output.json_lines:
        output.result("server", text)
    for note in server.notes:
        output.event("warning", f"{server.job}/{server.source}: {note}", standby=name)


@standby.command()
@click.argument("name", metavar="NAME")
def stop(name: str) -> int:
    """Stop the servers that the standby NAME keeps running. Nothing is removed; the next `refresh` starts them again."""
    from backupctl.operations.standby import stop as operation

    for server in operation(open_context(), name):
        output_of().result("stopped", f"{server} stopped", server=server)
    return 0


@standby.command()
@click.argument("name", metavar="NAME")
@click.option("--apply", "act", is_flag=True, help="Do it. Without, the plan is shown and nothing is changed.")
@click.option("--accept-loss", is_flag=True, help="Even when a server cannot be brought to the end of what is stored.")
def promote(name: str, act: bool, accept_loss: bool) -> int:
    """Make the standby NAME the primary of its jobs. The old one is fenced off: its backups and its log are refused from then on.

    The fence is raised first; then what is stored until then is brought and replayed, the servers end their recovery, and what
    the jobs' configuration has to say is printed. Stop the old primary before: nobody else keeps its users away from it.
    Killed anywhere, the same command goes on.

    Exit code: 0 promoted, or the plan stands; 5 something stands against it.
    """
    from backupctl.operations.standby_promotion import apply, plan

    output = output_of()
    context = open_context()
    plans = plan(context, name)
    for one in plans:
        _show_plan(one)
    blocked = any(one.problems for one in plans)
    if not act:
        if not blocked:
            output.event("note", f"nothing was changed; to do it: backupctl standby promote {name} --apply")
        return 5 if blocked else 0
    for done in apply(context, name, plans, accept_loss=accept_loss):
        lines = "".join(f"\n  {key}: {value}" for key, value in done.lines)
        where = "".join(f"; {source} is on timeline {timeline}" for source, timeline in done.timelines.items())
        output.result(
            "promoted",
            f"{done.job}: promoted, epoch {done.epoch}{where}. In the job's configuration, wherever it lies:{lines}",
            standby=name,
            job=done.job,
            epoch=done.epoch,
            timelines=done.timelines,
            configuration=dict(done.lines),
        )
    return 0


def _show_plan(one: JobPromotion) -> None:
    output = output_of()
    text = (
        f"{one.job}: epoch {one.epoch} begins{' (its fence stands already)' if one.fenced else ''}; files as of "
        f"{output.local(one.data)} (snapshot {one.snapshot[:8]}); what {', '.join(one.old_hosts)} has written since is lost"
    )
    output.result("promotion", text, **one.fields())
    for server in one.servers:
        if not output.json_lines:
            output.result("server", f"  {server.source}: up to the last stored commit, {output.local(server.archived)}")
    for problem in one.problems:
        output.event("problem", f"{one.job}: {problem}", job=one.job)
