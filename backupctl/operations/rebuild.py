"""`catalog rebuild`: the catalog again, from nothing but the repositories and their keys.

What comes back: snapshots with their runs, drills with every check, repository checks, holds. What cannot: runs that left
no snapshot, notices, closed findings and the audit trail, which never were in a repository.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backupctl.catalog.models import Check, Drill, DrillCheck, Hold, Run, SnapshotRow
from backupctl.clock import parse_iso
from backupctl.errors import DamageError, NoSuchError
from backupctl.operations.context import Context
from backupctl.operations.learn import check_row, drill_of, hold_row
from backupctl.operations.records import SnapshotTags, fingerprint_of, load_json, source_rows
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repair_snapshots import REPAIRED
from backupctl.repository.repository import Repository


@dataclass(slots=True)
class Rebuilt:
    """What the repositories told. `problems` names what could not be read and was left out."""

    snapshots: list[SnapshotRow] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    drills: list[tuple[Drill, list[DrillCheck]]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    foreign_snapshots: int = 0  # made by stock restic: no job of ours
    problems: list[str] = field(default_factory=list)


def rebuild(context: Context) -> Rebuilt:
    """Replace the rebuildable part of the catalog. Everything is read first: a repository that cannot be opened leaves
    the catalog as it was."""
    found = Rebuilt()
    for name in context.settings.repositories:
        repository = context.resources.repository(name)
        with repository.lock():
            for snapshot in repository.snapshots():
                _snapshot(name, repository, snapshot, found)
            for kind in ("drill", "check", "hold"):
                for record_id in repository.records(kind):
                    _record(name, repository, kind, record_id, found)
    context.catalog.clear_rebuildable()
    for snapshot_row in found.snapshots:
        context.catalog.add_snapshot(snapshot_row)
    for run in found.runs:
        context.catalog.add_run(run)
    for drill, checks in found.drills:
        context.catalog.add_drill(drill, checks)
    for check in found.checks:
        context.catalog.add_check(check)
    for hold in found.holds:
        context.catalog.add_hold(hold)
    context.audit("catalog.rebuilt", "catalog", snapshots=len(found.snapshots), drills=len(found.drills))
    return found


def _snapshot(name: str, repository: Repository, snapshot: Snapshot, found: Rebuilt) -> None:
    tags = SnapshotTags.of(snapshot)
    if not tags.ours:
        found.foreign_snapshots += 1
        return
    try:
        facts = fingerprint_of(repository, snapshot)
    except (DamageError, NoSuchError) as error:
        found.problems.append(error.message)
        facts = {}
    try:
        row, run = _snapshot_rows(name, snapshot, tags, facts)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        found.problems.append(f"backupctl/fingerprint/{tags.fingerprint}: {str(error)[:200]}")
        row, run = _snapshot_rows(name, snapshot, tags, {})
    found.snapshots.append(row)
    if run is not None and all(other.id != run.id for other in found.runs):  # its copies tell of the same run
        found.runs.append(run)


def _record(name: str, repository: Repository, kind: str, record_id: str, found: Rebuilt) -> None:
    try:
        if kind == "drill":
            found.drills.append(drill_of(repository, record_id))
            return
        facts = load_json(repository, kind, record_id)
        if kind == "check":
            found.checks.append(check_row(facts, record_id))
        else:
            found.holds.append(hold_row(name, facts, record_id))
    except (DamageError, NoSuchError, KeyError, ValueError, TypeError) as error:
        found.problems.append(f"backupctl/{kind}/{record_id}: {error}")


def _snapshot_rows(
    name: str, snapshot: Snapshot, tags: SnapshotTags, facts: dict[str, Any]
) -> tuple[SnapshotRow, Run | None]:
    summary = facts.get("summary", {})
    status = "complete" if tags.complete else "incomplete"
    row = SnapshotRow(
        id=snapshot.id,
        repository=name,
        job=tags.job,
        run=tags.run,
        time=snapshot.time,
        status=status,
        fingerprint=tags.fingerprint,
        sources=source_rows(facts.get("sources", {})),
        files=summary.get("total_files_processed", 0),
        bytes=summary.get("total_bytes_processed", 0),
        stored_bytes=summary.get("data_added_packed", 0),
    )
    if not facts or not tags.run or REPAIRED in snapshot.tags:  # a repaired one says how it is, not how its run ended
        return row, None
    begin, end = (snapshot.summary.get(key) for key in ("backup_start", "backup_end"))
    run = Run(
        id=tags.run,
        kind="backup",
        name=tags.job,
        scheduled=parse_iso(facts["scheduled"]),
        trigger="rebuilt",
        state=status,
        epoch=1,
        created=parse_iso(begin) if begin else snapshot.time,
        started=parse_iso(begin) if begin else snapshot.time,
        finished=parse_iso(end) if end else snapshot.time,
        exit_code=0 if tags.complete else 3,
        repository=facts["repository"],
        snapshot=snapshot.original or snapshot.id,
        problems=facts["problems"],
        summary=summary,
    )
    return row, run
