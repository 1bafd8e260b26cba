"""The tables. The catalog remembers; the repositories are the truth, and `catalog rebuild` can make all of this again.

Times are UTC and timezone-aware on the Python side in every database (`UtcDateTime`). JSON columns hold what is shown
and never queried.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Dialect, Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.types import TypeDecorator

from backupctl.catalog.rows import Base as Base
from backupctl.catalog.rows import column

if TYPE_CHECKING:  # of a class a column, of an object a value
    from sqlalchemy.orm import Mapped

RUN_STATES = ("queued", "running", "complete", "incomplete", "failed", "skipped", "cancelled")
LIVE_STATES = ("queued", "running")
VERDICTS = ("pass", "fail", "inconclusive", "stale", "skipped")


class UtcDateTime(TypeDecorator[datetime]):
    """SQLite forgets time zones; this keeps every instant aware and in UTC, and refuses a naive one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot enter the catalog")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text that every database takes: a file name that is no UTF-8, or a NUL, is escaped instead of refused."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


def clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


class Run(Base):
    """One execution of something with a name: a job's backup, a drill, a check; a prune, copy or refresh that a schedule began."""

    __tablename__ = "runs"
    id: Mapped[str] = column(String(36), primary_key=True)  # UUID
    kind: Mapped[str] = column(String(16))  # backup, drill, check, prune, copy, refresh, stretch
    name: Mapped[str] = column(String(200))  # job, or JOB/DRILL, or repository, or JOB/SOURCE/NUMBER of a stretch
    scheduled: Mapped[datetime] = column(UtcDateTime)  # the instant it was due; for a manual run, when it was asked for
    trigger: Mapped[str] = column(String(16))  # schedule, catch_up, retry, after, manual, first_seen, rebuilt
    state: Mapped[str] = column(String(16))
    epoch: Mapped[int] = column(Integer, default=0)
    worker: Mapped[str] = column(String(200), default="")  # host:pid:boot of who claimed it
    created: Mapped[datetime] = column(UtcDateTime)
    started: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    heartbeat: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    stopping: Mapped[datetime | None] = column(
        UtcDateTime, nullable=True
    )  # since when its worker is asked to stop; the reason is in `message`
    finished: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    exit_code: Mapped[int | None] = column(Integer, nullable=True)
    message: Mapped[str] = column(CleanText, default="")  # one line for people
    repository: Mapped[str] = column(String(100), default="")
    snapshot: Mapped[str] = column(String(64), default="")
    problems: Mapped[list[Any]] = column(JSON, default=list)  # [{source, path, kind, message}]
    summary: Mapped[dict[str, Any]] = column(JSON, default=dict)
    options: Mapped[dict[str, Any]] = column(JSON, default=dict)  # what the asker wanted beyond the config
    __table_args__ = (
        Index("runs_once", "kind", "name", "scheduled", unique=True),
        Index("runs_by_state", "state"),
    )


class SnapshotRow(Base):
    """A snapshot this catalog knows of; gone from the repository when `forgotten` is set."""

    __tablename__ = "snapshots"
    id: Mapped[str] = column(String(64), primary_key=True)
    repository: Mapped[str] = column(String(100), primary_key=True)
    job: Mapped[str] = column(String(200))
    run: Mapped[str] = column(String(36), default="")
    time: Mapped[datetime] = column(UtcDateTime)
    status: Mapped[str] = column(String(16))  # complete, incomplete
    fingerprint: Mapped[str] = column(String(64), default="")
    sources: Mapped[list[Any]] = column(JSON, default=list)  # [{name, kind, host, machine}]
    files: Mapped[int] = column(BigInteger, default=0)
    bytes: Mapped[int] = column(BigInteger, default=0)
    stored_bytes: Mapped[int] = column(BigInteger, default=0)
    forgotten: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    __table_args__ = (Index("snapshots_by_job", "job", "time"),)


class Check(Base):
    """One reading of a repository."""

    __tablename__ = "checks"
    id: Mapped[str] = column(String(36), primary_key=True)  # the run's id
    repository: Mapped[str] = column(String(100))
    mode: Mapped[str] = column(String(16))  # structure, budget, read-data
    started: Mapped[datetime] = column(UtcDateTime)
    finished: Mapped[datetime] = column(UtcDateTime)
    verdict: Mapped[str] = column(String(16))
    snapshots: Mapped[int] = column(Integer, default=0)
    packs: Mapped[int] = column(BigInteger, default=0)
    pack_bytes: Mapped[int] = column(BigInteger, default=0)  # what there is
    bytes_read: Mapped[int] = column(BigInteger, default=0)  # what was read
    problems: Mapped[list[Any]] = column(JSON, default=list)  # [{object, message, snapshots, paths, path_count}]
    coverage: Mapped[dict[str, Any]] = column(JSON, default=dict)  # when every stored byte was last read
    record: Mapped[str] = column(String(64), default="")
    __table_args__ = (Index("checks_by_repository", "repository", "finished"),)


