"""Method `ordered`: each table by itself in key order, of one snapshot, and back."""

from __future__ import annotations

import hashlib
import shutil
import threading

import pytest

from backupctl.errors import DamageError, SourceError
from backupctl.sources import postgresql_ordered
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.postgresql_load import load_database, load_tables, run_sql
from tests.servers.databases import private_directory, run
from tests.sources.helpers import CLOCK, HOST, MemoryFiles, bad, drain, take
from tests.sources.restored import Restored
from tests.sources.test_postgresql import scratch

pytestmark = pytest.mark.servers
__all__ = ["scratch"]
ROWS = 3000
SCHEMA = r"""
CREATE EXTENSION citext;
CREATE SCHEMA "old stuff";
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, mail citext,
  shout text GENERATED ALWAYS AS (upper(name)) STORED, pay money, since interval, feeling mood DEFAULT 'ok');
INSERT INTO people (name, mail, pay, since) SELECT '人 ' || n, n || '@example.gov', n * 1.5, n * interval '1 h -2 min'
  FROM generate_series(1, 3000) n ORDER BY n % 7;
CREATE TABLE orders (id int PRIMARY KEY, person int NOT NULL REFERENCES people, note text);
CREATE INDEX by_person ON orders (person);
INSERT INTO orders SELECT n, 1 + n % 3000, E'tab\tnew\nline \\. \\\\' || n FROM generate_series(1, 500) n;
ALTER TABLE people ADD COLUMN best_order int REFERENCES orders;
UPDATE people SET best_order = 7 WHERE id = 7;
CREATE TABLE words (word text COLLATE "C.utf8" PRIMARY KEY) TABLESPACE roomy;
INSERT INTO words VALUES ('b'), ('a'), (E'back\\slash');
CREATE TABLE no_key (a int, b text);
INSERT INTO no_key SELECT n % 3, CASE WHEN n % 2 = 0 THEN '\N' END FROM generate_series(1, 500) n;
CREATE TABLE "old stuff"."a/b ""c" ("select" int PRIMARY KEY, "Ünder" text);
INSERT INTO "old stuff"."a/b ""c" VALUES (2, 'two'), (1, NULL);
CREATE TABLE "old stuff".only_generated (a int GENERATED ALWAYS AS (1) STORED);
INSERT INTO "old stuff".only_generated DEFAULT VALUES;
CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parts VALUES (2, '2026-03-01'), (1, '2026-03-01');
CREATE TABLE bare ();
INSERT INTO bare DEFAULT VALUES;
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (extra text) INHERITS (parents);
INSERT INTO parents VALUES (1); INSERT INTO children VALUES (2, 'x');
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM people;
CREATE SEQUENCE tickets START 100 INCREMENT 5;
SELECT nextval('tickets');
SELECT lo_from_bytea(4711, 'a large object');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no rows any more'; END $$;
CREATE TRIGGER no_more BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER DATABASE depot SET default_transaction_read_only = on;
"""


@pytest.fixture(scope="module")
def depot(postgres_server):
    postgres_server.sql("CREATE DATABASE depot TEMPLATE template0 LOCALE 'C.UTF-8';")
    space = private_directory()
    postgres_server.sql(f"CREATE TABLESPACE roomy LOCATION '{space}';")
    postgres_server.sql(SCHEMA, "depot")
    yield postgres_server
    postgres_server.sql("DROP DATABASE depot;")
    postgres_server.sql("DROP TABLESPACE roomy;")
    shutil.rmtree(space)


def make(server, databases, **options):
    options = PostgresqlOptions(conninfo=server.conninfo, databases=databases, method="ordered", **options)
    return PostgresqlSource("depot-db", options, lambda ref: b"")


def write(server, sql, database="depot"):
    server.sql("SET default_transaction_read_only = off;\n" + sql, database)


@pytest.fixture(scope="module")
def taken(depot):
    return take(make(depot, ["depot"], parallel=3))


def rows_of(content: bytes) -> bytes:
    head, _, rest = content.partition(b" FROM stdin;\n")
    assert b"COPY " in head
    assert rest.endswith(b"\\.\n")
    return rest[:-3]


