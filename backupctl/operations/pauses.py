"""Pausing a job's schedule, or everything, for a time and a reason; and going on before that time is over."""

from __future__ import annotations

from uuid import uuid4

from backupctl.catalog.models import Pause
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.context import Context, actor
from backupctl.operations.holds import parse_until


def pause(context: Context, job: str, *, reason: str, until: str) -> Pause:
    """`job` "" is everything. Starts that come until then are recorded as skipped and not caught up; what runs goes on.
    Raises UsageError for a reason of no words or a time that is over."""
    if job:
        context.job(job)
    ends = parse_until(context, until)
    if not reason.strip():
        raise UsageError("a pause needs a reason", next_step='--reason "the database moves"')
    if ends <= context.clock.now():
        raise UsageError(f"--until {until} is over already", next_step="--until 2d")
    made = Pause(
        id=str(uuid4()), job=job, reason=reason.strip(), owner=actor(), created=context.clock.now(), until=ends
    )
    context.catalog.add_pause(made)
    context.audit("schedule.paused", job or "everything", reason=made.reason, until=ends.isoformat())
    return made


def resume(context: Context, job: str) -> list[Pause]:
    """End every pause of exactly this job ("": of everything). Raises NoSuchError when there is none."""
    ended = context.catalog.end_pauses(job)
    if not ended:
        wide = any(one.job == "" for one in context.catalog.pauses(at=context.clock.now()))
        if job:
            context.job(job)
        raise NoSuchError(
            f"{job} is not paused{', but everything is' if wide else ''}" if job else "there is no pause of everything",
            next_step="backupctl schedule resume --all" if job and wide else "backupctl schedule preview",
        )
    context.audit("schedule.resumed", job or "everything", pauses=[one.id for one in ended])
    return ended
