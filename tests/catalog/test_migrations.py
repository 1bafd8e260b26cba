from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from backupctl.catalog import migrations
from backupctl.catalog.catalog import Catalog
from backupctl.catalog.database import open_engine
from backupctl.catalog.models import Base
from backupctl.clock import FakeClock
from backupctl.errors import ConfigError, DamageError, LockedError, UnreachableError
from tests.servers.databases import PostgresServer, free_port

HERE = Path(migrations.__file__).parent


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE))
    return config


def test_the_tables_are_those_of_the_models(catalog: Catalog) -> None:
    with catalog.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert differences == []


def test_up_down_and_up_again(catalog: Catalog) -> None:
    config = alembic_config()
    with catalog.engine.execution_options(backupctl_write=True).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
        command.upgrade(config, "head")
        assert {"runs", "events"} < set(inspect(connection).get_table_names())


def test_the_named_revisions_are_those_on_disk() -> None:
    script = ScriptDirectory.from_config(alembic_config())
    assert [each.revision for each in script.walk_revisions()][::-1] == list(migrations.REVISIONS)


def test_opening_again_keeps_what_is_there(url: str, catalog: Catalog, clock: FakeClock) -> None:
    catalog.append_event("root", "test", "x", {})
    again = Catalog.open(url, clock=clock)
    assert len(again.events()) == 1
    again.close()


def test_a_newer_catalog_is_refused(url: str, catalog: Catalog, clock: FakeClock) -> None:
    with catalog.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(ConfigError, match=f"tables 0999; this one knows up to {migrations.REVISIONS[-1]}"):
        Catalog.open(url, clock=clock)


def test_somebody_elses_database_is_left_alone(url: str, clock: FakeClock) -> None:
    engine = open_engine(url)
    with engine.execution_options(backupctl_write=True).begin() as connection:
        connection.execute(text("CREATE TABLE runs (distance integer)"))
    with pytest.raises(ConfigError, match="not a backupctl catalog"):
        Catalog.open(url, clock=clock)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["runs"]
    engine.dispose()


def test_the_file_is_private_and_uses_the_rollback_journal(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "deep" / "catalog.db"
    catalog = Catalog.open(f"sqlite:///{path}", clock=clock)
    catalog.append_event("root", "test", "x", {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["catalog.db"]
    with catalog.reading() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "delete"
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert session.execute(text("PRAGMA busy_timeout")).scalar() == 30000


def test_a_file_that_is_no_database(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"no database at all " * 200)
    with pytest.raises(DamageError, match="catalog rebuild"):
        Catalog.open(f"sqlite:///{path}", clock=clock)


def test_a_directory_in_the_way(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(ConfigError, match="cannot be"):
        Catalog.open(f"sqlite:///{tmp_path}", clock=clock)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be created"):
        Catalog.open(f"sqlite:///{tmp_path}/file/catalog.db", clock=clock)


def test_a_lock_that_stays(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    Catalog.open(url, clock=clock).close()
    monkeypatch.setattr("backupctl.catalog.database.PATIENCE_SECONDS", 0)
    holder = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LockedError, match="stayed locked"):
        Catalog.open(url, clock=clock)
    holder.close()


@pytest.mark.parametrize("bad", ["nonsense", "mysql://a/b", "sqlite://", "sqlite:///:memory:"])
def test_an_address_that_cannot_be(bad: str, clock: FakeClock) -> None:
    with pytest.raises(ConfigError):
        Catalog.open(bad, clock=clock)


def test_a_server_that_does_not_answer(clock: FakeClock) -> None:
    address = f"postgresql+psycopg://who:hunter2@127.0.0.1:{free_port()}/catalog"
    with pytest.raises(UnreachableError) as caught:
        Catalog.open(address, clock=clock)
    assert "cannot be used" in str(caught.value) and "hunter2" not in str(caught.value)


DIE = """
import os, sys
from backupctl.catalog import migrate
from backupctl.catalog.catalog import Catalog
from backupctl.clock import SystemClock
upgrade = migrate._upgrade
def die(connection):
    upgrade(connection)
    os.kill(os.getpid(), 9)
migrate._upgrade = die
Catalog.open(sys.argv[1], clock=SystemClock())
"""


def test_a_process_killed_while_it_migrates_leaves_nothing_half_done(url: str, clock: FakeClock) -> None:
    killed = subprocess.run([sys.executable, "-c", DIE, url], timeout=120)
    assert killed.returncode == -9
    engine = open_engine(url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    engine.dispose()
    catalog = Catalog.open(url, clock=clock)
    assert catalog.runs() == []
    catalog.close()


@pytest.mark.servers
def test_a_postgresql_password_comes_from_a_file(
    postgres_server: PostgresServer, tmp_path: Path, clock: FakeClock
) -> None:
    postgres_server.sql("CREATE ROLE keeper LOGIN PASSWORD 'hunter2'")
    postgres_server.sql("CREATE DATABASE keeper OWNER keeper")
    passfile = tmp_path / "pgpass"
    passfile.touch(mode=0o600)
    url = f"postgresql://keeper@127.0.0.1:{postgres_server.port}/keeper?passfile={passfile}"
    with pytest.raises(UnreachableError, match="no password supplied"):
        Catalog.open(url, clock=clock)
    passfile.write_text("*:*:*:keeper:hunter2\n")
    catalog = Catalog.open(url, clock=clock)
    assert catalog.enqueue("backup", "website", clock.now(), trigger="manual") is not None
    catalog.close()
