"""Ending a run that waits or goes on because somebody says so. Its worker, on whichever machine, reads it in the catalog."""

from __future__ import annotations

from backupctl.catalog.models import Run
from backupctl.operations.context import Context


def stop(context: Context, run: Run, action: str, *, message: str) -> bool:
    """True: it waited, and is ended now. Else its worker hears of it with the next heartbeat, gives its locks back and closes
    it as cancelled. `action` is what the audit trail calls it."""
    waited = context.catalog.cancel(run.id, message=message, state="cancelled", states=("queued",)) is not None
    if not waited:
        context.catalog.ask_to_stop(run.id, message=message)
    context.audit(action, run.name, run=run.id, kind=run.kind, message=message)
    return waited
