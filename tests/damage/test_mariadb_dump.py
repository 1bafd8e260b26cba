"""MariaDB by logical dump: each kind of damage, and none."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from backupctl.hosts.protocol import Process
from backupctl.sources.mariadb import MariadbSource
from backupctl.sources.protocol import Instance
from tests.damage.matrix import Case
from tests.damage.rows.mariadb_dump import ROWS
from tests.damage.stage import (
    Plant,
    Stage,
    cut_after,
    during_dump,
    each_of,
    edited,
    full_disk,
    halved,
    killed,
    programs,
    replaced,
    restored,
    stage,
    stale,
    wrong_key,
)
from tests.servers.databases import MariadbServer, run

pytestmark = pytest.mark.servers
SCHEMA = """
CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, customer VARCHAR(50));
INSERT INTO orders (customer) SELECT CONCAT('customer number ', seq) FROM seq_1_to_6000;
CREATE TABLE items (id INT PRIMARY KEY); INSERT INTO items VALUES (1), (2), (3);
CREATE TABLE parts (id INT PRIMARY KEY); INSERT INTO parts VALUES (1), (2);
CREATE TABLE texts (t VARCHAR(50) PRIMARY KEY); INSERT INTO texts VALUES ('客戶 Zoë');
CREATE TABLE times (at TIMESTAMP PRIMARY KEY); INSERT INTO times VALUES ('2026-01-02 03:04:05');
CREATE SEQUENCE tickets START WITH 100 NOCACHE; SELECT NEXTVAL(tickets);
"""
WRITE = "UPDATE damaged.orders SET customer = RAND() WHERE id = 1 + FLOOR(RAND() * 6000);"
ITEM = "MariaDB database damaged"


@pytest.fixture(scope="module")
def shop(mariadb_server: MariadbServer) -> Iterator[MariadbServer]:
    mariadb_server.sql("CREATE DATABASE damaged CHARACTER SET utf8mb4; CREATE ROLE clerks;")
    mariadb_server.sql(SCHEMA, "damaged")
    mariadb_server.sql("GRANT SELECT ON damaged.orders TO clerks;")
    yield mariadb_server
    mariadb_server.sql("DROP DATABASE damaged; DROP ROLE clerks;")


@pytest.fixture(scope="module")
def site(shop: MariadbServer) -> Iterator[Stage]:
    with stage("mariadb", f"{{socket: {shop.socket}, user: root, databases: [damaged]}}", shop) as made:
        yield made


def in_restored(sql: str) -> Plant:
    def change(instance: Instance) -> None:
        connection = instance.connection
        run(["mariadb", "--no-defaults", "-S", connection["socket"], "-u", connection["user"], "-e", sql])

    return restored(MariadbSource, change)


def without_parts(whole: bytes) -> bytes:
    found = re.search(rb"DROP TABLE IF EXISTS `parts`.*?UNLOCK TABLES;\n", whole, re.DOTALL)
    assert found
    return whole.replace(found.group(), b"")


def cut(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """In the middle of the largest table's rows."""
    shop: MariadbServer = site.server
    proxy = site.resources.enter_context(cut_after(shop.socket, 60_000))
    site.configure(site.options.replace(f"socket: {shop.socket}", f"address: 127.0.0.1, port: {proxy}"))


