"""One engine, short transactions, and every database failure as a typed error.

SQLite: rollback journal (`journal_mode=DELETE`; the write-ahead log has a corruption bug before 3.51.3), foreign keys
on, 30 seconds of patience, writers begin with `BEGIN IMMEDIATE` so that none fails half-way for a lock.
PostgreSQL: psycopg 3.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, StaticPool

from backupctl.catalog.rows import Session
from backupctl.clock import Clock
from backupctl.errors import ConfigError, DamageError, LockedError, UnreachableError, UserError

PATIENCE_SECONDS = 30
# PostgreSQL advisory locks, ours by the prefix "back"
CHAIN_LOCK, MIGRATION_LOCK, CLAIM_LOCK, DISPATCH_LOCK = (0x6261636B0000 + number for number in (1, 2, 3, 4))
SERVER_IS_GONE: dict[str, Any] = {
    # a server that vanished (a network that swallows packets) is known as gone after 30 seconds, not after a quarter of an
    # hour: TCP alone goes on sending again for so long, and a heartbeat that hangs is one that is not said
    "connect_timeout": PATIENCE_SECONDS,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": PATIENCE_SECONDS * 1000,  # milliseconds
}
"""For libpq."""


class FencedError(UserError):
    """The run was claimed again, cancelled or finished by somebody else: this worker must stop and commit nothing."""

    exit_code = 11


class Database:
    """What the nouns of the catalog share. Safe between threads and processes; do not carry it across a fork."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self.location = describe(engine.url)
        self._writer = engine.execution_options(backupctl_write=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        with explained(self.location), self.engine.connect() as connection:
            yield Session(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: all of it or nothing."""
        with explained(self.location), self._writer.begin() as connection:
            yield Session(connection)

    @contextlib.contextmanager
    def alone(self, lock: int) -> Iterator[bool]:
        """False when another process does what this PostgreSQL advisory lock stands for; while it lasts, nobody else does."""
        with explained(self.location), self.engine.connect() as connection:
            mine = bool(connection.scalar(select(func.pg_try_advisory_lock(lock))))
            connection.commit()  # the lock is the session's: no transaction stays open meanwhile
            try:
                yield mine
            finally:
                if mine:
                    connection.scalar(select(func.pg_advisory_unlock(lock)))
                    connection.commit()

    def clock_difference(self) -> timedelta:
        """How far our clock is ahead of the PostgreSQL server's."""
        with self.reading() as session:
            told = session.scalar(select(func.clock_timestamp()))
        assert isinstance(told, datetime)
        return self.clock.now() - told

    def close(self) -> None:
        self.engine.dispose()


def describe(url: URL) -> str:
    """For people: no password."""
    return (
        str(url.database or "in memory")
        if url.get_backend_name() == "sqlite"
        else url.render_as_string(hide_password=True)
    )


def open_engine(text: str) -> Engine:
    """Raises ConfigError for a URL that names no database the catalog can use. Connects to nothing yet."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(
            "the catalog's address is no database URL",
            next_step="write catalog: sqlite:////var/lib/backupctl/catalog.db or postgresql+psycopg://user@host/name",
        ) from error
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(url)
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={**SERVER_IS_GONE, "application_name": "backupctl"},
        )
    raise ConfigError(
        f"the catalog cannot live in {url.drivername!r}",
        next_step="use sqlite:///FILE or postgresql+psycopg://user@host/name",
    )


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError(
            "the catalog needs a file", next_step="write catalog: sqlite:////var/lib/backupctl/catalog.db"
        )
    _make_private(Path(url.database))
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": PATIENCE_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def memory_engine() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(path: Path) -> None:
    """Created 0600 before SQLite sees it. Never opened when it exists: closing it would drop SQLite's own locks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if path.stat().st_mode & 0o077 and path.stat().st_uid == os.geteuid():
            path.chmod(0o600)
    except OSError as error:
        raise ConfigError(
            f"the catalog {path} cannot be created: {error.strerror}",
            next_step="make its directory writable, or set `catalog:` to another file",
        ) from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves; the driver's own idea of it breaks DDL and locking
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("backupctl_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextlib.contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn what the driver says into what a person can act on; anything else is a bug and passes through."""
    try:
        yield
    except DBAPIError as error:
        explanation = _explain(error, location)
        if explanation is None:
            raise
        raise explanation from error


def _explain(error: DBAPIError, location: str) -> UserError | None:
    said = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if isinstance(error.orig, sqlite3.Error):
        return _explain_sqlite(getattr(error.orig, "sqlite_errorname", ""), said, location)
    if getattr(error.orig, "sqlstate", None) == "42501":
        return ConfigError(
            f"the catalog {location} refuses us: {said}", next_step="grant the catalog's user its schema"
        )
    if error.connection_invalidated or isinstance(error, OperationalError):
        return UnreachableError(
            f"the catalog {location} cannot be used: {said}",
            next_step="check that the database runs and that its user may log in",
        )
    return None


def _explain_sqlite(name: str, said: str, location: str) -> UserError | None:
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LockedError(
            f"the catalog {location} stayed locked for {PATIENCE_SECONDS} seconds",
            next_step="look for another program that keeps it open, such as a database browser",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DamageError(
            f"the catalog {location} is damaged: {said}",
            name=location,
            next_step="move the file away and run `backupctl catalog rebuild`",
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return ConfigError(
            f"the catalog {location} cannot be opened: {said}", next_step="check who owns the file and its directory"
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return UserError(
            f"the catalog {location} cannot be written: {said}", next_step="free some space, then run it again"
        )
    return None
