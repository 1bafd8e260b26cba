"""What a server's own binary log tells of transactions that took much away, and of those that did not."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from backupctl.sources.binlog_losses import BinlogLoss, BinlogLossFinder, told
from backupctl.sources.mariadb_binlog import read_whole
from tests.servers.databases import MariadbServer, mariadb_server


@pytest.fixture(scope="module")
def server() -> Iterator[MariadbServer]:
    with mariadb_server("--log-bin=bin", "--server-id=1") as server:
        server.sql("CREATE DATABASE shop")
        yield server


def read(server: MariadbServer, script: str) -> BinlogLossFinder:
    """What is told of what `script` does in the database `shop`."""
    server.sql("FLUSH BINARY LOGS")
    name = server.sql("SHOW MASTER STATUS").split()[0]
    server.sql(script, "shop")
    server.sql("FLUSH BINARY LOGS")
    finder = BinlogLossFinder(name, rows=500)
    read_whole(BytesIO((Path(server.directory) / "data" / name).read_bytes()), finder.reader)
    return finder


def losses(server: MariadbServer, script: str) -> list[BinlogLoss]:
    finder = read(server, script)
    assert finder.unread == 0
    return finder.found


MANY_TYPES = """
CREATE TABLE wide (id INT PRIMARY KEY, a TINYINT, b SMALLINT, c MEDIUMINT, d BIGINT, e FLOAT, f DOUBLE, g DECIMAL(20, 7),
  h DATE, i TIME(3), j DATETIME(6), k TIMESTAMP(2) NULL, l YEAR, m CHAR(90), n VARCHAR(40), o VARCHAR(900), p TEXT, q LONGBLOB,
  r ENUM('x', 'y'), s SET('x', 'y'), t BIT(11), u JSON, v POINT, w DATETIME, x VARCHAR(90) COMPRESSED,
  y CHAR(200) CHARACTER SET utf8mb4);
INSERT INTO wide SELECT seq, 1, 2, 3, 4, 5.5, 6.25, 1234567.7654321, '2026-11-20', '10:00:00.125', NOW(6), NOW(), 2026, 'char',
  REPEAT('n', 30), REPEAT('o', 400), 'text', REPEAT('q', 3000), 'x', 'x,y', b'10101', '{}', POINT(1, 2), NULL, 'x', 'y'
  FROM seq_1_to_700;
INSERT INTO wide (id) SELECT seq FROM seq_1001_to_1100;
"""


@pytest.mark.servers
def test_each_way_of_losing_much_is_told_with_its_name(server: MariadbServer) -> None:
    server.sql(
        "CREATE TABLE goods (id INT PRIMARY KEY, note VARCHAR(40)); INSERT INTO goods SELECT seq, 'x' FROM seq_1_to_900;"
        "CREATE TABLE old LIKE goods; CREATE TABLE `odd name` LIKE goods; CREATE DATABASE lost;",
        "shop",
    )
    found = losses(
        server,
        "SET binlog_format = ROW; DELETE FROM goods WHERE id <= 600; UPDATE goods SET note = 'y'; INSERT INTO goods SELECT"
        " seq, 'z' FROM seq_2001_to_2600; UPDATE goods SET note = 'secret' WHERE id > 2000; BEGIN; DELETE FROM goods; ROLLBACK;"
        "TRUNCATE old; DROP TABLE `odd name`, old; ALTER TABLE goods DROP COLUMN note; DROP DATABASE lost;"
        "SET binlog_format = STATEMENT; UPDATE goods SET id = id + 1 ORDER BY id DESC; DELETE FROM goods WHERE id = 3;"
        "DELETE FROM goods;",
    )
    assert [one.words for one in found] == [
        "deleted 600 rows of shop.goods",
        "updated 600 rows of shop.goods",
        "emptied table shop.old",
        "dropped table shop.oddname, dropped table shop.old",
        "dropped columns of shop.goods",
        "dropped database lost",
        "updated all rows of shop.goods",
        "deleted all rows of shop.goods",
    ]
    assert all(one.start and one.gtid.startswith("0-1-") for one in found)
    assert [one.start for one in found] == sorted(one.start for one in found)


@pytest.mark.servers
def test_rows_are_counted_whatever_their_columns_are(server: MariadbServer) -> None:
    server.sql(MANY_TYPES, "shop")
    found = losses(server, "SET binlog_format = ROW; DELETE FROM wide;")
    assert [one.words for one in found] == ["deleted 800 rows of shop.wide"]


@pytest.mark.servers
def test_what_cannot_be_looked_into_is_counted(server: MariadbServer) -> None:
    server.sql(
        "CREATE TABLE big (n INT, t TEXT); INSERT INTO big SELECT seq, REPEAT('x', 900) FROM seq_1_to_600", "shop"
    )
    server.sql("SET GLOBAL log_bin_compress = ON")
    finder = read(server, "SET binlog_format = ROW; DELETE FROM big;")
    assert finder.found == [] and finder.unread >= 1
    server.sql("SET GLOBAL log_bin_compress = OFF")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("/* nightly */ drop table if exists a.b", "dropped table a.b"),
        ("DROP TEMPORARY TABLE b", ""),
        ("CREATE OR REPLACE TABLE t (n INT)", "replaced table s.t"),
        ("ALTER TABLE t DROP INDEX i", ""),
        ("ALTER TABLE t TRUNCATE PARTITION p0", "dropped or emptied partitions of s.t"),
        ("DELETE FROM t WHERE a = 1", ""),
        ("UPDATE t SET a = ' WHERE '", "updated all rows of s.t"),
        ("UPDATE t SET a = 1 LIMIT 3", ""),
        ("INSERT INTO t VALUES ('DROP TABLE t')", ""),
    ],
)
def test_statements(statement: str, expected: str) -> None:
    assert ", ".join(told("s", statement)) == expected
