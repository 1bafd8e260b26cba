"""Facts: snapshots, checks, drills, findings, holds, notices. Every list is newest first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update

from backupctl.catalog.database import Database
from backupctl.catalog.models import Base, Check, DrawSecret, Drill, DrillCheck, Finding, Hold, Notice, SnapshotRow
from backupctl.sources.protocol import CheckResult


class Facts(Database):
    def _put(self, row: Base) -> None:
        """Insert, or replace the row with the same key: learning the same fact twice changes nothing."""
        with self.writing() as session:
            session.put(row)

    def add_snapshot(self, row: SnapshotRow) -> None:
        self._put(row)

    def forget_snapshot(self, repository: str, snapshot_id: str) -> None:
        """Remember that it left the repository; when it had already, the first time stands."""
        found = (SnapshotRow.repository == repository, SnapshotRow.id == snapshot_id, SnapshotRow.forgotten.is_(None))
        with self.writing() as session:
            session.execute(update(SnapshotRow).where(*found).values(forgotten=self.clock.now()))

    def snapshots(
        self, *, job: str | None = None, repository: str | None = None, include_forgotten: bool = False
    ) -> list[SnapshotRow]:
        query = select(SnapshotRow).order_by(SnapshotRow.time.desc(), SnapshotRow.id)
        if job is not None:
            query = query.where(SnapshotRow.job == job)
        if repository is not None:
            query = query.where(SnapshotRow.repository == repository)
        if not include_forgotten:
            query = query.where(SnapshotRow.forgotten.is_(None))
        with self.reading() as session:
            return session.all(SnapshotRow, query)

    def add_check(self, row: Check) -> None:
        self._put(row)

    def checks(
        self,
        *,
        repository: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[Check]:
        """`since` ≤ finished < `until`."""
        query = select(Check).order_by(Check.finished.desc(), Check.id).limit(limit)
        if repository is not None:
            query = query.where(Check.repository == repository)
        if since is not None:
            query = query.where(Check.finished >= since)
        if until is not None:
            query = query.where(Check.finished < until)
        with self.reading() as session:
            return session.all(Check, query)

    def add_drill(self, row: Drill, checks: Sequence[CheckResult | DrillCheck]) -> None:
        """The drill and everything it asserted, in order, in one transaction."""
        fields = ("name", "expected", "actual", "ok", "level", "seconds", "detail", "evidence")
        with self.writing() as session:
            session.put(row)
            session.execute(delete(DrillCheck).where(DrillCheck.drill == row.id))
            for number, check in enumerate(checks, start=1):
                values = {field: getattr(check, field) for field in fields if getattr(check, field) is not None}
                session.add(DrillCheck(drill=row.id, number=number, **values))

    def drills(
        self,
        *,
        job: str | None = None,
        drill: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[Drill]:
        """`since` ≤ declared < `until`. `drill` is JOB/DRILL."""
        query = select(Drill).order_by(Drill.declared.desc(), Drill.id).limit(limit)
        if job is not None:
            query = query.where(Drill.job == job)
        if drill is not None:
            query = query.where(Drill.drill == drill)
        if since is not None:
            query = query.where(Drill.declared >= since)
        if until is not None:
            query = query.where(Drill.declared < until)
        with self.reading() as session:
            return session.all(Drill, query)

    def drill_checks(self, drill_id: str) -> list[DrillCheck]:
        """In the order they were made."""
        with self.reading() as session:
            query = select(DrillCheck).where(DrillCheck.drill == drill_id).order_by(DrillCheck.number)
            return session.all(DrillCheck, query)

    def keep_draw_secret(self, drill: str, commitment: str, secret: bytes) -> None:
        self._put(DrawSecret(commitment=commitment, drill=drill, secret=secret.hex()))

    def draw_secret(self, commitment: str) -> bytes | None:
        """None for a commitment that this catalog did not make."""
        with self.reading() as session:
            row = session.get(DrawSecret, commitment)
            return bytes.fromhex(row.secret) if row is not None else None

    def open_finding(self, row: Finding) -> None:
        self._put(row)

    def close_findings(self, job: str, source: str, *, closure: str) -> int:
        """Close every open finding of that job from that source (backup, check, drill); how many there were."""
        opened = (Finding.job == job, Finding.source == source, Finding.closed.is_(None))
        with self.writing() as session:
            return session.changed(update(Finding).where(*opened).values(closed=self.clock.now(), closure=closure))

    def findings(
        self,
        *,
        job: str | None = None,
        source: str | None = None,
        open_only: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Finding]:
        """`since` ≤ opened < `until`."""
        query = select(Finding).order_by(Finding.opened.desc(), Finding.id)
        if job is not None:
            query = query.where(Finding.job == job)
        if source is not None:
            query = query.where(Finding.source == source)
        if open_only:
            query = query.where(Finding.closed.is_(None))
        if since is not None:
            query = query.where(Finding.opened >= since)
        if until is not None:
            query = query.where(Finding.opened < until)
        with self.reading() as session:
            return session.all(Finding, query)

    def add_hold(self, row: Hold) -> None:
        self._put(row)

    def remove_hold(self, hold_id: str) -> bool:
        """False when there was none."""
        with self.writing() as session:
            return session.changed(delete(Hold).where(Hold.id == hold_id)) > 0

    def holds(self, *, repository: str | None = None, snapshot: str | None = None) -> list[Hold]:
        """All of them, expired ones too: the caller has the clock that judges."""
        query = select(Hold).order_by(Hold.created.desc(), Hold.id)
        if repository is not None:
            query = query.where(Hold.repository == repository)
        if snapshot is not None:
            query = query.where(Hold.snapshot == snapshot)
        with self.reading() as session:
            return session.all(Hold, query)

    def notices(self, *, run: str | None = None, failed_only: bool = False, limit: int | None = None) -> list[Notice]:
        query = select(Notice).order_by(Notice.id.desc()).limit(limit)
        if run is not None:
            query = query.where(Notice.run == run)
        if failed_only:
            query = query.where(Notice.delivered.is_(None))
        with self.reading() as session:
            return session.all(Notice, query)

    def clear_rebuildable(self, *, repository: str | None = None) -> None:
        """Forget what `catalog rebuild` reads back: snapshots, checks, drills and holds, of one repository or of all.
        Runs, findings, notices and the audit trail are not in the repositories and stay."""
        with self.writing() as session:
            for table in (SnapshotRow, Check, Drill, Hold):  # drill_checks go with their drills
                statement = delete(table)
                session.execute(statement if repository is None else statement.where(table.repository == repository))
