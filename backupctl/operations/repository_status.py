"""How a repository stands: its last check, what was not read for how long, until when it is locked, and its holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from backupctl.clock import parse_iso
from backupctl.config.models import Job
from backupctl.errors import UserError
from backupctl.governance.holds import holds
from backupctl.operations.check import coverage_now, missed_reading
from backupctl.operations.context import Context
from backupctl.operations.horizon import horizon


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """`verdict` is the last check's, empty when there was none."""

    repository: str
    verdict: str = ""
    mode: str = ""
    checked_at: datetime | None = None
    age_seconds: float | None = None
    problems: int = 0
    read_or_written_since: datetime | None = None  # true of every stored byte
    never_read_bytes: int | None = None
    within_seconds: float | None = None  # the objective for that
    unread: bool = False  # the objective is missed
    lock_days: int | None = None  # what the configuration claims for each object
    locked_until: datetime | None = None  # the first end of a lock among what was asked; None: not locked, or not known
    unlocked: bool = False  # something that the configuration says is locked is not
    packs: int | None = None
    ended_packs: int | None = None  # older than a lock lasts
    holds: int | None = None  # in force; None: not asked
    held: list[dict[str, Any]] = field(default_factory=list)  # snapshot, reason, owner, expires
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def repositories_of(
    context: Context, jobs: list[Job], *, newest: Mapping[str, Iterable[str]] | None = None, ask: bool = True
) -> list[RepositoryStatus]:
    """Every repository these jobs back up to, or are copied into. `newest`: ids of the snapshots in each that matter most,
    where the caller knows them. Without `ask`, by the catalog alone."""
    names = dict.fromkeys(name for job in jobs for name in (job.repository, *job.copies))
    found = []
    for name in names:
        one = _read(context, _checked(context, name), ask)
        found.append(
            _held(context, _locked(context, one, (newest or {}).get(name, ()))) if ask else _remembered(context, one)
        )
    return found


def _checked(context: Context, name: str) -> RepositoryStatus:
    found = context.catalog.checks(repository=name)
    if not found:
        note = "never checked: nobody has read it back"
        return RepositoryStatus(name, notes=[f"{note}; backupctl check {name}"])
    last = found[0]
    deep = next((one for one in found if one.mode != "structure"), last)
    if last.verdict == "pass" and deep.verdict == "fail":
        last = deep  # a later look at the structure alone takes nothing back of what reading every byte found
    age = (context.clock.now() - last.finished).total_seconds()
    notes = []
    if last.verdict != "pass":
        objects = ", ".join(str(one["object"]) for one in last.problems[:3])
        notes.append(f"last check: {last.verdict}" + (f": {objects}" if objects else ""))
    return RepositoryStatus(name, last.verdict, last.mode, last.finished, age, len(last.problems), notes=notes)


def _read(context: Context, found: RepositoryStatus, ask: bool) -> RepositoryStatus:
    """With what the ledger of reading says: now, where there is an objective; else as the last check left it."""
    configured = context.settings.repositories[found.repository].check
    within = configured.within if configured is not None else None
    last = next((one.coverage for one in context.catalog.checks(repository=found.repository, limit=1)), {})
    oldest = parse_iso(last["oldest"]) if last.get("oldest") else None
    never_read = last.get("never_read_bytes")
    if within is not None and ask:
        try:
            coverage = coverage_now(context, found.repository)
        except UserError as error:
            return replace(found, notes=[*found.notes, f"what was read is not known: {error.message}"])
        oldest, never_read = coverage.oldest, coverage.never_read_bytes
    found = replace(found, read_or_written_since=oldest, never_read_bytes=never_read)
    if within is None:
        return found
    missed = missed_reading(context, found.repository, oldest, within)
    notes = [*found.notes, missed] if missed else found.notes
    return replace(found, within_seconds=within.total_seconds(), unread=bool(missed), notes=notes)


def _locked(context: Context, found: RepositoryStatus, snapshots: Iterable[str]) -> RepositoryStatus:
    try:
        there = horizon(context, found.repository, snapshots)
    except UserError as error:
        return replace(found, notes=[*found.notes, f"how long it is locked is not known: {error.message}"])
    if there is None:
        return found
    return replace(
        found,
        lock_days=there.days,
        locked_until=there.until,
        unlocked=bool(there.missing),
        packs=there.packs,
        ended_packs=there.ended_packs,
        notes=[*found.notes, *there.notes],
    )


def _held(context: Context, found: RepositoryStatus) -> RepositoryStatus:
    try:
        every = holds(context.resources.repository(found.repository))
    except UserError as error:
        return replace(found, notes=[*found.notes, f"its holds are not known: {error.message}"])
    now = context.clock.now()
    held = [
        {"snapshot": one.snapshot, "reason": one.reason, "owner": one.owner, "expires": one.expires}
        for one in every
        if one.in_force(now)
    ]
    over = len(every) - len(held)
    notes = (
        [*found.notes, f"{over} hold(s) have ended and are still listed; backupctl hold list"] if over else found.notes
    )
    return replace(found, holds=len(held), held=held, notes=notes)


def _remembered(context: Context, found: RepositoryStatus) -> RepositoryStatus:
    now = context.clock.now()
    rows = context.catalog.holds(repository=found.repository)
    return replace(found, holds=sum(row.expires is None or row.expires > now for row in rows))
