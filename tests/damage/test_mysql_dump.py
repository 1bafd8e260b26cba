"""MySQL by logical dump: each kind of damage, and none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from backupctl.sources.mysql import MysqlSource
from backupctl.sources.protocol import Instance
from tests.damage.matrix import Case
from tests.damage.rows.mysql_dump import ROWS
from tests.damage.stage import (
    Plant,
    Stage,
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
from tests.damage.test_mariadb_dump import changed_definitions, cut, nowhere, without_parts
from tests.servers.databases import MysqlServer, run

pytestmark = pytest.mark.servers
SCHEMA = """
CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, customer VARCHAR(50));
SET cte_max_recursion_depth = 6000;
INSERT INTO orders (customer) WITH RECURSIVE seq(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 6000)
  SELECT CONCAT('customer number ', n) FROM seq;
CREATE TABLE items (id INT PRIMARY KEY); INSERT INTO items VALUES (1), (2), (3);
CREATE TABLE parts (id INT PRIMARY KEY); INSERT INTO parts VALUES (1), (2);
CREATE TABLE texts (t VARCHAR(50) PRIMARY KEY); INSERT INTO texts VALUES ('客戶 Zoë');
CREATE TABLE times (at TIMESTAMP PRIMARY KEY); INSERT INTO times VALUES ('2026-01-02 03:04:05');
"""
WRITE = "UPDATE damaged.orders SET customer = RAND() WHERE id = 1 + FLOOR(RAND() * 6000);"
ITEM = "MySQL database damaged"


@pytest.fixture(scope="module")
def shop(mysql_server: MysqlServer) -> Iterator[MysqlServer]:
    mysql_server.sql("CREATE DATABASE damaged; CREATE ROLE clerks;")
    mysql_server.sql(SCHEMA, "damaged")
    mysql_server.sql("GRANT SELECT ON damaged.orders TO clerks;")
    yield mysql_server
    mysql_server.sql("DROP DATABASE damaged; DROP ROLE clerks;")


@pytest.fixture(scope="module")
def site(shop: MysqlServer, mysql_programs: Path) -> Iterator[Stage]:
    options = f"{{socket: {shop.socket}, user: root, databases: [damaged], bin_dir: {mysql_programs}/bin}}"
    with stage("mysql", options, shop) as made:
        yield made


def in_restored(sql: str) -> Plant:
    def change(instance: Instance) -> None:
        connection = instance.connection
        run(
            [
                f"{connection['bin_dir']}/mysql",
                "--no-defaults",
                "-S",
                connection["socket"],
                "-u",
                connection["user"],
                "-e",
                sql,
            ]
        )

    return restored(MysqlSource, change)


def with_programs(**bodies: str) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        shop: MysqlServer = site.server
        given = Path(shop.program).parent
        found = [str(given / name) for name in ("mysql", "mysqldump")]
        site.configure(site.options.replace(str(given), programs(site, found, **bodies)))

    return plant


def will_not_start(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    server = Path(site.server.program).with_name("mysqld")
    lazy = f'case "$*" in *--version) exec {server} "$@";; esac; echo "disk is on strike" >&2; exit 1'
    with_programs(mysqld=lazy)(monkeypatch, site)


OLDER = 'echo "mysqldump  Ver 8.4.3 for Linux on x86_64 (MySQL Community Server - GPL)"'
PLANTS: dict[str, Plant] = {
    "dump process killed": killed(ITEM),
    "connection cut at a byte": cut,
    "dump cut in half, exit status 0": edited(ITEM, halved),
    "one of several databases cannot be dumped": nowhere,
    "definitions changed during the dump": changed_definitions,
    "client older than the server": with_programs(mysqldump=OLDER),
    "wrong key": wrong_key,
    "one row changed": edited(ITEM, replaced(b"number 471'", b"number 472'")),
    "one row missing": edited(ITEM, replaced(b"INSERT INTO `items` VALUES (1),", b"INSERT INTO `items` VALUES ")),
    "one table missing": edited(ITEM, without_parts),
    "role missing": in_restored("DROP ROLE clerks"),
    "wrong encoding": edited(ITEM, replaced(b"SET NAMES utf8mb4", b"SET NAMES latin1")),
    "wrong time zone": edited(ITEM, replaced(b"SET TIME_ZONE='+00:00'", b"SET TIME_ZONE='-05:00'")),
    "full disk on staging": full_disk,
    "server that will not start": will_not_start,
    "stale backup": stale,
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(site: Stage) -> None:
    site.never_suspected(ROWS, partial(site.server.load, WRITE))
