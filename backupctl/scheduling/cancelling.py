"""Cancelling a run by hand: `backupctl cancel`."""

from __future__ import annotations

from backupctl.catalog.models import LIVE_STATES, Run
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.context import Context, actor
from backupctl.operations.stopping import stop
from backupctl.scheduling.dispatch import settle


def cancel(context: Context, word: str, *, reason: str) -> tuple[Run, bool]:
    """The run that was meant, and whether it is ended already: it only waited. `word` is the beginning of its id, or its
    name where one run of that name is live. Raises NoSuchError, and UsageError without a reason or when several are meant."""
    if not reason.strip():
        raise UsageError("say why", next_step="--reason TEXT")
    settle(context.catalog, context.clock, context.settings.fleet)  # whose worker is gone hears nothing
    run = _live(context, word)
    return run, stop(context, run, "run.cancel", message=f"cancelled by {actor()}: {reason.strip()}")


def _live(context: Context, word: str) -> Run:
    live = context.catalog.runs(states=LIVE_STATES)
    meant = [run for run in live if word and (run.name == word or run.id.startswith(word))]
    if len(meant) == 1:
        return meant[0]
    if meant:
        known = ", ".join(f"{run.id[:8]} ({run.kind} {run.name}, {run.state})" for run in meant)
        raise UsageError(f"{word!r} may mean {known}", next_step="name one by its id")
    ended = context.catalog.run(word) or next(iter(context.catalog.runs(name=word, limit=1)), None)
    since = f"; run {ended.id[:8]} of {ended.name} is {ended.state}" if ended is not None else ""
    raise NoSuchError(f"no run {word!r} waits or goes on{since}", next_step="backupctl runs --live")
