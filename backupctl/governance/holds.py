"""Holds: a snapshot nobody may expire until the hold is released or has expired.

The truth is a sealed record of kind `hold` in the repository, `{"schema": 1, "snapshot", "reason", "owner", "by",
"created", "expires"}`, so that retention obeys it even when the catalog is lost; the catalog's row is a copy for reports.
A hold that cannot be read is an error, never the absence of a hold. One that has expired protects nothing, and is listed
until it is released.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backupctl.clock import Clock, iso, parse_iso
from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.repository.repository import Repository

if TYPE_CHECKING:  # listing and looking need no catalog, and importing one takes half a second
    from backupctl.catalog.catalog import Catalog
    from backupctl.catalog.models import Hold

KIND = "hold"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """`owner`: whose hold it is; `by`: who placed it, "" in records from before that was written down."""

    id: str
    snapshot: str
    reason: str
    owner: str
    by: str
    created: datetime
    expires: datetime | None

    def in_force(self, now: datetime) -> bool:
        return self.expires is None or self.expires > now

    @property
    def words(self) -> str:
        """The reason, and how long it lasts, for lists and previews."""
        return (
            self.reason if self.expires is None else f"{self.reason} (until {iso(self.expires.replace(microsecond=0))})"
        )


def place(
    repository: Repository,
    catalog: Catalog,
    *,
    repository_name: str,
    snapshot: str,
    reason: str,
    owner: str,
    expires: datetime | None,
    clock: Clock,
    by: str = "",
) -> Hold:
    """Hold a snapshot (id or prefix): the record first, then the catalog's row. None for `expires` means until released.
    Placing a hold that is there already, the same in all but who and when, changes nothing and gives that one.

    UsageError without a reason or an owner, or when the hold would have expired already; NoSuchError for an unknown snapshot.
    """
    now = clock.now()
    if not reason.strip() or not owner.strip():
        raise UsageError("a hold needs a reason and an owner", next_step="backupctl hold ID --reason TEXT")
    if expires is not None and expires <= now:
        end = iso(expires.replace(microsecond=0))
        raise UsageError(f"a hold until {end} would be over already", next_step="give a later time")
    with repository.lock():  # retention takes the exclusive lock: the snapshot cannot go while we are here
        found = repository.load_snapshot(snapshot).id
        wanted = (found, reason, owner, expires)
        every = holds(repository)
        record = next((one for one in every if (one.snapshot, one.reason, one.owner, one.expires) == wanted), None)
        if record is None:
            facts = {
                "schema": SCHEMA,
                "snapshot": found,
                "reason": reason,
                "owner": owner,
                "by": by,
                "created": iso(now),
                "expires": iso(expires) if expires else None,
            }
            record_id = repository.save_record(KIND, json.dumps(facts, sort_keys=True, ensure_ascii=False).encode())
            record = HoldRecord(record_id, found, reason, owner, by, now, expires)
    from backupctl.catalog.models import Hold

    row = Hold(
        id=record.id,
        repository=repository_name,
        snapshot=found,
        reason=reason,
        owner=owner,
        created=record.created,
        expires=expires,
    )
    catalog.add_hold(row)
    return row


def release(repository: Repository, catalog: Catalog, snapshot: str, *, hold: str | None = None) -> int:
    """End every hold on a snapshot (full id), expired ones too, or only the one of id `hold`; how many there were.
    NoSuchError when there was none."""
    records = [one for one in holds(repository) if one.snapshot == snapshot and hold in (None, one.id)]
    for record in records:
        repository.delete_record(KIND, record.id)
    stale = [row.id for row in catalog.holds(snapshot=snapshot) if hold in (None, row.id)]
    for hold_id in {*stale, *(record.id for record in records)}:
        catalog.remove_hold(hold_id)
    if not records:
        raise NoSuchError(f"no hold on snapshot {snapshot[:8]}", next_step="backupctl hold list")
    return len(records)


def held(repository: Repository, now: datetime) -> dict[str, str]:
    """The snapshots that may not expire now, with every reason and until when. DamageError when a hold cannot be read."""
    reasons: dict[str, list[str]] = {}
    for record in holds(repository):
        if record.in_force(now):
            reasons.setdefault(record.snapshot, []).append(record.words)
    return {snapshot: "; ".join(sorted(every)) for snapshot, every in reasons.items()}


def holds(repository: Repository) -> list[HoldRecord]:
    """Every hold there is, expired ones too, oldest first. DamageError when one cannot be read."""
    found = []
    for record_id in repository.records(KIND):
        try:
            data = repository.load_record(KIND, record_id)
        except NoSuchError:
            continue  # released since it was listed
        found.append(_parse(record_id, data))
    return sorted(found, key=lambda one: (one.created, one.id))


def _parse(record_id: str, data: bytes) -> HoldRecord:
    name = f"backupctl/{KIND}/{record_id}"
    try:
        facts: dict[str, Any] = json.loads(data)
        if facts["schema"] != SCHEMA:
            raise DamageError(
                f"{name}: a hold of schema {repr(facts['schema'])[:40]}, which this version does not know",
                name=name,
                next_step="use the version of backupctl that placed it, or a newer one",
            )
        expires = parse_iso(facts["expires"]) if facts["expires"] is not None else None
        snapshot, reason, owner = (str(facts[key]) for key in ("snapshot", "reason", "owner"))
        by, created = str(facts.get("by", "")), parse_iso(facts["created"])
        return HoldRecord(record_id, snapshot, reason, owner, by, created, expires)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(
            f"{name}: no readable hold: {str(error)[:200]}",
            name=name,
            next_step="find out which snapshot it protected before it is deleted: nothing expires until then",
        ) from error
