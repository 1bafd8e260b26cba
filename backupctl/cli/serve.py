"""`serve`: the scheduler."""

from __future__ import annotations

import signal
import threading
from functools import partial

import click

from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count


@click.command(cls=Common)
@click.option("--parallel", type=click.IntRange(1, 64), default=2, show_default=True, help="How many runs at a time.")
@click.option(
    "--listen", metavar="ADDRESS:PORT", help="Also serve the read-only status page there, e.g. 127.0.0.1:8642."
)
def serve(parallel: int, listen: str | None) -> int:
    """Run what the schedules say, each run in a process of its own, until SIGTERM or Ctrl-C.

    With `fleet:` in the configuration it executes nothing itself, and hands every run to a `backupctl worker`.

    On the way out running backups are asked to stop; they release their locks and are recorded as cancelled. SIGHUP, or
    `backupctl config reload`, has it take a changed configuration; a broken one is refused and the old one stays.
    """
    from backupctl.cli.dispatching import fleet_queue, launcher_of
    from backupctl.cli.manager import tell_ready
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
    queue = None
    if context.settings.fleet is not None:
        queue = fleet_queue(context)
    service = Service(
        context.settings, context.catalog, context.clock, launcher, parallel=parallel, tell=Teller(context), queue=queue
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
    tell_ready()
    output.event("serve", f"scheduler started for {count(jobs, 'job')}; stop it with Ctrl-C or SIGTERM", jobs=jobs)
    try:
        service.serve(stop)
    finally:
        registration.end()
        if page is not None:
            page.stop()
    output.event("serve", "scheduler stopped")
    return 0