def changed_definitions(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    shop: MariadbServer = site.server

    def alter(process: Process) -> None:
        shop.sql("ALTER TABLE damaged.parts ADD COLUMN more INT, ALGORITHM=INSTANT")
        site.resources.callback(shop.sql, "ALTER TABLE damaged.parts DROP COLUMN more")

    during_dump(monkeypatch, " database damaged", alter)


def nowhere(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """A view whose table is gone, as it happens: no dump program takes it."""
    shop: MariadbServer = site.server
    shop.sql("CREATE DATABASE leads; CREATE TABLE leads.t (x INT); CREATE VIEW leads.v AS SELECT * FROM leads.t;")
    shop.sql("DROP TABLE leads.t")
    site.resources.callback(shop.sql, "DROP DATABASE leads")
    site.configure(site.options.replace("[damaged]", "[damaged, leads]"))


def torn_page(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """A table whose file is put back as it was, so that nothing of it is in memory, and then one byte of a row is flipped."""
    shop: MariadbServer = site.server
    shop.sql("CREATE TABLE torn (id INT PRIMARY KEY, t VARCHAR(200))", "damaged")
    site.resources.callback(shop.sql, "DROP TABLE damaged.torn")
    shop.sql("INSERT INTO torn SELECT seq, REPEAT('x', 200) FROM seq_1_to_2000;", "damaged")
    folder = shop.directory / "data" / "damaged"
    shop.sql(
        f"FLUSH TABLES torn FOR EXPORT; \\! cp -p {folder}/torn.ibd {folder}/torn.cfg {shop.directory}\nUNLOCK TABLES",
        "damaged",
    )
    shop.sql("ALTER TABLE torn DISCARD TABLESPACE", "damaged")
    for name in ("torn.ibd", "torn.cfg"):
        os.rename(shop.directory / name, folder / name)
    shop.sql("ALTER TABLE torn IMPORT TABLESPACE", "damaged")
    with (folder / "torn.ibd").open("r+b") as file:
        file.seek(12 * 16384 + 5000)
        assert file.read(1) == b"x"
        file.seek(12 * 16384 + 5000)
        file.write(b"y")


def with_programs(**bodies: str) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        found = [str(shutil.which(name)) for name in ("mariadb", "mariadb-dump")]
        site.configure(site.options.replace("}", f", bin_dir: {programs(site, found, **bodies)}}}"))

    return plant


OLDER = 'echo "mariadb-dump  Ver 10.19 Distrib 10.3.1-MariaDB, for debian-linux-gnu (x86_64)"'
LAZY = 'case "$*" in *--version) exec mariadbd "$@";; esac; echo "disk is on strike" >&2; exit 1'
PLANTS: dict[str, Plant] = {
    "dump process killed": killed(ITEM),
    "connection cut at a byte": cut,
    "dump cut in half, exit status 0": edited(ITEM, halved),
    "one of several databases cannot be dumped": nowhere,
    "definitions changed during the dump": changed_definitions,
    "one flipped byte in a page": torn_page,
    "client older than the server": with_programs(mariadb_dump=OLDER),
    "wrong key": wrong_key,
    "one row changed": edited(ITEM, replaced(b"number 471'", b"number 472'")),
    "one row missing": edited(ITEM, replaced(b"INSERT INTO `items` VALUES\n(1),", b"INSERT INTO `items` VALUES\n")),
    "one table missing": edited(ITEM, without_parts),
    "role missing": in_restored("DROP ROLE clerks"),
    "sequence reset": edited(ITEM, replaced(b"SETVAL(`tickets`, 101,", b"SETVAL(`tickets`, 1,")),
    "wrong encoding": edited(ITEM, replaced(b"SET NAMES utf8mb4", b"SET NAMES latin1")),
    "wrong time zone": edited(ITEM, replaced(b"SET TIME_ZONE='+00:00'", b"SET TIME_ZONE='-05:00'")),
    "full disk on staging": full_disk,
    "server that will not start": with_programs(mariadbd=LAZY),
    "stale backup": stale,
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


def test_a_database_comes_back_into_a_live_server_under_another_name(site: Stage, shop: MariadbServer) -> None:
    with site.prepared():
        site.site.run("run")
        shop.sql("DELETE FROM damaged.items WHERE id = 3")
        site.resources.callback(shop.sql, "INSERT INTO damaged.items VALUES (3)")
        way = site.site.root / "way"
        command = ["restore", "site", "--only", "db:damaged", "--into", str(way), "--into-server"]
        command += [f"socket={shop.socket} user=root", "--as"]
        assert "has a database damaged already" in site.site.run(*command, "damaged", expect=2).err
        site.site.run(*command, "damaged_before")
        assert shop.sql("SELECT COUNT(*) FROM damaged_before.items; SELECT COUNT(*) FROM damaged.items") == "3\n2"
        assert not way.exists()
        shop.sql("DROP DATABASE damaged_before")


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(site: Stage) -> None:
    site.never_suspected(ROWS, partial(site.server.load, WRITE))