def test_layout_order_and_digest(taken):
    files, fingerprint = taken
    assert fingerprint["method"] == "ordered"
    assert files.names(b"depot") == [b"schema.dump", b"tables"]
    assert files.names(b"depot/tables") == [b"old stuff", b"public"]
    assert b'a%2Fb "c.sql' in files.names(b"depot/tables/old stuff")
    tables = fingerprint["databases"]["depot"]["tables"]
    people = rows_of(files.content[b"depot/tables/public/people.sql"])
    assert [int(line.split(b"\t")[0]) for line in people.splitlines()] == list(range(1, ROWS + 1))
    assert tables["public.people"]["digest"] == hashlib.sha256(people).hexdigest()
    assert (tables["public.people"]["rows"], tables["public.no_key"]["order"]) == (ROWS, "free")
    assert "shout" not in tables["public.people"]["columns"]
    assert "public.parts" not in tables and tables["public.parts_2026"]["rows"] == 2
    assert len([path for path in files.content if b"/tables/" in path]) == len(tables) == 10


def test_everything_comes_back(depot, taken, scratch):
    files, fingerprint = taken
    source = make(depot, ["depot"])
    with Restored(source, files, fingerprint, scratch) as instance:
        results = source.compare(instance, fingerprint)
        assert not bad(results), [result for result in results if not result.ok]
        assert {"table depot.public.people", "schema of depot", "extension citext in depot"} <= {
            r.name for r in results
        }
        assert source.query(instance, "depot", "SELECT shout = upper(name) FROM people WHERE id = 3000") == [["t"]]
        assert source.query(instance, "depot", "SELECT * FROM totals") == [[str(ROWS)]]
        where = "SELECT pg_tablespace_location(reltablespace) FROM pg_class WHERE relname = 'words'"
        assert source.query(instance, "depot", where)[0][0].startswith(f"{scratch}/server/tablespace-")
        client = [instance.connection["bin_dir"] + "/psql", "-Xq", "-h", instance.connection["sockets"]]
        client += [
            "-U",
            instance.connection["user"],
            "-d",
            "depot",
            "-c",
            "SET default_transaction_read_only = off",
            "-c",
        ]
        HOST.run([*client, "UPDATE no_key SET a = 3 WHERE ctid = (SELECT ctid FROM no_key LIMIT 1)"], check=True)
        HOST.run([*client, "UPDATE people SET feeling = 'sad' WHERE id = 5"], check=True)
        assert bad(source.compare(instance, fingerprint)) == ["table depot.public.no_key", "table depot.public.people"]


