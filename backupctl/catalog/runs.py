"""Runs: queued once per instant, claimed with an epoch, changed only by whoever holds that epoch."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from backupctl.catalog.database import CLAIM_LOCK, Database, FencedError
from backupctl.catalog.models import LIVE_STATES, RUN_STATES, Run

FIRED = ("schedule", "catch_up", "first_seen", "rebuilt")
"""Triggers of runs that stand for an instant of a schedule."""

Admit = Callable[[Run, list[Run]], None]


class Runs(Database):
    def enqueue(
        self,
        kind: str,
        name: str,
        scheduled: datetime,
        *,
        trigger: str,
        options: Mapping[str, Any] | None = None,
        skipped: str = "",
    ) -> Run | None:
        """A new queued run; None when (kind, name, scheduled) exists already, whoever made it. With `skipped`, a reason, it
        is one that nobody shall start."""
        now = self.clock.now()
        run = Run(
            id=str(uuid.uuid4()),
            kind=kind,
            name=name,
            scheduled=scheduled,
            trigger=trigger,
            state="skipped" if skipped else "queued",
            created=now,
            finished=now if skipped else None,
            message=skipped,
            options=dict(options or {}),
        )
        return self._insert(run)

    def add_run(self, run: Run) -> bool:
        """Insert a run as it is (`catalog rebuild` does); False when its id or its instant is there already."""
        return self._insert(run) is not None

    def _insert(self, run: Run) -> Run | None:
        columns = [column.key for column in Run.__table__.columns]
        values = {key: getattr(run, key) for key in columns if getattr(run, key) is not None}
        with self.writing() as session:
            if self.engine.dialect.name == "postgresql":
                # imported here: it brings every PostgreSQL driver's dialect and asyncio, 40 ms that SQLite needs not
                from sqlalchemy.dialects.postgresql import insert as postgresql_insert

                statement = postgresql_insert(Run).values(values).on_conflict_do_nothing().returning(Run.id)
            else:
                statement = sqlite_insert(Run).values(values).on_conflict_do_nothing().returning(Run.id)
            return session.get_one(Run, run.id) if session.scalar(statement) is not None else None

    def claim(self, run_id: str, worker: str, *, admit: Admit | None = None) -> Run | None:
        """queued → running under a new epoch; None when somebody else was first or it is not queued.

        `admit` is told of the run and of all that are running, and raises what speaks against it. Nobody else claims with
        an `admit` meanwhile, so that two workers cannot both take the last free place."""
        now = self.clock.now()
        with self.writing() as session:
            if admit is not None:
                if self.engine.dialect.name == "postgresql":
                    session.execute(select(func.pg_advisory_xact_lock(CLAIM_LOCK)))
                run = session.get(Run, run_id, populate_existing=True)
                if run is None or run.state != "queued":
                    return None
                admit(run, list(session.scalars(select(Run).where(Run.state == "running"))))
            statement = update(Run).where(Run.id == run_id, Run.state == "queued")
            changes = {"state": "running", "epoch": Run.epoch + 1, "worker": worker, "started": now, "heartbeat": now}
            if _count(session.execute(statement.values(changes))) != 1:
                return None
            return session.get(Run, run_id, populate_existing=True)

    def heartbeat(self, run_id: str, epoch: int) -> str:
        """Say that the worker lives. Returns why it shall stop, "" when it may go on. Raises FencedError when another epoch
        holds the run or it has ended."""
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.epoch == epoch, Run.state == "running")
            if _count(session.execute(statement.values(heartbeat=self.clock.now()))) != 1:
                raise _fenced(session, run_id, epoch)
            run = session.get_one(Run, run_id, populate_existing=True)
            return run.message if run.stopping is not None else ""

    def ask_to_stop(self, run_id: str, *, message: str) -> bool:
        """The worker of this running run reads it with its next heartbeat. False when it does not run, or was asked before."""
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.state == "running", Run.stopping.is_(None))
            return _count(session.execute(statement.values(stopping=self.clock.now(), message=message))) == 1

    def guard(self, run_id: str, epoch: int) -> None:
        """Raises FencedError unless this epoch still holds the running run. Call just before a commit."""
        with self.reading() as session:
            run = session.get(Run, run_id)
            if run is None or run.epoch != epoch or run.state != "running":
                raise _fenced(session, run_id, epoch)

    def finish(
        self,
        run_id: str,
        epoch: int,
        state: str,
        *,
        exit_code: int,
        message: str = "",
        snapshot: str = "",
        repository: str = "",
        problems: Iterable[Any] = (),
        summary: Mapping[str, Any] | None = None,
    ) -> Run:
        """running → `state`. Raises FencedError when another epoch holds the run or it has ended already."""
        changes = {
            "state": _ended(state),
            "finished": self.clock.now(),
            "exit_code": exit_code,
            "message": message,
            "snapshot": snapshot,
            "repository": repository,
            "problems": list(problems),
            "summary": dict(summary or {}),
        }
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.epoch == epoch, Run.state == "running")
            if _count(session.execute(statement.values(changes))) != 1:
                raise _fenced(session, run_id, epoch)
            return session.get_one(Run, run_id, populate_existing=True)

    def cancel(self, run_id: str, *, message: str, state: str = "failed") -> Run | None:
        """End a queued run, or a running one whose worker is known dead; the epoch moves, so a zombie is fenced.
        None when it had ended already."""
        changes = {"state": _ended(state), "epoch": Run.epoch + 1, "finished": self.clock.now(), "message": message}
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.state.in_(LIVE_STATES))
            return session.get(Run, run_id) if _count(session.execute(statement.values(changes))) == 1 else None

    def run(self, run_id: str) -> Run | None:
        with self.reading() as session:
            return session.get(Run, run_id)

    def runs(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        states: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        """Newest first by the instant they were due: `since` ≤ scheduled < `until`."""
        query = select(Run).order_by(Run.scheduled.desc(), Run.created.desc(), Run.id).limit(limit)
        if kind is not None:
            query = query.where(Run.kind == kind)
        if name is not None:
            query = query.where(Run.name == name)
        if states is not None:
            query = query.where(Run.state.in_(states))
        if since is not None:
            query = query.where(Run.scheduled >= since)
        if until is not None:
            query = query.where(Run.scheduled < until)
        with self.reading() as session:
            return list(session.scalars(query))

    def last_scheduled(self, kind: str, name: str, *, until: datetime | None = None) -> datetime | None:
        """The newest instant the schedule has fired for, whatever became of it. A manual run, a retry, or what follows
        another run is no firing. With `until`: not after it, so that a clock that was far ahead for a while, and is right
        again, does not silence the schedule."""
        query = select(func.max(Run.scheduled)).where(Run.kind == kind, Run.name == name, Run.trigger.in_(FIRED))
        if until is not None:
            query = query.where(Run.scheduled <= until)
        with self.reading() as session:
            return session.scalar(query)


def _ended(state: str) -> str:
    if state not in RUN_STATES or state in LIVE_STATES:
        raise ValueError(f"{state!r} is no state a run can end in")
    return state


def _count(result: Any) -> int:
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def _fenced(session: Session, run_id: str, epoch: int) -> FencedError:
    session.expire_all()
    run = session.get(Run, run_id)
    if run is None:
        return FencedError(f"run {run_id} is not in the catalog", next_step="look at `backupctl status`")
    return FencedError(
        f"run {run_id} ({run.kind} {run.name}) is no longer ours: it is {run.state} under epoch {run.epoch},"
        f" we hold {epoch}",
        next_step="nothing was committed by this worker; look at `backupctl status`",
    )
