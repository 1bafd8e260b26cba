"""Runs: queued once per instant, claimed with an epoch, changed only by whoever holds that epoch."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Insert, String, column, func, select, tuple_, update, values
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from backupctl.catalog.database import CLAIM_LOCK, Database, FencedError
from backupctl.catalog.models import LIVE_STATES, RUN_STATES, Run
from backupctl.catalog.rows import Session

FIRED = ("schedule", "catch_up", "first_seen", "rebuilt")
"""Triggers of runs that stand for an instant of a schedule."""

Admit = Callable[[Run, list[Run]], None]

_AT_ONCE = 500
"""Rows of one statement: SQLite takes 32,766 parameters, a run has some twenty."""

T = TypeVar("T")


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
        run = self.draft(kind, name, scheduled, trigger=trigger, options=options, skipped=skipped)
        return next(iter(self.enqueue_all([run])), None)

    def draft(
        self,
        kind: str,
        name: str,
        scheduled: datetime,
        *,
        trigger: str,
        options: Mapping[str, Any] | None = None,
        skipped: str = "",
    ) -> Run:
        """What `enqueue` would insert, for `enqueue_all`."""
        now = self.clock.now()
        return Run(
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

    def enqueue_all(self, drafts: Iterable[Run]) -> list[Run]:
        """Insert many, in their order, in few transactions; the rows of those that did not exist yet."""
        return [run for some in _batches(drafts, _AT_ONCE) for run in self._insert(some)]

    def add_run(self, run: Run) -> bool:
        """Insert a run as it is (`catalog rebuild` does); False when its id or its instant is there already."""
        return bool(self._insert([run]))

    def _insert(self, runs: Sequence[Run]) -> list[Run]:
        columns = [column.key for column in Run.__table__.columns]
        keys = [key for key in columns if any(getattr(run, key) is not None for run in runs)]
        defaults = {key: {"epoch": 0, "summary": {}, "options": {}, "problems": []}.get(key, "") for key in _REQUIRED}
        rows = [{key: _or(getattr(run, key), defaults.get(key)) for key in keys} for run in runs]
        with self.writing() as session:
            statement: Insert
            if self.engine.dialect.name == "postgresql":
                # imported here: it brings every PostgreSQL driver's dialect and asyncio, 40 ms that SQLite needs not
                from sqlalchemy.dialects.postgresql import insert as postgresql_insert

                statement = postgresql_insert(Run).values(rows).on_conflict_do_nothing()
            else:
                statement = sqlite_insert(Run).values(rows).on_conflict_do_nothing()
            inserted = set(session.scalars(statement.returning(Run.id)))
            found = session.all(Run, select(Run).where(Run.id.in_(inserted))) if inserted else []
            by_id = {run.id: run for run in found}
        return [by_id[run.id] for run in runs if run.id in by_id]

    def claim(self, run_id: str, worker: str, *, admit: Admit | None = None) -> Run | None:
        """queued → running under a new epoch; None when somebody else was first or it is not queued.

        `admit` is told of the run and of all that are running, and raises what speaks against it. Nobody else claims with
        an `admit` meanwhile, so that two workers cannot both take the last free place."""
        now = self.clock.now()
        with self.writing() as session:
            if admit is not None:
                if self.engine.dialect.name == "postgresql":
                    session.execute(select(func.pg_advisory_xact_lock(CLAIM_LOCK)))
                run = session.get(Run, run_id)
                if run is None or run.state != "queued":
                    return None
                admit(run, session.all(Run, select(Run).where(Run.state == "running")))
            statement = update(Run).where(Run.id == run_id, Run.state == "queued")
            changes = {"state": "running", "epoch": Run.epoch + 1, "worker": worker, "started": now, "heartbeat": now}
            if session.changed(statement.values(changes)) != 1:
                return None
            return session.get(Run, run_id)

    def heartbeat(self, run_id: str, epoch: int) -> str:
        """Say that the worker lives. Returns why it shall stop, "" when it may go on. Raises FencedError when another epoch
        holds the run or it has ended."""
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.epoch == epoch, Run.state == "running")
            if session.changed(statement.values(heartbeat=self.clock.now())) != 1:
                raise _fenced(session, run_id, epoch)
            run = _there(session, run_id)
            return run.message if run.stopping is not None else ""

    def ask_to_stop(self, run_id: str, *, message: str) -> bool:
        """The worker of this running run reads it with its next heartbeat. False when it does not run, or was asked before."""
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.state == "running", Run.stopping.is_(None))
            return session.changed(statement.values(stopping=self.clock.now(), message=message)) == 1

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
            if session.changed(statement.values(changes)) != 1:
                raise _fenced(session, run_id, epoch)
            return _there(session, run_id)

    def cancel(
        self, run_id: str, *, message: str, state: str = "failed", states: Sequence[str] = LIVE_STATES
    ) -> Run | None:
        """End a queued run, or a running one whose worker is known dead; the epoch moves, so a zombie is fenced.
        None when it is in none of these `states` any more."""
        changes = {"state": _ended(state), "epoch": Run.epoch + 1, "finished": self.clock.now(), "message": message}
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.state.in_(states))
            return session.get(Run, run_id) if session.changed(statement.values(changes)) == 1 else None

    def take_over(self, run_id: str, epoch: int, *, message: str, options: Mapping[str, Any]) -> Run | None:
        """running → queued, for a run whose worker is silent: the epoch moves, so that worker is fenced when it wakes up, and
        somebody else may claim the run. None when that epoch does not hold it any more."""
        changes = {
            "state": "queued",
            "epoch": Run.epoch + 1,
            "worker": "",
            "started": None,
            "heartbeat": None,
            "message": message,
            "options": dict(options),
        }
        with self.writing() as session:
            statement = update(Run).where(Run.id == run_id, Run.epoch == epoch, Run.state == "running")
            return session.get(Run, run_id) if session.changed(statement.values(changes)) == 1 else None

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
        first_seen: bool = True,
        limit: int | None = None,
    ) -> list[Run]:
        """Newest first by the instant they were due: `since` ≤ scheduled < `until`. Without `first_seen`: not those that only
        note that a scheduler has met the name."""
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
        if not first_seen:
            query = query.where(Run.trigger != "first_seen")
        with self.reading() as session:
            return session.all(Run, query)

    def last_scheduled(self, kind: str, name: str, *, until: datetime | None = None) -> datetime | None:
        """The newest instant the schedule has fired for, whatever became of it. A manual run, a retry, or what follows
        another run is no firing. With `until`: not after it, so that a clock that was far ahead for a while, and is right
        again, does not silence the schedule."""
        query = select(func.max(Run.scheduled)).where(Run.kind == kind, Run.name == name, Run.trigger.in_(FIRED))
        if until is not None:
            query = query.where(Run.scheduled <= until)
        with self.reading() as session:
            newest: datetime | None = session.scalar(query)
            return newest

    def newest(
        self,
        names: Iterable[tuple[str, str]],
        *,
        triggers: Sequence[str] | None = None,
        skipped: bool = True,
        until: datetime | None = None,
    ) -> dict[tuple[str, str], Run]:
        """For each (kind, name) its run of the newest instant, not after `until`; those that have none are left out. One
        statement for some hundred names, each answered by the index: a scheduler asks it for all its jobs. Without
        `skipped` those that were never started do not count."""
        found: dict[tuple[str, str], Run] = {}
        for some in _batches(names, _AT_ONCE):
            asked = values(column("kind", String), column("name", String), name="asked").data(some).cte()
            one = Run.__table__.alias()
            newest = select(one.c.id).where(one.c.kind == asked.c.kind, one.c.name == asked.c.name)
            if triggers is not None:
                newest = newest.where(one.c.trigger.in_(triggers))
            if not skipped:
                newest = newest.where(one.c.state != "skipped")
            if until is not None:
                newest = newest.where(one.c.scheduled <= until)
            first = newest.order_by(one.c.scheduled.desc()).limit(1).correlate(asked).scalar_subquery()
            with self.reading() as session:
                for run in session.all(Run, select(Run).where(Run.id.in_(select(first).select_from(asked)))):
                    found[run.kind, run.name] = run
        return found

    def at(self, instants: Iterable[tuple[str, str, datetime]]) -> dict[tuple[str, str, datetime], Run]:
        """The runs of exactly these (kind, name, scheduled), as far as they exist."""
        found: dict[tuple[str, str, datetime], Run] = {}
        key = tuple_(Run.kind, Run.name, Run.scheduled)
        for some in _batches(instants, _AT_ONCE):
            with self.reading() as session:
                for run in session.all(Run, select(Run).where(key.in_(some))):
                    found[run.kind, run.name, run.scheduled] = run
        return found


_REQUIRED = ("worker", "message", "repository", "snapshot", "epoch", "summary", "options", "problems")
"""Columns that have a default in Python, and none in the database."""


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _ended(state: str) -> str:
    if state not in RUN_STATES or state in LIVE_STATES:
        raise ValueError(f"{state!r} is no state a run can end in")
    return state


def _there(session: Session, run_id: str) -> Run:
    """A run that was just changed."""
    run = session.get(Run, run_id)
    assert run is not None
    return run


def _fenced(session: Session, run_id: str, epoch: int) -> FencedError:
    run = session.get(Run, run_id)
    if run is None:
        return FencedError(f"run {run_id} is not in the catalog", next_step="look at `backupctl status`")
    return FencedError(
        f"run {run_id} ({run.kind} {run.name}) is no longer ours: it is {run.state} under epoch {run.epoch},"
        f" we hold {epoch}",
        next_step="nothing was committed by this worker; look at `backupctl status`",
    )
