"""Executes one claimed run in this process: `backupctl worker --run ID`, the child that every dispatcher starts.

It claims the run (epoch + 1), beats every 30 s (in a fleet every `fleet.heartbeat`) so that others know it lives, and
closes the run with a state whatever happens: success, a failure that names its object, a signal. A bug closes the run
too, and then shows its traceback.
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
from backupctl.config.models import Settings
from backupctl.errors import CouldNotRunError, InterruptedRunError, SkippedError, UserError
from backupctl.operations import execute
from backupctl.operations.ahead import prepared
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.memory import limited, want_of_memory
from backupctl.scheduling.admission import admit
from backupctl.scheduling.identity import worker_identity
from backupctl.scheduling.timetables import deadline_of

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30.0
"""On one machine."""
CUT_OFF = "the catalog was out of reach for so long that another worker takes this run over"


class Terminated(BaseException):
    """SIGTERM or the run's deadline, raised in the main thread so that every `finally` on the way out runs."""


def execute_run(context: Context, run_id: str) -> int:
    """Claim and execute; returns the exit code. 75 when somebody else has the run, it is no longer queued, or no place is
    free for it: then it stays queued."""

    pauses = context.catalog.pauses(at=context.clock.now())

    def place(run: Run, running: list[Run]) -> None:
        admit(context.settings, pauses, run, running, context.clock.now())

    run = context.catalog.claim(run_id, worker_identity(), admit=place)
    if run is None:
        raise SkippedError(f"run {run_id} is not waiting to be executed", next_step="backupctl status")
    context.reporter.event(
        "run", f"{run.kind} {run.name}: run {run.id}", run=run.id, job=run.name, scheduled=run.scheduled
    )
    deadline = deadline_of(context.settings, run.kind, run.name)
    asked: list[str] = []
    cut_off = threading.Event()
    with (
        prepared(context, run.kind),
        _signals_as_exceptions(asked) as ears,
        _alive(context, run, asked, cut_off, deadline.total_seconds() if deadline else None),
    ):
        try:
            outcome = _outcome(context, run)
            ears.deaf = True  # it has ended: a heartbeat that is refused now must not get between this and `finish`
        except (KeyboardInterrupt, Terminated) as late:
            outcome = _stopped(context, run, late)
    if cut_off.is_set():  # there is nobody to tell it, and whoever took it over has settled it
        raise FencedError(CUT_OFF, next_step="look at `backupctl status`; nothing was committed by this worker")
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


def heartbeat_seconds(settings: Settings) -> float:
    """So long it takes until a run hears what somebody asks of it."""
    return HEARTBEAT_SECONDS if settings.fleet is None else settings.fleet.heartbeat.total_seconds()


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
        with limited(context.settings):
            return execute.run(context, run)
    except InterruptedRunError as error:
        return Outcome(state="cancelled", exit_code=error.exit_code, message=error.message)
    except Exception as error:  # noqa: BLE001  a bug is closed as failed here, and raised again in execute_run
        known: UserError | None = want_of_memory(context.settings, f"{run.kind} {run.name}", error)
        if known is not None:
            known.exit_code = CouldNotRunError.exit_code if run.kind in ("check", "drill") else known.exit_code
        elif isinstance(error, UserError):
            known = error
        else:
            return Outcome(state="failed", exit_code=1, message=f"internal error: {type(error).__name__}", bug=error)
        context.reporter.event("error", str(known), run=run.id)
        return Outcome(state="failed", exit_code=known.exit_code, message=known.message, transient=known.transient)


def _stopped(context: Context, run: Run, by: BaseException) -> Outcome:
    reason = str(by) or "interrupted"
    code = 1 if reason.startswith("deadline") else InterruptedRunError.exit_code
    state = "failed" if reason.startswith("deadline") else "cancelled"
    context.reporter.event("error", f"{run.kind} {run.name} stopped: {reason}", run=run.id)
    return Outcome(state=state, exit_code=code, message=reason)


class _Ears:
    deaf = False


@contextmanager
def _signals_as_exceptions(asked: list[str]) -> Iterator[_Ears]:
    """SIGTERM unwinds like Ctrl-C does: locks are released, half snapshots never appear. A second one changes nothing
    while the first unwinds."""
    ears = _Ears()

    def handler(number: int, frame: FrameType | None) -> None:
        if ears.deaf:
            return
        ears.deaf = True
        if number == signal.SIGALRM:
            raise Terminated("deadline passed")
        if asked:  # by another process, through the catalog
            raise Terminated(asked[0])
        raise Terminated("stopped by signal " + signal.Signals(number).name)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    try:
        yield ears
    finally:
        signal.alarm(0)
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _alive(
    context: Context, run: Run, asked: list[str], cut_off: threading.Event, deadline_seconds: float | None
) -> Iterator[None]:
    """Heartbeats from a thread; stops the run when somebody asked it to or another epoch took it over, or at its deadline. In
    a fleet also when no heartbeat was answered for so long that others take us for dead: a server that hangs answers
    nothing, so another thread looks at the time."""
    done = threading.Event()
    fleet = context.settings.fleet
    beat_seconds = heartbeat_seconds(context.settings)
    heard = context.clock.monotonic()

    def beat() -> None:
        nonlocal heard
        while not done.wait(beat_seconds) and not cut_off.is_set():
            try:
                reason = context.catalog.heartbeat(run.id, run.epoch)
                heard = context.clock.monotonic()
                if reason:
                    asked.append(reason)
                    _stop_main_thread()
                    return
            except FencedError:
                _stop_main_thread()
                return
            except (UserError, MemoryError) as error:
                # the catalog's server may be away for a while; the commit asks again and refuses if need be
                log.warning("heartbeat of run %s failed: %s", run.id, error or "no memory is left for it")

    def watch() -> None:
        assert fleet is not None
        while not done.wait(beat_seconds):
            if context.clock.monotonic() - heard > fleet.stalled_after.total_seconds():
                cut_off.set()
                asked.append(CUT_OFF)
                _stop_main_thread()
                return

    threads = [threading.Thread(target=beat, name="heartbeat", daemon=True)]
    if fleet is not None:
        threads.append(threading.Thread(target=watch, name="heartbeat watch", daemon=True))
    for thread in threads:
        thread.start()
    if deadline_seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, max(1.0, deadline_seconds))
    try:
        yield
    finally:
        done.set()
        if not cut_off.is_set():  # else the heartbeat may hang for ever
            for thread in threads:
                thread.join()


def _stop_main_thread() -> None:
    """To that thread, so that it wakes up from whatever it waits for."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGTERM)
