"""`serve` and `worker`: the scheduler, and the process in which one run happens."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial

import click

from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, duration, size
from backupctl.clock import parse_iso


@click.command(cls=Common)
@click.option("--parallel", type=click.IntRange(1, 64), default=2, show_default=True, help="How many runs at a time.")
@click.option(
    "--listen", metavar="ADDRESS:PORT", help="Also serve the read-only status page there, e.g. 127.0.0.1:8642."
)
def serve(parallel: int, listen: str | None) -> int:
    """Run what the schedules say, each run in a process of its own, until SIGTERM or Ctrl-C.

    On the way out running backups are asked to stop; they release their locks and are recorded as cancelled. SIGHUP, or
    `backupctl config reload`, has it take a changed configuration; a broken one is refused and the old one stays.
    """
    from backupctl.cli.dispatching import launcher_of
    from backupctl.config.load import load
    from backupctl.scheduling.reload import Registration
    from backupctl.scheduling.service import Service
    from backupctl.scheduling.telling import Teller

    output = output_of()
    context = open_context()
    page = None
    if listen is not None:
        from backupctl.web.server import StatusServer

        page = StatusServer(context, listen)
    launcher = launcher_of(context, hand_over=True)
    service = Service(
        context.settings, context.catalog, context.clock, launcher, parallel=parallel, tell=Teller(context)
    )
    registration = Registration(context, service, partial(load, context.settings.path))
    stop = threading.Event()

    def handler(number: int, frame: object) -> None:
        output.event("serve", f"stopping ({signal.Signals(number).name})")
        launcher.stop()
        stop.set()

    def reload(number: int, frame: object) -> None:
        # in a thread: the signal may have come in the middle of anything
        threading.Thread(target=registration.reload, name="reload", daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    signal.signal(signal.SIGHUP, reload)
    registration.begin()
    if page is not None:
        page.start()
        output.event("serve", f"status page on {page.url}", url=page.url)
    jobs = len(context.settings.jobs)
    output.event("serve", f"scheduler started for {count(jobs, 'job')}; stop it with Ctrl-C or SIGTERM", jobs=jobs)
    try:
        service.serve(stop)
    finally:
        registration.end()
        if page is not None:
            page.stop()
    output.event("serve", "scheduler stopped")
    return 0


@click.command(cls=Common, hidden=True)
@click.option("--run", "run_id", required=True, help="The run's id.")
@click.option("--settings-from-stdin", "given", is_flag=True, help="The configuration in force, from `serve`.")
def worker(run_id: str, given: bool) -> int:
    """Execute one queued run in this process."""
    from backupctl.cli.logs import bind
    from backupctl.config.handover import from_text
    from backupctl.operations.tracing import export_run
    from backupctl.scheduling.timetables import job_of
    from backupctl.scheduling.worker import execute_run

    output = output_of()
    output.inner = True
    context = open_context(from_text(sys.stdin.read()) if given else None)
    known = context.catalog.run(run_id)
    bind(run=run_id, job=job_of(known) if known is not None else "")
    code = execute_run(context, run_id)
    run = context.catalog.run(run_id)
    if run is None:
        return code
    export_run(context, run)
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
    if run.kind == "check" and "packs" in summary:
        words.append(f"{count(summary['snapshots'], 'snapshot')}, {count(summary['packs'], 'pack')}")
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
    return code
