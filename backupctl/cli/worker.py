"""`worker`: executes what `serve` hands out in a fleet; and the process in which one run happens."""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context, settings
from backupctl.cli.words import count, duration, size
from backupctl.clock import parse_iso
from backupctl.errors import NoSuchError

if TYPE_CHECKING:
    from backupctl.catalog.models import Run
    from backupctl.operations.context import Context


@click.group(cls=Group, invoke_without_command=True)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="What this machine can reach; may be given again.")
@click.option("--parallel", type=click.IntRange(1, 64), default=2, show_default=True, help="How many runs at a time.")
@click.option("--name", metavar="NAME", help="What it is called in `worker list`.  [default: HOST:PID]")
@click.option("--run", "run_id", hidden=True, help="Execute this queued run in this process.")
@click.option("--settings-from-stdin", "given", is_flag=True, hidden=True, help="The configuration in force.")
@click.pass_context
def worker(
    click_context: click.Context,
    tags: tuple[str, ...],
    parallel: int,
    name: str | None,
    run_id: str | None,
    given: bool,
) -> int:
    """Take runs that `backupctl serve` hands out, on this or any machine, each run in a process of its own.

    It takes those whose hosts and repositories need no tag that it lacks. The first SIGTERM or Ctrl-C drains it: it takes
    nothing new and ends when its runs are done; the second one stops them.
    """
    if click_context.invoked_subcommand is not None:
        return 0
    if run_id is not None:
        return _one_run(run_id, given)
    return _serve(tags, parallel, name or f"{socket.gethostname()}:{os.getpid()}")


def _serve(tags: tuple[str, ...], parallel: int, name: str) -> int:
    from backupctl.cli.dispatching import launcher_of
    from backupctl.cli.manager import tell_ready
    from backupctl.config.load import load
    from backupctl.scheduling.fleet import FleetWorker, check_clock, fleet_of

    output = output_of()
    found = settings()
    fleet_of(found)
    context = open_context(found, upgrade=False)
    check_clock(context)
    launcher = launcher_of(context, hand_over=True)
    worker = FleetWorker(
        context, launcher, name=name, tags=tags, parallel=parallel, load=partial(load, context.settings.path)
    )
    asked = 0

    def handler(number: int, frame: object) -> None:
        nonlocal asked
        asked += 1
        worker.drain()
        if asked > 1:
            launcher.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    words = f"tags {', '.join(sorted(tags))}" if tags else "no tags"
    tell_ready()
    output.event("worker", f"worker {name} started, {words}; drain it with Ctrl-C or SIGTERM", name=name)
    worker.serve()
    output.event("worker", f"worker {name} has drained", name=name)
    return 0


@worker.command("list")
def list_() -> int:
    """The workers of the fleet, and what nobody in it can serve."""
    from backupctl.scheduling.fleet import fleet_of
    from backupctl.scheduling.tags import taking, unserved

    context, output = open_context(), output_of()
    stalled_after = fleet_of(context.settings).stalled_after
    now = context.clock.now()
    rows = []
    known = context.catalog.workers()
    for one in known:
        silent = now - one.seen > stalled_after
        state = "silent" if silent else f"draining: {one.reason}" if one.draining else "working"
        rows.append(
            {
                "name": one.name,
                "state": state,
                "tags": list(one.tags) if output.json_lines else ", ".join(one.tags),
                "parallel": one.parallel,
                "release": one.release,
                "seen": one.seen,
            }
        )
    output.table("worker", rows, ("name", "state", "tags", "parallel", "release", "seen"), empty="no worker runs")
    for tags in unserved(context.settings, [one.tags for one in taking(context.settings, known, now)]):
        output.event("warning", f"no worker has what some runs need: {tags}", needs=tags)
    return 0


@worker.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--reason", default="asked to", show_default=True, help="Why; `worker list` shows it.")
def drain(names: tuple[str, ...], reason: str) -> int:
    """Have workers take nothing new, and end when what they do is done. They hear of it with their next heartbeat."""
    from backupctl.scheduling.fleet import fleet_of

    context, output = open_context(), output_of()
    fleet_of(context.settings)
    known = {one.name for one in context.catalog.workers()}
    for name in names:
        if name not in known:
            raise NoSuchError(f"no worker is called {name!r}", next_step="backupctl worker list")
    for one in context.catalog.drain_workers(names, reason=reason):
        context.audit("worker.drained", one.name, reason=reason)
        output.result("draining", f"worker {one.name} drains", name=one.name, reason=reason)
    return 0


