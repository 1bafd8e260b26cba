"""Executes one claimed run in this process: `backupctl worker --run ID`, the child that every dispatcher starts.

It claims the run (epoch + 1), beats every 30 s so that others know it lives, and closes the run with a state whatever
happens: success, a failure that names its object, a signal. A bug closes the run too, and then shows its traceback.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from backupctl.catalog.catalog import FencedError
from backupctl.catalog.models import Run
from backupctl.errors import InterruptedRunError, SkippedError, UserError
from backupctl.operations import execute
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.scheduling.admission import admit
from backupctl.scheduling.identity import worker_identity
from backupctl.scheduling.timetables import deadline_of

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30.0


class Terminated(BaseException):
    """SIGTERM or the run's deadline, raised in the main thread so that every `finally` on the way out runs."""


def execute_run(context: Context, run_id: str) -> int:
    """Claim and execute; returns the exit code. 75 when somebody else has the run, it is no longer queued, or no place is
    free for it: then it stays queued."""

    def place(run: Run, running: list[Run]) -> None:
        admit(context.settings, run, running)

    run = context.catalog.claim(run_id, worker_identity(), admit=place)
    if run is None:
        raise SkippedError(f"run {run_id} is not waiting to be executed", next_step="backupctl status")
    context.reporter.event(
        "run", f"{run.kind} {run.name}: run {run.id}", run=run.id, job=run.name, scheduled=run.scheduled
    )
    deadline = deadline_of(context.settings, run.kind, run.name)
    asked: list[str] = []
    with _signals_as_exceptions(asked), _alive(context, run, asked, deadline.total_seconds() if deadline else None):
        outcome = _outcome(context, run)
    try:
        closed = context.catalog.finish(
            run.id,
            run.epoch,
            outcome.state,
            exit_code=outcome.exit_code,
            message=outcome.message,
            snapshot=outcome.snapshot,
            repository=outcome.repository,
            problems=outcome.problems,
            summary=_summary(outcome),
        )
    except FencedError as error:
        context.reporter.event("error", str(error), run=run.id)
        return error.exit_code
    execute.after(context, closed, outcome)
    if outcome.bug is not None:
        raise outcome.bug
    return outcome.exit_code


def _summary(outcome: Outcome) -> dict[str, object]:
    """With what the scheduler asks about later."""
    found = dict(outcome.summary)
    if outcome.verdict:
        found["verdict"] = outcome.verdict
    if outcome.transient:
        found["transient"] = True
    return found


def _outcome(context: Context, run: Run) -> Outcome:
    try:
        return execute.run(context, run)
    except (KeyboardInterrupt, Terminated) as stopped:
        reason = str(stopped) or "interrupted"
        code = 1 if reason.startswith("deadline") else InterruptedRunError.exit_code
        state = "failed" if reason.startswith("deadline") else "cancelled"
        context.reporter.event("error", f"{run.kind} {run.name} stopped: {reason}", run=run.id)
        return Outcome(state=state, exit_code=code, message=reason)
    except InterruptedRunError as error:
        return Outcome(state="cancelled", exit_code=error.exit_code, message=error.message)
    except UserError as error:
        context.reporter.event("error", str(error), run=run.id)
        return Outcome(state="failed", exit_code=error.exit_code, message=error.message, transient=error.transient)
    except Exception as bug:  # noqa: BLE001  closed as failed here, raised again with its traceback in execute_run
        return Outcome(state="failed", exit_code=1, message=f"internal error: {type(bug).__name__}", bug=bug)


@contextmanager
def _signals_as_exceptions(asked: list[str]) -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C does: locks are released, half snapshots never appear. A second one changes nothing
    while the first unwinds."""
    seen = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            return
        seen = True
        if number == signal.SIGALRM:
            raise Terminated("deadline passed")
        if asked:  # by another process, through the catalog
            raise Terminated(asked[0])
        raise Terminated("stopped by signal " + signal.Signals(number).name)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.alarm(0)
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _alive(context: Context, run: Run, asked: list[str], deadline_seconds: float | None) -> Iterator[None]:
    """Heartbeats from a thread; stops the run when somebody asked it to or another epoch took it over, or at its deadline."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            try:
                reason = context.catalog.heartbeat(run.id, run.epoch)
                if reason:
                    asked.append(reason)
                    signal.raise_signal(signal.SIGTERM)
                    return
            except FencedError:
                signal.raise_signal(signal.SIGTERM)
                return
            except UserError as error:
                # the catalog's server may be away for a while; the commit asks again and refuses if need be
                log.warning("heartbeat of run %s failed: %s", run.id, error.message)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    if deadline_seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, max(1.0, deadline_seconds))
    try:
        yield
    finally:
        done.set()
        thread.join()
