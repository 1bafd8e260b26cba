"""What a server's own log tells of transactions that took much away, and of those that only look like it."""

from __future__ import annotations

import pytest

from backupctl.sources.wal_format import WalReader, parse_lsn, segment_name
from backupctl.sources.wal_losses import Loss, LossFinder
from tests.servers.databases import PostgresServer

pytestmark = pytest.mark.servers
SEGMENT = 16 << 20


def losses(server: PostgresServer, script: str, *, rows: int = 500) -> list[Loss]:
    """Of what `script` does."""
    before = parse_lsn(server.sql("SELECT pg_current_wal_insert_lsn()"))
    server.sql(script)
    after = parse_lsn(server.sql("SELECT pg_current_wal_insert_lsn()"))
    server.sql("SELECT pg_switch_wal()")
    finder = LossFinder(rows)
    first = before - before % SEGMENT
    reader = WalReader(first, SEGMENT, finder.see)
    log = server.directory / "data" / "pg_wal"
    for lsn in range(first, after, SEGMENT):
        reader.feed((log / segment_name(1, lsn, SEGMENT)).read_bytes())
    assert reader.last is not None and reader.last >= after - (1 << 10), "the log was not read to its end"
    return [one for one in finder.found if before <= one.lsn < after]


def file_of(server: PostgresServer, table: str) -> int:
    return int(server.sql(f"SELECT pg_relation_filenode('{table}')"))


@pytest.fixture(scope="module")
def tables(postgres_server: PostgresServer) -> PostgresServer:
    postgres_server.sql(
        "CREATE TABLE goods (id int PRIMARY KEY, note text);"
        "INSERT INTO goods SELECT g, 'note ' || g FROM generate_series(1, 2000) g;"
        "CREATE TABLE drafts AS TABLE goods; CREATE TABLE old AS TABLE goods; CREATE TABLE wide (n int, note text);"
        "CREATE TABLE kept AS TABLE goods; CREATE DATABASE lost;"
    )
    return postgres_server


def test_each_way_of_losing_much_is_told_with_its_file(tables: PostgresServer) -> None:
    files = {name: file_of(tables, name) for name in ("goods", "drafts", "old", "wide")}
    found = losses(
        tables,
        "DELETE FROM goods WHERE id > 1000; BEGIN; SAVEPOINT a; UPDATE goods SET note = 'x'; RELEASE a; COMMIT;"
        "DROP TABLE drafts; TRUNCATE old; DROP DATABASE lost; TRUNCATE wide, goods;",
    )
    deleted, updated, dropped, emptied, database, both = found
    assert [(one[2], rows) for one, rows in deleted.deleted] == [(files["goods"], 1000)]
    assert [(one[2], rows) for one, rows in updated.updated] == [(files["goods"], 1000)], "also in a subtransaction"
    assert files["drafts"] in [one[2] for one in dropped.dropped] and not dropped.emptied
    assert files["old"] in [one[2] for one in emptied.emptied] and not emptied.dropped
    assert len(database.databases) == 1 and database.words.startswith("dropped database ")
    assert {files["wide"], files["goods"]} <= {one[2] for one in both.emptied}
    assert deleted.words == f"deleted 1,000 rows of file {files['goods']} of database {deleted.deleted[0][0][1]}"
    assert emptied.words.startswith("emptied 3 table or index file(s), such as file ")
    assert [one.time for one in found] == sorted(one.time for one in found if one.time)
    assert len({one.xid for one in found}) == len(found)


def test_what_only_looks_like_it_is_not_told(tables: PostgresServer) -> None:
    assert not losses(
        tables,
        "INSERT INTO goods SELECT g, 'n' FROM generate_series(1, 2000) g;"
        "VACUUM FULL goods; VACUUM FULL kept; REINDEX TABLE goods;"
        "ALTER TABLE goods ALTER id TYPE bigint; CLUSTER goods USING goods_pkey;"
        "BEGIN; CREATE TABLE scratch AS TABLE goods; DROP TABLE scratch; COMMIT;"
        "BEGIN; DROP TABLE kept; ROLLBACK;"
        "BEGIN; SAVEPOINT a; DELETE FROM kept; ROLLBACK TO a; INSERT INTO wide VALUES (1); COMMIT;"
        "DELETE FROM goods WHERE id < 400; UPDATE goods SET note = 'y' WHERE id < 800; CREATE TEMP TABLE t (n int); DROP TABLE t;",
    )
    assert losses(tables, "DELETE FROM kept", rows=2000) and not losses(tables, "DELETE FROM goods", rows=2000)
