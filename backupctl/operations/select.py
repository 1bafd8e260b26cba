"""Which snapshot a person means: `latest`, an instant, or an id."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from backupctl.clock import to_zone
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, of_job
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository


def select_snapshot(context: Context, repository: Repository, job: str | None, at: str, zone: str) -> Snapshot:
    """`latest`: the newest complete snapshot of the job. A time: the newest complete one at or before it (wall clock of
    `zone` unless it names an offset). Anything hexadecimal: that snapshot, complete or not.

    Raises NoSuchError that tells what there is, and UsageError for words that are none of these."""
    at = at.strip()
    if re.fullmatch(r"[0-9a-f]{4,64}", at) and not re.fullmatch(r"\d{4}|(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", at):
        return repository.load_snapshot(at)
    if job is None:
        raise UsageError(
            f"--at {at} needs a job", next_step="name the job, or give a snapshot id (`backupctl snapshots`)"
        )
    try:
        until = None if at == "latest" else parse_time(at, zone)
    except UsageError as error:
        raise UsageError(
            f"{at!r} is neither `latest`, nor a snapshot id, nor a time", next_step=error.next_step
        ) from None
    every = of_job(repository.snapshots(), job)
    complete = [one for one in every if SnapshotTags.of(one).complete]
    chosen = [one for one in complete if until is None or one.time <= until]
    if chosen:
        newest = chosen[-1]
        newer = [one for one in every if one.time > newest.time and (until is None or one.time <= until)]
        if newer:
            context.reporter.event(
                "warning",
                f"{len(newer)} newer snapshot(s) of {job} are incomplete and were passed over, "
                f"the newest is {newer[-1].id[:8]} of {_local(newer[-1].time, zone)}",
                job=job,
            )
        return newest
    if not every:
        raise NoSuchError(f"job {job} has no snapshot in this repository", next_step=f"backupctl run {job}")
    if not complete:
        raise NoSuchError(
            f"job {job} has {len(every)} snapshot(s), all incomplete",
            next_step=f"restore one by its id, knowing that something is missing: --at {every[-1].id[:8]}",
        )
    assert until is not None
    raise NoSuchError(
        f"job {job} has no complete snapshot at or before {_local(until, zone)}; the oldest is of {_local(complete[0].time, zone)}",
        next_step=f"backupctl snapshots {job}",
    )


def parse_time(text: str, zone: str, *, start: bool = False) -> datetime:
    """2026-11-20, 2026-11-20 03:00, or RFC 3339 with an offset; without one, the wall clock of `zone`. Result in UTC.

    A day alone means its end, and a second without a fraction means its end: lists show whole seconds, and the time that a
    list shows has to find what it was shown for. With `start` both mean their beginning: the lower end of a span."""
    words = re.sub(r"\s+(UTC|Z|[+-]\d\d:?\d\d)$", lambda found: found[1].replace("UTC", "Z"), text.strip())
    try:
        instant = datetime.fromisoformat(words)
    except ValueError:
        raise UsageError(
            f"{text!r} is not a time",
            next_step='write the time as "2026-11-20 03:00" or 2026-11-20T03:00:00+08:00',
        ) from None
    if instant.tzinfo is None:
        if re.fullmatch(r"\d{4}-?\d\d-?\d\d", words) and not start:
            instant = instant.replace(hour=23, minute=59, second=59)
        instant = instant.replace(tzinfo=ZoneInfo(zone))
    if not start and not re.search(r"[.,]\d", words):
        instant = instant.replace(microsecond=999_999)
    return instant.astimezone(UTC)


def _local(instant: datetime, zone: str) -> str:
    return f"{to_zone(instant, zone):%Y-%m-%d %H:%M:%S} {zone}"
