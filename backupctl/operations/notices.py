"""Telling over channels, for whoever ends a run or sweeps; and what people answer."""

from __future__ import annotations

from collections.abc import Sequence

from backupctl.catalog.models import Notice
from backupctl.errors import NoSuchError
from backupctl.notify import outbox
from backupctl.notify.notices import About, NoticeEvent, notify, shown_name
from backupctl.operations.context import Context, actor


def tell(context: Context, job: str, event: NoticeEvent) -> list[Notice]:
    """Tell the channels of the job; of what belongs to no job, every channel. A restricted job's name stays here."""
    configured = context.settings.jobs.get(job)
    names = configured.notify if configured is not None else list(context.settings.notify)
    about = About(job, configured.rating) if configured is not None else About()
    return notify(
        {name: context.settings.notify[name] for name in names},
        event,
        catalog=context.catalog,
        secrets=context.resources.secret,
        clock=context.clock,
        about=about,
    )


def told_name(context: Context, job: str, name: str) -> str:
    """What notices call it."""
    configured = context.settings.jobs.get(job)
    return shown_name(name, restricted=configured is not None and configured.restricted)


def work(context: Context) -> list[Notice]:
    """Try again, repeat, and send digests: what is due now."""
    return outbox.work(
        context.settings.notify, catalog=context.catalog, secrets=context.resources.secret, clock=context.clock
    )


def open_notices(context: Context, *, every: bool, limit: int) -> list[Notice]:
    """Newest first: what waits, or is an alarm that nobody acknowledged; with `every`, all."""
    rows = context.catalog.notices(limit=limit if every else None)
    waiting = [row for row in rows if every or row.state in ("queued", "held") or (row.alarm and not row.acknowledged)]
    return waiting[:limit]


def acknowledge(context: Context, words: Sequence[str], *, reason: str) -> list[Notice]:
    """By a notice's number, or the beginning of a run's id: every notice of that run, over whatever channel. NoSuchError for
    what names no alarm that is open."""
    alarms = context.catalog.alarms()
    chosen: dict[int, Notice] = {}
    for word in words:
        numbered = next((row for row in alarms if str(row.id) == word), None)
        runs = {numbered.run} if numbered is not None else {row.run for row in alarms if row.run.startswith(word)}
        if len(runs) != 1:
            said = "names no open alarm" if not runs else f"is the beginning of {len(runs)} runs"
            raise NoSuchError(f"{word} {said}", next_step="backupctl notify list")
        chosen |= {row.id: row for row in alarms if row.run in runs}
    by = actor()
    context.catalog.acknowledge_notices(list(chosen), f"{by}: {reason}" if reason else by)
    for run in sorted({row.run for row in chosen.values()}):
        context.audit("notice.acknowledged", run, reason=reason)
    return list(chosen.values())