class Drill(Base):
    """One rehearsal of a restore, with what it measured."""

    __tablename__ = "drills"
    id: Mapped[str] = column(String(36), primary_key=True)  # the run's id
    job: Mapped[str] = column(String(200))
    drill: Mapped[str] = column(String(200))  # JOB/DRILL
    scenario: Mapped[str] = column(String(50))
    host: Mapped[str] = column(String(100))
    repository: Mapped[str] = column(String(100))
    snapshot: Mapped[str] = column(String(64), default="")
    snapshot_time: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    declared: Mapped[datetime] = column(UtcDateTime)  # t0
    finished: Mapped[datetime] = column(UtcDateTime)
    verdict: Mapped[str] = column(String(16))
    level: Mapped[int] = column(Integer, default=0)  # highest proof level reached, 0..6
    rto_seconds: Mapped[float | None] = column(Float, nullable=True)  # achieved; None when service was never validated
    rpo_seconds: Mapped[float | None] = column(Float, nullable=True)
    rto_objective: Mapped[float | None] = column(Float, nullable=True)
    rpo_objective: Mapped[float | None] = column(Float, nullable=True)
    restored_bytes: Mapped[int] = column(BigInteger, default=0)
    phases: Mapped[list[Any]] = column(JSON, default=list)  # [{name, seconds}]
    reasons: Mapped[list[Any]] = column(JSON, default=list)  # why not pass, in words
    cleanup: Mapped[dict[str, Any]] = column(JSON, default=dict)  # {proved: bool, facts: [...]}
    facts: Mapped[dict[str, Any]] = column(JSON, default=dict)  # {measures, interlocks, draw, control}
    record: Mapped[str] = column(String(64), default="")
    __table_args__ = (Index("drills_by_job", "job", "declared"),)


