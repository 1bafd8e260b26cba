"""What people and services say about the schedule: pauses, which `serve` runs with which configuration, which workers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import delete, or_, select, update

from backupctl.catalog.database import Database
from backupctl.catalog.models import Pause, Scheduler, Worker


class Schedulers(Database):
    def add_pause(self, row: Pause) -> None:
        with self.writing() as session:
            session.add(row)

    def pauses(self, *, at: datetime | None = None) -> list[Pause]:
        """Newest first; with `at` only those in force at that instant."""
        query = select(Pause).order_by(Pause.created.desc(), Pause.id)
        if at is not None:
            query = query.where(Pause.created <= at, at < Pause.until, or_(Pause.ended.is_(None), at < Pause.ended))
        with self.reading() as session:
            return session.all(Pause, query)

    def end_pauses(self, job: str) -> list[Pause]:
        """End what is in force for exactly this job ("": for everything), and return it."""
        now = self.clock.now()
        with self.writing() as session:
            query = select(Pause).where(Pause.job == job, Pause.ended.is_(None), Pause.until > now)
            rows = session.all(Pause, query)
            session.execute(update(Pause).where(Pause.id.in_([row.id for row in rows])).values(ended=now))
            for row in rows:
                row.ended = now
            return rows

    def add_scheduler(self, row: Scheduler) -> None:
        with self.writing() as session:
            session.put(row)

    def schedulers(self) -> list[Scheduler]:
        """Those that said they run and did not say they ended; one that was killed is among them."""
        with self.reading() as session:
            return session.all(Scheduler, select(Scheduler).order_by(Scheduler.started, Scheduler.worker))

    def answer(self, worker: str, *, refused: str = "") -> None:
        """What a service says after it looked at a new configuration: taken, or refused and why."""
        now = self.clock.now()
        changes = {"asked": now, "refused": refused} | ({} if refused else {"loaded": now})
        with self.writing() as session:
            session.execute(update(Scheduler).where(Scheduler.worker == worker).values(changes))

    def remove_schedulers(self, workers: Iterable[str]) -> None:
        with self.writing() as session:
            session.execute(delete(Scheduler).where(Scheduler.worker.in_(list(workers))))

    def add_worker(self, row: Worker) -> None:
        with self.writing() as session:
            session.put(row)

    def workers(self) -> list[Worker]:
        """By name; one that was killed is among them, see `seen`."""
        with self.reading() as session:
            return session.all(Worker, select(Worker).order_by(Worker.name))

    def worker_lives(self, name: str) -> Worker | None:
        """Its heartbeat; the row says whether it shall drain. None when it was removed as dead."""
        with self.writing() as session:
            session.execute(update(Worker).where(Worker.name == name).values(seen=self.clock.now()))
            return session.get(Worker, name)

    def drain_workers(self, names: Iterable[str], *, reason: str) -> list[Worker]:
        """Those shall take nothing new, and end when what they do is done; the rows that were not draining already."""
        now = self.clock.now()
        with self.writing() as session:
            query = select(Worker).where(Worker.name.in_(list(names)), Worker.draining.is_(None))
            rows = session.all(Worker, query)
            chosen = Worker.name.in_([row.name for row in rows])
            session.execute(update(Worker).where(chosen).values(draining=now, reason=reason))
            for row in rows:
                row.draining, row.reason = now, reason
            return rows

    def remove_workers(self, names: Iterable[str]) -> None:
        with self.writing() as session:
            session.execute(delete(Worker).where(Worker.name.in_(list(names))))
