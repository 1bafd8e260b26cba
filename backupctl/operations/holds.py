"""Placing, listing and releasing holds, by the words that a person types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from backupctl.config.durations import parse_duration
from backupctl.errors import NoSuchError, UsageError, UserError
from backupctl.governance import holds
from backupctl.operations.browse import locate, repository_name
from backupctl.operations.context import Context, actor
from backupctl.operations.select import parse_time
from backupctl.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class ListedHold:
    repository: str
    record: holds.HoldRecord
    in_force: bool


def parse_until(context: Context, text: str) -> datetime:
    """`30d` from now, or a time as for --at: a day alone means its end. Raises UsageError."""
    if re.fullmatch(r"\s*\d+[ywdhms][\dywdhms]*\s*", text):
        try:
            return context.clock.now() + parse_duration(text.strip())
        except (ValueError, OverflowError) as error:
            raise UsageError(f"--until {text}: {error}", next_step="--until 30d") from None
    try:
        return parse_time(text, context.settings.defaults.timezone)
    except UsageError:
        raise UsageError(
            f"--until {text}: neither a time nor how long from now",
            next_step='--until 30d, or --until "2026-11-20 03:00"',
        ) from None


def place_hold(context: Context, word: str, *, reason: str, owner: str, until: str | None) -> ListedHold:
    """`word`: a snapshot's id, or a job for its newest complete one."""
    repository, found = locate(context, word)
    name = repository_name(context, repository)
    row = holds.place(
        repository,
        context.catalog,
        repository_name=name,
        snapshot=found.id,
        reason=reason,
        owner=owner or actor(),
        expires=parse_until(context, until) if until else None,
        clock=context.clock,
        by=actor(),
    )
    context.audit("hold.placed", found.id, reason=reason, hold=row.id, until=until or "")
    record = holds.HoldRecord(row.id, row.snapshot, row.reason, row.owner, actor(), row.created, row.expires)
    return ListedHold(name, record, in_force=True)


def list_holds(context: Context) -> list[ListedHold]:
    """Oldest first per repository, as the repositories hold them; of one that cannot be opened, what the catalog remembers,
    said so."""
    now = context.clock.now()
    listed = []
    for name in context.settings.repositories:
        try:
            records = holds.holds(context.resources.repository(name))
        except UserError as error:
            context.reporter.event("warning", f"{name}: {error.message}; listed is what the catalog remembers")
            rows = reversed(context.catalog.holds(repository=name))
            records = [
                holds.HoldRecord(row.id, row.snapshot, row.reason, row.owner, "", row.created, row.expires)
                for row in rows
            ]
        listed += [ListedHold(name, one, one.in_force(now)) for one in records]
    return listed


def release_holds(context: Context, word: str, *, hold: str | None, every: bool) -> tuple[str, int]:
    """The snapshot's id and how many holds ended. UsageError when there are several and neither `every` nor `hold`, the
    beginning of one's id, says which: another's hold must not end by accident."""
    repository, found = _held_snapshot(context, word)
    short = found[:8]
    present = [one for one in holds.holds(repository) if one.snapshot == found]
    if hold is not None:
        chosen = [one for one in present if one.id.startswith(hold)]
        if len(chosen) != 1:
            raise NoSuchError(f"{len(chosen)} holds on {short} begin with {hold}", next_step="backupctl hold list")
        ended = holds.release(repository, context.catalog, found, hold=chosen[0].id)
    elif len(present) > 1 and not every:
        names = "; ".join(f"{one.id[:8]} {one.words} ({one.owner})" for one in present)
        raise UsageError(
            f"{short} is held {len(present)} times: {names}",
            next_step=f"backupctl release {short} --hold {present[0].id[:8]}, or --all of them",
        )
    else:
        ended = holds.release(repository, context.catalog, found)
    context.audit("hold.released", found, holds=ended)
    return found, ended


def _held_snapshot(context: Context, word: str) -> tuple[Repository, str]:
    """Also of a snapshot that is gone, because something else than backupctl removed it: its hold can still be released."""
    try:
        repository, found = locate(context, word)
        return repository, found.id
    except NoSuchError:
        for name in context.settings.repositories:
            repository = context.resources.repository(name)
            left = {one.snapshot for one in holds.holds(repository) if one.snapshot.startswith(word)}
            if len(left) == 1:
                return repository, left.pop()
        raise