def test_a_table_file_loads_with_psql_alone(depot, taken, tmp_path):
    files, _ = taken
    depot.sql("CREATE DATABASE alone;")
    try:
        depot.sql("CREATE TABLE no_key (b text, a int);", "alone")
        (tmp_path / "no_key.sql").write_bytes(files.content[b"depot/tables/public/no_key.sql"])
        psql = [str(depot.programs / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", str(tmp_path / "no_key.sql")]
        run([*psql, "-d", f"{depot.conninfo} dbname=alone"])
        both = "SELECT md5(string_agg(a || coalesce(b, '-'), ',' ORDER BY a, b)) FROM no_key"
        assert depot.sql(both, "alone") == depot.sql(both, "depot")
    finally:
        depot.sql("DROP DATABASE alone;")


def test_one_moment_under_load(depot, scratch):
    depot.sql("CREATE DATABASE busy;")
    depot.pgbench_init("busy")
    source = make(depot, ["busy"])
    try:
        with depot.load("busy", per_second=500):
            files, fingerprint = take(source)
        with Restored(source, files, fingerprint, scratch) as instance:
            assert not bad(source.compare(instance, fingerprint))
            sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)"
            assert source.query(instance, "busy", sums) in ([["t"]], [[""]])
    finally:
        depot.sql("DROP DATABASE busy;")


def test_same_database_same_bytes(depot, taken):
    again, _ = take(make(depot, ["depot"], parallel=1))
    for path, content in taken[0].content.items():
        if b"/tables/" in path:
            assert again.content[path] == content, path


def test_tables_are_locked_against_truncation_until_they_are_read(depot, monkeypatch):
    monkeypatch.setattr("backupctl.sources.reading_ahead.LANE_BYTES", 1)
    with make(depot, ["depot"]).open(HOST, CLOCK) as session:
        entries = session.entries()
        for entry in entries:
            if entry.path == b"depot/schema.dump":
                drain(entry.open())
                with pytest.raises(AssertionError, match="lock timeout"):
                    write(depot, "SET lock_timeout = '50ms'; TRUNCATE no_key;")
            elif entry.open:
                drain(entry.open())
    assert session.fingerprint()["databases"]["depot"]["tables"]["public.no_key"]["rows"] == 500


def test_a_table_truncated_before_it_is_locked_is_refused(depot, monkeypatch):
    reader = postgresql_ordered.TableReader
    write(depot, "CREATE TABLE staging AS SELECT 1 AS a;")

    class Late(reader):
        def __init__(self, *arguments):
            write(depot, "TRUNCATE staging;")
            super().__init__(*arguments)

    monkeypatch.setattr(postgresql_ordered, "TableReader", Late)
    try:
        with (
            make(depot, ["depot"]).open(HOST, CLOCK) as session,
            pytest.raises(SourceError, match="truncated") as caught,
        ):
            list(session.entries())
        assert caught.value.transient
    finally:
        write(depot, "DROP TABLE staging;")


def test_a_killed_backend_fails_one_table_and_no_other(depot, monkeypatch, narrow_pipes):
    monkeypatch.setattr("backupctl.sources.reading_ahead.LANE_BYTES", 1)
    with make(depot, ["depot"], parallel=1).open(HOST, CLOCK) as session:
        failed = []
        for entry in session.entries():
            stream = entry.open() if entry.open else None
            if entry.path.endswith(b"/people.sql"):
                assert stream.read(10)
                killed = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'COPY%people%'"
                assert depot.sql(killed) == "1"
            try:
                assert stream is None or drain(stream)
            except SourceError as error:
                failed.append(entry.path)
                assert "terminating connection" in error.message
    assert len(failed) == 1, "people itself, or the next one when all of people was on its way already"
    assert len(session.fingerprint()["databases"]["depot"]["tables"]) == 9


def test_leaving_early_ends_every_process_and_thread(depot, monkeypatch):
    monkeypatch.setattr("backupctl.sources.reading_ahead.LANE_BYTES", 1)
    with make(depot, ["depot"], parallel=3).open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.open and entry.path.endswith(b".sql") and entry.path != b"globals.sql":
                assert entry.open().read(10)
                break
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backupctl'"
    wait_until_zero(lambda: depot.sql(left))


def wait_until_zero(ask):
    import time

    deadline = time.monotonic() + 30
    while ask() != "0":
        assert time.monotonic() < deadline


def test_a_table_cut_short_is_damage(depot, taken, scratch):
    files, fingerprint = taken
    path = b"depot/tables/public/people.sql"
    damaged = MemoryFiles({**files.content, path: files.content[path][:-100]})
    with pytest.raises(DamageError):
        Restored(make(depot, ["depot"]), damaged, fingerprint, scratch)


def lenient(server):
    """A client of the live server, as the loading functions take it."""
    return PostgresClient(HOST, "depot-db", server.conninfo, str(server.programs))


def test_sql_errors_that_psql_would_forgive_are_refused(depot):
    with pytest.raises(DamageError, match="division by zero"):
        run_sql(lenient(depot), "SELECT 1/0;\nSELECT 1;", "a script", "depot")
    content = b"COPY no_key (a, b) FROM stdin;\n1\tx\nnot a number\ty\n\\.\n"
    with pytest.raises(DamageError, match="not a number"):
        load_tables(lenient(depot), "depot", MemoryFiles({b"t.sql": content}), [b"t.sql"])
    assert depot.sql("SELECT count(*) FROM no_key", "depot") == "500"


def test_roles_that_are_missing_are_no_warning(depot):
    """pg_restore would load the data, count "errors ignored" and leave everything to its superuser."""
    depot.sql("CREATE DATABASE owned; CREATE ROLE passing;")
    depot.sql("CREATE TABLE t (a int); ALTER TABLE t OWNER TO passing;", "owned")
    files, _ = take(PostgresqlSource("o", PostgresqlOptions(conninfo=depot.conninfo, databases=["owned"]), bytes))
    depot.sql("DROP DATABASE owned; DROP ROLE passing;")
    try:
        with pytest.raises(DamageError, match='role "passing" does not exist'):
            load_database(lenient(depot), "owned", files)
    finally:
        depot.sql("DROP DATABASE IF EXISTS owned;")


def test_another_encoding_over_ssh(depot, ssh_host, scratch):
    """Names and values outside ASCII, in a database that is not UTF-8, read through a far host."""
    depot.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C';")
    try:
        depot.sql('SET client_encoding = UTF8; CREATE TABLE "Größe" (ä int PRIMARY KEY, b text);', "latin")
        depot.sql("""SET client_encoding = UTF8; INSERT INTO "Größe" VALUES (1, 'Zoë'), (2, 'a\\b');""", "latin")
        source = make(depot, ["latin"])
        files, fingerprint = take(source, host=ssh_host)
        assert "1\tZoë\n2\ta\\\\b\n".encode() in files.content["latin/tables/public/Größe.sql".encode()]
        with Restored(source, files, fingerprint, scratch) as instance:
            assert not bad(source.compare(instance, fingerprint))
    finally:
        depot.sql("DROP DATABASE latin;")
