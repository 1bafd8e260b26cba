"""The catalog: runs, snapshots, checks, drills, findings, holds, notices, pauses and the audit trail, in SQLite or PostgreSQL.

Short transactions, safe between threads and processes. Rows come back detached: plain objects, readable after the
session is gone. The repositories are the truth; `catalog rebuild` makes the rest again.
"""

from __future__ import annotations

from backupctl.catalog.database import FencedError as FencedError
from backupctl.catalog.database import memory_engine, open_engine
from backupctl.catalog.events import Events
from backupctl.catalog.facts import Facts
from backupctl.catalog.migrate import migrate
from backupctl.catalog.models import Base
from backupctl.catalog.outbox import Outbox
from backupctl.catalog.runs import Runs
from backupctl.catalog.schedulers import Schedulers
from backupctl.catalog.stretches import Stretches
from backupctl.clock import Clock

__all__ = ["Catalog", "FencedError"]


class Catalog(Runs, Facts, Outbox, Events, Schedulers, Stretches):
    @classmethod
    def open(cls, url: str, *, clock: Clock, upgrade: bool = True) -> Catalog:
        """Create the database file and its tables, or bring them up to date; without `upgrade`, refuse what is not: a
        worker does not change what others still use. Raises ConfigError (bad URL, no right to write, a newer catalog),
        UnreachableError, LockedError, DamageError."""
        engine = open_engine(url)
        migrate(engine, upgrade=upgrade)
        return cls(engine, clock)

    @classmethod
    def in_memory(cls, *, clock: Clock) -> Catalog:
        """An empty one that nobody else sees and that is gone with this object: for who may not, or need not, remember."""
        engine = memory_engine()
        Base.metadata.create_all(engine)
        return cls(engine, clock)