class DrillCheck(Base):
    __tablename__ = "drill_checks"
    drill: Mapped[str] = column(ForeignKey("drills.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = column(Integer, primary_key=True)
    name: Mapped[str] = column(CleanText)
    expected: Mapped[str] = column(CleanText)
    actual: Mapped[str] = column(CleanText)
    ok: Mapped[bool] = column(Boolean)
    level: Mapped[int] = column(Integer)
    seconds: Mapped[float] = column(Float, default=0.0)
    detail: Mapped[str] = column(CleanText, default="")
    evidence: Mapped[str] = column(String(64), default="")  # SHA-256 of what was seen


class DrawSecret(Base):
    """What the next draw of a drill will come from; its hash is in the audit trail already."""

    __tablename__ = "draw_secrets"
    commitment: Mapped[str] = column(String(64), primary_key=True)
    drill: Mapped[str] = column(String(200))  # JOB/DRILL
    secret: Mapped[str] = column(String(64))


class Finding(Base):
    """A defect with an owner and a due date, opened by a failed run, check or drill."""

    __tablename__ = "findings"
    id: Mapped[str] = column(String(36), primary_key=True)
    source: Mapped[str] = column(String(16))  # backup, check, drill
    run: Mapped[str] = column(String(36))
    job: Mapped[str] = column(String(200), default="")
    severity: Mapped[str] = column(String(16))  # critical, major, minor
    title: Mapped[str] = column(CleanText)
    detail: Mapped[str] = column(CleanText, default="")
    owner: Mapped[str] = column(String(200), default="")
    opened: Mapped[datetime] = column(UtcDateTime)
    due: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    closed: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    closure: Mapped[str] = column(CleanText, default="")
    __table_args__ = (Index("findings_open", "closed", "job"),)


class Hold(Base):
    """A snapshot nobody may expire until the hold is released or expires."""

    __tablename__ = "holds"
    id: Mapped[str] = column(String(64), primary_key=True)  # the record's id in the repository
    repository: Mapped[str] = column(String(100))
    snapshot: Mapped[str] = column(String(64))
    reason: Mapped[str] = column(CleanText)
    owner: Mapped[str] = column(String(200))
    created: Mapped[datetime] = column(UtcDateTime)
    expires: Mapped[datetime | None] = column(UtcDateTime, nullable=True)


class Notice(Base):
    """What was told to whom, and whether it arrived."""

    __tablename__ = "notices"
    id: Mapped[int] = column(Integer, primary_key=True, autoincrement=True)
    channel: Mapped[str] = column(String(100))  # the name in `notify:`
    kind: Mapped[str] = column(String(16))  # email, webhook, apprise, heartbeat
    run: Mapped[str] = column(String(36))
    subject: Mapped[str] = column(CleanText)
    created: Mapped[datetime] = column(UtcDateTime)
    delivered: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    error: Mapped[str] = column(CleanText, default="")
    event: Mapped[dict[str, Any]] = column(JSON, default=dict)  # what it is made of
    alarm: Mapped[bool] = column(Boolean, default=False)  # told of something that went wrong
    state: Mapped[str] = column(String(16), default="delivered")  # queued, held, delivered, failed, dropped
    attempts: Mapped[int] = column(Integer, default=1)
    next_try: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    last_sent: Mapped[datetime | None] = column(
        UtcDateTime, nullable=True
    )  # later than `delivered` when it was repeated
    repeats: Mapped[int] = column(Integer, default=0)
    acknowledged: Mapped[datetime | None] = column(UtcDateTime, nullable=True)
    acknowledged_by: Mapped[str] = column(CleanText, default="")  # whom, or what happened instead
    __table_args__ = (Index("notices_by_state", "state"),)


class Pause(Base):
    """A job, or everything, that the scheduler leaves alone until `until`, or until somebody resumes it."""

    __tablename__ = "pauses"
    id: Mapped[str] = column(String(36), primary_key=True)
    job: Mapped[str] = column(String(200))  # "" is everything
    reason: Mapped[str] = column(CleanText)
    owner: Mapped[str] = column(String(200))
    created: Mapped[datetime] = column(UtcDateTime)
    until: Mapped[datetime] = column(UtcDateTime)
    ended: Mapped[datetime | None] = column(UtcDateTime, nullable=True)  # resumed before its time
    __table_args__ = (Index("pauses_by_end", "until"),)


class Scheduler(Base):
    """A `serve` that runs: who asks it to read its configuration again finds it here, and what came of that."""

    __tablename__ = "schedulers"
    worker: Mapped[str] = column(String(200), primary_key=True)  # which process, as in runs.worker
    config: Mapped[str] = column(CleanText)  # the main file
    started: Mapped[datetime] = column(UtcDateTime)
    loaded: Mapped[datetime] = column(UtcDateTime)  # when the configuration in force was read
    asked: Mapped[datetime | None] = column(UtcDateTime, nullable=True)  # when it last looked at a new one
    refused: Mapped[str] = column(CleanText, default="")  # why that one is not in force


class Worker(Base):
    """A `worker` of a fleet: one that ended well is gone from here, one that was killed falls silent."""

    __tablename__ = "workers"
    name: Mapped[str] = column(String(200), primary_key=True)  # for people: host:pid
    identity: Mapped[str] = column(String(200))  # which process, as in runs.worker
    release: Mapped[str] = column(String(100))  # of the program
    configuration: Mapped[str] = column(String(64))  # SHA-256 of what it read
    tags: Mapped[list[Any]] = column(JSON, default=list)
    parallel: Mapped[int] = column(Integer)  # runs at a time
    started: Mapped[datetime] = column(UtcDateTime)
    seen: Mapped[datetime] = column(UtcDateTime)  # its last heartbeat
    draining: Mapped[datetime | None] = column(UtcDateTime, nullable=True)  # since when it shall take nothing new
    reason: Mapped[str] = column(CleanText, default="")  # why


class Stretch(Base):
    """A part of a source that several workers share, while a run goes on; see `operations/dividing.py`."""

    __tablename__ = "stretches"
    plan: Mapped[str] = column(String(64), primary_key=True)  # the record in the repository that names its directories
    number: Mapped[int] = column(Integer, primary_key=True, autoincrement=False)
    run: Mapped[str] = column(String(36))  # that joins them, and under which epoch
    epoch: Mapped[int] = column(Integer)
    hand: Mapped[str] = column(String(36), default="")  # the run that has it, and under which epoch
    hand_epoch: Mapped[int] = column(Integer, default=0)
    taken: Mapped[datetime | None] = column(UtcDateTime, nullable=True)  # or last known to get on
    record: Mapped[str] = column(String(64), default="")  # what came of it; "" until it is stored


ANOMALY = "anomaly"
"""The source of findings about suspicious snapshots."""


class Event(Base):
    """The audit trail: append-only, each row sealed to the one before by its hash."""

    __tablename__ = "events"
    number: Mapped[int] = column(Integer, primary_key=True, autoincrement=False)
    time: Mapped[datetime] = column(UtcDateTime)
    actor: Mapped[str] = column(String(200))
    action: Mapped[str] = column(String(50))
    subject: Mapped[str] = column(CleanText)
    detail: Mapped[dict[str, Any]] = column(JSON, default=dict)
    previous: Mapped[str] = column(String(64))
    hash: Mapped[str] = column(String(64))
