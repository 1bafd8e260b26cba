"""SQLite: each kind of damage, and none."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from backupctl.sources.protocol import Instance
from backupctl.sources.sqlite import SqliteSource
from tests.damage.matrix import Case
from tests.damage.rows.sqlite import ROWS
from tests.damage.stage import (
    Plant,
    Stage,
    each_of,
    edited,
    full_disk,
    halved,
    killed,
    restored,
    stage,
    stale,
    wrong_key,
)
from tests.end_to_end.test_databases import writing

ITEM = "SQLite database"
SCHEMA = """
CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, customer TEXT, total REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
  INSERT INTO orders (customer, total) SELECT 'customer number ' || i, i FROM n;
CREATE TABLE items (id INTEGER PRIMARY KEY); INSERT INTO items VALUES (1), (2);
CREATE TABLE parts (id INTEGER PRIMARY KEY); INSERT INTO parts VALUES (1);
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA)
    connection.close()
    return path


@pytest.fixture(scope="module")
def site(database: Path) -> Iterator[Stage]:
    with stage("sqlite", f"{{path: {database}}}", database) as made:
        yield made


def in_restored(sql: str) -> Plant:
    def change(instance: Instance) -> None:
        with sqlite3.connect(os.fsdecode(instance.directory) + "/shop.db") as connection:
            connection.execute(sql)
        connection.close()

    return restored(SqliteSource, change)


def flip(path: Path) -> None:
    """In the middle of a row's text: only the page's own structure tells, or the comparison."""
    content = bytearray(path.read_bytes())
    place = content.index(b"customer number 9999")
    content[place] ^= 1
    path.write_bytes(content)


def broken_page(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """The header of a page in the middle."""
    database: Path = site.server
    aside = site.site.root / "broken"
    aside.mkdir()
    content = bytearray(database.read_bytes())
    content[4096 * 20] ^= 0xFF
    (aside / "shop.db").write_bytes(content)
    site.configure(f"{{path: {aside / 'shop.db'}}}")


def no_database(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    aside = site.site.root / "text"
    aside.mkdir()
    (aside / "shop.db").write_text("somebody wrote over it\n" * 1000)
    site.configure(f"{{path: {aside / 'shop.db'}}}")


PLANTS: dict[str, Plant] = {
    "copying process killed": killed(ITEM),
    "copy cut in half, exit status 0": edited(ITEM, halved),
    "one flipped byte in a page": broken_page,
    "no database any more": no_database,
    "wrong key": wrong_key,
    "one row changed": in_restored("UPDATE orders SET total = total + 0.001 WHERE id = 471"),
    "one row missing": in_restored("DELETE FROM items WHERE id = 2"),
    "one table missing": in_restored("DROP TABLE parts"),
    "one flipped byte in the restored page": restored(
        SqliteSource, lambda instance: flip(Path(os.fsdecode(instance.directory)) / "shop.db")
    ),
    "full disk on staging": full_disk,
    "stale backup": stale,
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


@pytest.mark.soak
def test_a_healthy_database_under_load_is_never_suspected(site: Stage, database: Path, tmp_path: Path) -> None:
    shutil.copy(database, tmp_path / "shop.db")
    site.never_suspected(ROWS, partial(writing, tmp_path / "shop.db"), f"{{path: {tmp_path / 'shop.db'}}}")
