"""What the report is made from: the catalog's rows of one quarter, read once, so that every number has the same instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from backupctl.catalog.models import Check, Drill, DrillCheck, Event, Finding, Hold, Notice, Run, SnapshotRow
from backupctl.evidence.quarter import Quarter

if TYPE_CHECKING:
    from backupctl.catalog.catalog import Catalog


DECISIONS = ("anomaly.acknowledged", "anomaly.cleared")  # in the audit trail


@dataclass(frozen=True)
class Records:
    quarter: Quarter
    now: datetime
    backups: list[Run]  # due in the quarter, oldest first
    drill_runs: list[Run]  # likewise
    snapshots: list[SnapshotRow]  # ever, also forgotten ones, oldest first
    checks: list[Check]  # finished before the quarter's end, oldest first
    drills: list[Drill]  # declared before the quarter's end, oldest first
    drill_checks: dict[str, list[DrillCheck]]  # of the drills of the quarter
    findings: list[Finding]  # opened before the quarter's end
    holds: list[Hold]
    notices: list[Notice]
    decisions: list[Event]  # about suspicious snapshots, in order

    @property
    def until(self) -> datetime:
        """How far the quarter can be judged: its end, or now."""
        return min(self.now, self.quarter.end)

    @property
    def quarter_drills(self) -> list[Drill]:
        return [drill for drill in self.drills if drill.declared in self.quarter]

    @property
    def quarter_checks(self) -> list[Check]:
        return [check for check in self.checks if check.finished in self.quarter]

    def first_record(self, job: str) -> datetime | None:
        """The oldest trace of a job: before it, nothing can be said about its days."""
        times = [row.time for row in self.snapshots if row.job == job]
        times += [run.scheduled for run in self.backups if run.name == job]
        return min(times, default=None)


def gather(catalog: Catalog, quarter: Quarter, now: datetime) -> Records:
    until = min(now, quarter.end)

    def runs(kind: str) -> list[Run]:
        return sorted(catalog.runs(kind=kind, since=quarter.start, until=quarter.end), key=lambda run: run.scheduled)

    every = sorted(catalog.drills(), key=lambda row: (row.declared, row.id))
    drills = [row for row in every if row.declared < until]
    elsewhere = {
        row.id for row in every if row.declared not in quarter
    }  # due before a quarter's end, declared after it
    return Records(
        quarter=quarter,
        now=now,
        backups=runs("backup"),
        drill_runs=[run for run in runs("drill") if run.id not in elsewhere],
        snapshots=sorted(
            (row for row in catalog.snapshots(include_forgotten=True) if row.time < until),
            key=lambda row: (row.time, row.id),
        ),
        checks=sorted(catalog.checks(until=until), key=lambda row: (row.finished, row.id)),
        drills=drills,
        drill_checks={row.id: list(catalog.drill_checks(row.id)) for row in drills if row.declared in quarter},
        findings=catalog.findings(until=until),
        holds=[row for row in catalog.holds() if row.created < until],
        notices=[row for row in catalog.notices() if row.created in quarter],
        decisions=[row for row in catalog.events_of(DECISIONS) if row.time <= until],
    )


def firings(cron: str, zone: str, start: datetime, until: datetime) -> Iterator[datetime]:
    """The instants in [start, until) at which a cron expression fires on the wall clock of `zone`."""
    for instant in CronSim(cron, (start - timedelta(minutes=1)).astimezone(ZoneInfo(zone))):
        if instant >= until:
            return
        if instant >= start:
            yield instant


def one_line(values: Any) -> list[str]:
    """A JSON list of the catalog as texts."""
    return [value if isinstance(value, str) else str(value) for value in values or []]
