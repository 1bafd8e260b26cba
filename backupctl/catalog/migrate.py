"""Bring a catalog to the tables of this version. Two processes that start at once wait for each other.

The whole upgrade is one transaction on both databases, so a crash leaves the old tables or the new ones.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from backupctl.catalog.database import MIGRATION_LOCK, describe, explained
from backupctl.catalog.migrations import REVISIONS
from backupctl.errors import ConfigError


def migrate(engine: Engine, *, upgrade: bool = True) -> None:
    """Raises ConfigError for a database that is newer than this program, or somebody else's."""
    location = describe(engine.url)
    with explained(location):
        with engine.connect() as connection:
            found = _revision(connection, location)
        if found == REVISIONS[-1]:
            return
        if not upgrade:
            raise ConfigError(
                f"the catalog {location} is not that of this release (tables {found or 'none'}, not {REVISIONS[-1]})",
                next_step="start `backupctl serve` of this release first: it brings the catalog up to date",
            )
        with engine.execution_options(backupctl_write=True).connect() as connection:
            if engine.dialect.name == "sqlite":  # tables are rebuilt by copy; has no effect inside a transaction
                connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                if _revision(connection, location) != REVISIONS[-1]:
                    _upgrade(connection)


def _revision(connection: Connection, location: str) -> str:
    """The revision of the tables that are there; "" for an empty database."""
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        if tables & {"runs", "snapshots", "drills", "events"}:
            raise ConfigError(
                f"{location} holds tables that are not a backupctl catalog",
                next_step="give the catalog a database of its own",
            )
        return ""
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""
    if revision and revision not in REVISIONS:
        raise ConfigError(
            f"the catalog {location} was made by another version of backupctl (tables {revision}; this one knows up to"
            f" {REVISIONS[-1]})",
            next_step="install the newer backupctl, or restore the catalog that belongs to this one",
        )
    return str(revision)


def _upgrade(connection: Connection) -> None:
    from alembic import command  # 100 ms to import, needed once in a catalog's life
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