def _one_run(run_id: str, given: bool) -> int:
    """Execute one queued run in this process."""
    from backupctl.config.handover import from_text

    output = output_of()
    output.inner = True
    return execute(open_context(from_text(sys.stdin.read()) if given else None, upgrade=False), run_id)


def execute(context: Context, run_id: str) -> int:
    """Execute one queued run in this process, and say how it ended."""
    from backupctl.cli.logs import bind
    from backupctl.operations.tracing import export_run
    from backupctl.scheduling.timetables import job_of
    from backupctl.scheduling.worker import execute_run

    known = context.catalog.run(run_id)
    bind(run=run_id, job=job_of(known) if known is not None else "")
    code = execute_run(context, run_id)
    run = context.catalog.run(run_id)
    if run is None:
        return code
    export_run(context, run)
    _tell(run, code)
    return code


def _tell(run: Run, code: int) -> None:
    output = output_of()
    summary = run.summary
    words = [f"{run.kind} {run.name}: {summary.get('verdict', run.state)}"]
    if run.kind == "backup" and run.snapshot:
        words.append(f"snapshot {run.snapshot[:8]}")
        words.append(
            f"{count(summary['files'], 'file')} ({summary['new_files']:,} new, {summary['changed_files']:,} changed), "
            f"{size(summary['bytes'])}, {size(summary['stored_bytes'])} stored"
        )
        if summary.get("resumed_files"):
            resumed = f"{count(summary['resumed_files'], 'file')}, {size(summary['resumed_bytes'])}"
            words.append(f"resumed: {resumed} not read again")
        words += [
            f"copied to {one['destination']}: {count(len(one['copied']), 'snapshot')}, {size(one['stored_bytes'])} stored"
            for one in summary.get("copies", ())
            if not one["error"]  # a copy that lags is in the message
        ]
    if run.kind == "drill" and "level" in summary:
        words.append(
            f"level L{summary['level']}, {count(summary['checks'], 'check')}, {summary['failed_checks']} differing"
        )
        if summary["rto_seconds"] is not None:
            words.append(f"RTO {duration(summary['rto_seconds'])}")
        if summary["rpo_seconds"] is not None:
            words.append(f"RPO {duration(summary['rpo_seconds'])}")
    if run.kind == "prune" and "removed" in summary:
        words.append(f"{count(summary['removed'], 'snapshot')} removed, {size(summary['freed_bytes'])} freed")
    if run.kind == "copy" and "copied" in summary:
        words.append(f"{count(summary['copied'], 'snapshot')} copied")
    if run.kind == "refresh":
        words += [
            f"{one['standby']}: {one['job']} as of {output.local(parse_iso(one['snapshot_time']))}"
            + "".join(f", {server['source']} replayed to {server['lsn']}" for server in one["servers"])
            for one in summary.get("refreshed", ())
        ]
    if run.kind == "check" and "packs" in summary:
        words.append(f"{count(summary['snapshots'], 'snapshot')}, {count(summary['packs'], 'pack')}")
        if summary.get("log_segments"):
            words[-1] += f", {count(summary['log_segments'], 'log segment')}"
        words[-1] += f", {size(summary['bytes_read'])} read"
        if since := summary.get("read_or_written_since"):
            words.append(f"every stored byte read or written since {output.local(parse_iso(since))[:10]}")
    if run.kind == "check" and summary.get("problems"):
        words.append(count(summary["problems"], "problem"))
    elif run.kind == "drill" and summary.get("failed_checks"):
        words.append(f"see: backupctl drill show {run.id[:8]}")  # each difference was told when it was found
    elif run.message:
        words.append(run.message)  # in full: it may name the damaged object
    output.result(
        "finished",
        "; ".join(words),
        run=run.id,
        kind=run.kind,
        job=run.name,
        scheduled=run.scheduled,
        state=run.state,
        snapshot=run.snapshot,
        exit_code=code,
        **{key: value for key, value in summary.items() if key not in ("kind", "job")},
    )
