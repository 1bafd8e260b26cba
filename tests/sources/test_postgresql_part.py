"""One table, one schema, another name: out of both kinds of logical backups of PostgreSQL."""

from __future__ import annotations

import pytest

from backupctl.errors import DamageError
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from backupctl.sources.protocol import Part
from tests.sources.helpers import HOST, MemoryFiles, take
from tests.sources.test_postgresql import scratch

pytestmark = pytest.mark.servers
__all__ = ["scratch"]
SCHEMA = """
CREATE SCHEMA archive;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION limit_of(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 1000';
CREATE TABLE people (id serial PRIMARY KEY, name text UNIQUE, feeling mood DEFAULT 'ok');
INSERT INTO people (name) SELECT 'p' || n FROM generate_series(1, 50) n;
CREATE TABLE orders (id int PRIMARY KEY CHECK (limit_of(id)), person int REFERENCES people, parent int REFERENCES orders);
CREATE INDEX by_person ON orders (person);
INSERT INTO orders SELECT n, n, nullif(n - 1, 0) FROM generate_series(1, 40) n;
CREATE TABLE archive.orders (id int PRIMARY KEY);
INSERT INTO archive.orders SELECT generate_series(1, 7);
CREATE TABLE archive.parts (id int, year int, PRIMARY KEY (id, year)) PARTITION BY LIST (year);
CREATE TABLE archive.parts_1 PARTITION OF archive.parts FOR VALUES IN (1);
CREATE TABLE archive.parts_2 PARTITION OF archive.parts FOR VALUES IN (2);
INSERT INTO archive.parts VALUES (1, 1), (1, 2), (2, 2);
CREATE VIEW pairs AS SELECT o.id FROM orders o JOIN people p ON p.id = o.person;
CREATE MATERIALIZED VIEW total AS SELECT count(*) FROM people;
CREATE FUNCTION keep() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'nothing is dropped here'; END $$;
CREATE EVENT TRIGGER keep_all ON sql_drop EXECUTE FUNCTION keep();
"""


@pytest.fixture(scope="module")
def server(postgres_server):
    postgres_server.sql("CREATE DATABASE store;")
    postgres_server.sql(SCHEMA, "store")
    yield postgres_server
    postgres_server.sql("DROP DATABASE store;")


@pytest.fixture(scope="module")
def backups(server):
    """By each method, once for all tests."""
    taken = {}
    for method in ("dump", "ordered"):
        options = PostgresqlOptions(conninfo=server.conninfo, databases=["store"], method=method)
        source = PostgresqlSource("store-db", options, lambda ref: b"")
        taken[method] = (source, *take(source))
    return taken


class Loaded:
    def __init__(self, backup, scratch, part):
        self.source, self.files, self.fingerprint = backup
        self.instance = self.source.boot(HOST, str(scratch / "pg").encode(), self.fingerprint)
        try:
            self.notes = self.source.load_part(self.instance, self.files, part, self.fingerprint)
        except BaseException:
            self.source.stop(self.instance)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.source.stop(self.instance)

    def ask(self, sql, database="store"):
        return [row[0] for row in self.source.query(self.instance, database, sql)]

    def tables(self):
        return self.ask(
            "SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p', 'm', 'v') "
            "AND relnamespace::regnamespace::text IN ('public', 'archive', 'attic') ORDER BY oid::regclass::text"
        )


@pytest.mark.parametrize("method", ["dump", "ordered"])
def test_one_table_with_all_that_is_its_own(backups, scratch, method):
    part = Part("store", ("public.orders",), table="public.orders", rename="orders_back")
    with Loaded(backups[method], scratch, part) as loaded:
        assert loaded.tables() == ["orders_back"]
        assert loaded.ask("SELECT count(*) FROM orders_back") == ["40"]
        indexes = "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'orders_back'::regclass ORDER BY 1"
        assert loaded.ask(indexes) == ["orders_pkey", "by_person"]
        named = (
            "SELECT conname FROM pg_constraint WHERE conrelid = 'orders_back'::regclass AND contype <> 'n' ORDER BY 1"
        )
        assert loaded.ask(named) == ["orders_id_check", "orders_parent_fkey", "orders_pkey"]
        text = "\n".join(loaded.notes)
        assert "public.orders: 40 rows" in text
        assert "left out" in text and "orders_person_fkey" in text and "orders_parent_fkey" not in text


def test_a_schema_with_its_partitions_under_another_name(backups, scratch):
    tables = tuple(f"archive.{name}" for name in ("orders", "parts_1", "parts_2"))
    with Loaded(backups["dump"], scratch, Part("store", tables, schema="archive", rename="attic")) as loaded:
        assert loaded.tables() == ["attic.orders", "attic.parts", "attic.parts_1", "attic.parts_2"]
        assert loaded.ask("SELECT count(*) FROM attic.parts") == ["3"]


def test_the_sequence_of_a_table(backups, scratch):
    facts = backups["ordered"][2]["databases"]["store"]
    assert facts["partitioned"] == {"archive.parts": ["archive.parts_1", "archive.parts_2"]}
    with Loaded(backups["ordered"], scratch, Part("store", ("public.people",), table="public.people")) as loaded:
        assert loaded.ask("SELECT last_value FROM people_id_seq") == ["50"]


def test_a_database_under_another_name(backups, scratch):
    with Loaded(backups["dump"], scratch, Part("store", rename="store_back")) as loaded:
        assert loaded.ask("SELECT count(*) FROM orders", "store_back") == ["40"]
        assert loaded.ask("SELECT datname FROM pg_database WHERE datname = 'store'", "store_back") == []


def test_a_table_that_differs_is_damage(backups, scratch):
    source, files, fingerprint = backups["ordered"]
    path = b"store/tables/public/orders.sql"
    changed = MemoryFiles({**files.content, path: files.content[path].replace(b"40\t40\t39\n", b"40\t40\t38\n")})
    with pytest.raises(DamageError, match=r"public\.orders"):
        Loaded((source, changed, fingerprint), scratch, Part("store", ("public.orders",), table="public.orders"))
