"""Holds: a snapshot nobody may expire until the hold is released or has expired.

The truth is a sealed record of kind `hold` in the repository, `{"schema": 1, "snapshot", "reason", "owner", "created",
"expires"}`, so that retention obeys it even when the catalog is lost; the catalog's row is a copy for lists and reports.
A hold that cannot be read is an error, never the absence of a hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Hold
from backupctl.clock import Clock, iso, parse_iso
from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.repository.repository import Repository

KIND = "hold"
SCHEMA = 1


@dataclass(frozen=True)
class _Record:
    id: str
    snapshot: str
    reason: str
    expires: datetime | None


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
) -> Hold:
    """Hold a snapshot (id or prefix): the record first, then the catalog's row. None for `expires` means until released.

    UsageError without a reason or an owner, or when the hold would have expired already; NoSuchError for an unknown snapshot.
    """
    now = clock.now()
    if not reason.strip() or not owner.strip():
        raise UsageError("a hold needs a reason and an owner", next_step="backupctl hold place ID --reason TEXT")
    if expires is not None and expires <= now:
        raise UsageError(f"a hold until {iso(expires)} would be over already", next_step="give a later time")
    with repository.lock():  # retention takes the exclusive lock: the snapshot cannot go while we are here
        found = repository.load_snapshot(snapshot).id
        facts = {
            "schema": SCHEMA,
            "snapshot": found,
            "reason": reason,
            "owner": owner,
            "created": iso(now),
            "expires": iso(expires) if expires else None,
        }
        record = repository.save_record(KIND, json.dumps(facts, sort_keys=True, ensure_ascii=False).encode())
    row = Hold(
        id=record,
        repository=repository_name,
        snapshot=found,
        reason=reason,
        owner=owner,
        created=now,
        expires=expires,
    )
    catalog.add_hold(row)
    return row


def release(repository: Repository, catalog: Catalog, snapshot: str) -> int:
    """End every hold on a snapshot (full id), expired ones too; how many there were. NoSuchError when there was none."""
    records = [record for record in _records(repository) if record.snapshot == snapshot]
    for record in records:
        repository.delete_record(KIND, record.id)
    stale = [row.id for row in catalog.holds(snapshot=snapshot)]
    for hold_id in {*stale, *(record.id for record in records)}:
        catalog.remove_hold(hold_id)
    if not records:
        raise NoSuchError(f"no hold on snapshot {snapshot[:8]}", next_step="backupctl hold list")
    return len(records)


def held(repository: Repository, now: datetime) -> dict[str, str]:
    """The snapshots that may not expire now, with every reason. DamageError when a hold cannot be read."""
    reasons: dict[str, list[str]] = {}
    for record in _records(repository):
        if record.expires is None or record.expires > now:
            reasons.setdefault(record.snapshot, []).append(record.reason)
    return {snapshot: "; ".join(sorted(every)) for snapshot, every in reasons.items()}


def _records(repository: Repository) -> list[_Record]:
    found = []
    for record_id in sorted(repository.records(KIND)):
        try:
            data = repository.load_record(KIND, record_id)
        except NoSuchError:
            continue  # released since it was listed
        found.append(_parse(record_id, data))
    return found


def _parse(record_id: str, data: bytes) -> _Record:
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
        return _Record(record_id, str(facts["snapshot"]), str(facts["reason"]), expires)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(
            f"{name}: no readable hold: {str(error)[:200]}",
            name=name,
            next_step="find out which snapshot it protected before it is deleted: nothing expires until then",
        ) from error
