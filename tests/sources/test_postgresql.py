"""PostgreSQL: dump and fingerprint of one snapshot under load, restored into a throw-away server and compared."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.errors import CouldNotRunError, DamageError, NoSuchError, SourceError
from backupctl.hosts.secret import SecretRef
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from tests.end_to_end.processes import wait_until
from tests.sources.helpers import CLOCK, HOST, MemoryFiles, bad, drain, processes_with, take
from tests.sources.restored import Restored

pytestmark = pytest.mark.servers
PASSWORD = "s3cret: it's \\ here"
SCHEMA = r"""
CREATE SCHEMA archive;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE articles (id bigserial PRIMARY KEY, title text NOT NULL, body bytea, price numeric, score double precision,
  at timestamptz DEFAULT now(), feeling mood, tags text[], status varchar(10) CHECK (status IN ('new', 'old')));
INSERT INTO articles (title, body, price, score, feeling, tags, status)
  SELECT '題目 ' || n, decode(md5(n::text), 'hex'), n / 7.0, n / 3.0, 'ok', ARRAY['a', NULL, 'NULL'], 'new'
  FROM generate_series(1, 2000) n;
CREATE TABLE archive.words (word text COLLATE "en_US.utf8" PRIMARY KEY, n int);
INSERT INTO archive.words VALUES ('Zoë', 1), ('zoe', NULL), ('a\b', 2);
CREATE TABLE no_key (a int, b text);
INSERT INTO no_key SELECT n % 3, CASE WHEN n % 2 = 0 THEN 'NULL' END FROM generate_series(1, 500) n;
CREATE TABLE "od""d, Name" ("select" int, "Ünder" text);
INSERT INTO "od""d, Name" VALUES (1, E'tab\tnew\nline');
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parts VALUES (1, '2026-03-01');
CREATE TABLE bare ();
INSERT INTO bare DEFAULT VALUES;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM articles;
CREATE VIEW newest AS SELECT * FROM articles WHERE status IN ('new', 'old') ORDER BY id DESC LIMIT 10;
CREATE SEQUENCE tickets START 100 INCREMENT 5;
SELECT nextval('tickets');
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE UNLOGGED TABLE cache (k text PRIMARY KEY);
INSERT INTO cache VALUES ('x');
SELECT lo_from_bytea(4711, 'a large object');
ALTER TABLE articles ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON articles TO reader;
"""


@pytest.fixture(scope="module")
def site(postgres_server):
    postgres_server.sql("CREATE ROLE reader NOLOGIN; CREATE ROLE \"we'b\" LOGIN PASSWORD 'x' CONNECTION LIMIT 3;")
    postgres_server.sql("GRANT reader TO \"we'b\"; ALTER ROLE reader SET work_mem = '8MB';")
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    postgres_server.sql(f"CREATE ROLE backup LOGIN PASSWORD E'{quoted}' IN ROLE pg_read_all_data;")
    postgres_server.sql("CREATE DATABASE site TEMPLATE template0 LOCALE 'C.UTF-8' OWNER \"we'b\";")
    postgres_server.sql("ALTER DATABASE site SET statement_timeout = '1min'; GRANT CONNECT ON DATABASE site TO reader;")
    collations = postgres_server.sql("SELECT count(*) FROM pg_collation WHERE collname = 'en_US.utf8'")
    schema = SCHEMA if collations != "0" else SCHEMA.replace("en_US.utf8", "C.utf8")
    postgres_server.sql(schema, "site")
    postgres_server.sql("CREATE DATABASE bench;")
    postgres_server.pgbench_init("bench")
    return postgres_server


def make(server, databases, **options):
    options = PostgresqlOptions(conninfo=server.conninfo, databases=databases, **options)
    return PostgresqlSource("site-db", options, lambda ref: Path(ref.file).read_bytes())


@pytest.fixture
def scratch():
    """A short path that unprivileged servers may enter, which pytest's own is not."""
    directory = Path(tempfile.mkdtemp(prefix="bctl-drill-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def dump_of(session, database):
    return next(entry for entry in session.entries() if entry.path == f"{database}/database.dump".encode())


@pytest.fixture(scope="module")
def taken(site):
    """The site database, read once for all tests that only restore it."""
    return take(make(site, ["site"]))


def test_round_trip_and_one_row_difference(site, taken, scratch):
    source = make(site, ["site"])
    files, fingerprint = taken
    assert files.names() == [b"globals.sql", b"site"]
    tables = fingerprint["databases"]["site"]["tables"]
    assert tables["public.articles"]["rows"] == 2000
    assert tables["public.articles"]["order"] == "ordered"
    assert tables["public.no_key"] == {**tables["public.no_key"], "rows": 500, "order": "free"}
    assert {"public.parts_2026", "public.bare", 'public.od"d, Name', "public.cache"} <= tables.keys()
    assert [row["name"] for row in fingerprint["databases"]["site"]["not_compared"]] == ["public.totals"]
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    with Restored(source, files, fingerprint, scratch) as instance:
        results = source.compare(instance, fingerprint)
        assert not bad(results), [result for result in results if not result.ok]
        names = {result.name for result in results}
        assert {"table site.public.articles", "role we'b", "schema of site", "sequence site.public.tickets"} <= names
        assert "table site large objects" in names
        assert source.query(instance, "site", "SELECT count(*), NULL, 'a,b' FROM articles;") == [["2000", "", "a,b"]]
        with pytest.raises(Exception, match="read-only"):
            source.query(instance, "site", "DELETE FROM articles")
        client = [instance.connection["bin_dir"] + "/psql", "-Xq", "-h", instance.connection["sockets"]]
        client += ["-U", instance.connection["user"], "-d", "site", "-c"]

        def change(sql):
            HOST.run([*client, sql], check=True)

        change("UPDATE archive.words SET n = 3 WHERE n = 2")
        assert bad(source.compare(instance, fingerprint)) == ["table site.archive.words"]
        change("UPDATE archive.words SET n = 2 WHERE n = 3")
        change("UPDATE no_key SET b = 'NULL' WHERE ctid = (SELECT ctid FROM no_key WHERE b IS NULL LIMIT 1)")
        change("SELECT lo_put(4711, 0, 'A')")
        change("SELECT setval('tickets', 5000)")
        change("CREATE INDEX extra ON articles (title)")
        change("ALTER ROLE reader CREATEDB")
        change("DROP TABLE bare")
        assert sorted(bad(source.compare(instance, fingerprint))) == [
            "role reader",
            "schema of site",
            "sequence site.public.tickets",
            "table site large objects",
            "table site.public.bare",
            "table site.public.no_key",
        ]


def test_under_load(site, scratch):
    """pgbench writes all the time; restored rows still equal the fingerprint."""
    source = make(site, ["bench"])
    with site.load("bench", per_second=500):
        before = int(site.sql("SELECT count(*) FROM pgbench_history", "bench"))
        files, fingerprint = take(source, between=lambda: wait_for_more(site, before))
    rows = fingerprint["databases"]["bench"]["tables"]["public.pgbench_history"]["rows"]
    assert rows < int(site.sql("SELECT count(*) FROM pgbench_history", "bench"))
    with Restored(source, files, fingerprint, scratch) as instance:
        assert not bad(source.compare(instance, fingerprint))
        sums = source.query(
            instance,
            "bench",
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)",
        )
        assert sums in ([["t"]], [[""]])


def wait_for_more(site, before):
    import time

    deadline = time.monotonic() + 60
    while int(site.sql("SELECT count(*) FROM pgbench_history", "bench")) <= before + 5:
        assert time.monotonic() < deadline


def test_all_databases_with_chosen_restore(site, scratch):
    source = make(site, "all")
    files, fingerprint = take(source)
    assert {"bench", "postgres", "site"} <= set(fingerprint["databases"]), (
        "other tests may have left more on the server"
    )
    with pytest.raises(NoSuchError, match="nowhere"):
        Restored(source, files, fingerprint, scratch, databases=["nowhere"])
    shutil.rmtree(scratch / "server")
    with Restored(source, files, fingerprint, scratch, databases=["postgres"]) as instance:
        results = source.compare(instance, fingerprint)
        assert not bad(results)
        assert not any("bench" in result.name for result in results)


def test_password_never_shows(site, tmp_path, narrow_pipes):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    secret = SecretRef(file=str(tmp_path / "password"))
    options = {"conninfo": f"host=127.0.0.1 port={site.port} user=backup", "databases": ["bench"], "password": secret}
    source = PostgresqlSource("site-db", PostgresqlOptions(**options), lambda ref: Path(ref.file).read_bytes())
    with source.open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.open:
                stream = entry.open()
                stream.read(1)
                assert not processes_with(PASSWORD)
                assert processes_with("pg_export_snapshot") == []
                drain(stream)
        assert PASSWORD not in json.dumps(session.fingerprint())
    findings = source.preflight(HOST)
    assert not [finding for finding in findings if finding.severity == "error"]
    (tmp_path / "password").write_text("wrong-" + PASSWORD)
    with pytest.raises(SourceError, match="authentication failed") as caught, source.open(HOST, CLOCK):
        pass
    assert PASSWORD not in str(caught.value)
    assert "password" in caught.value.next_step
    assert "authentication failed" in source.preflight(HOST)[0].message


def test_missing_database_and_server(site):
    with pytest.raises(SourceError, match="nowhere") as caught, make(site, ["nowhere"]).open(HOST, CLOCK):
        pass
    assert "databases" in caught.value.next_step
    options = PostgresqlOptions(conninfo="host=127.0.0.1 port=1 user=x", databases=["a"])
    with pytest.raises(SourceError, match="refused"), PostgresqlSource("s", options, bytes).open(HOST, CLOCK):
        pass


def test_too_few_rights_are_told_before_and_end_the_dump(site, tmp_path):
    """The backup role may not bypass row security: pg_dump refuses, and nothing looks complete."""
    (tmp_path / "password").write_text(PASSWORD)
    options = {"conninfo": f"host=127.0.0.1 port={site.port} user=backup", "databases": ["site"]}
    options["password"] = SecretRef(file=str(tmp_path / "password"))
    source = PostgresqlSource("site-db", PostgresqlOptions(**options), lambda ref: Path(ref.file).read_bytes())
    messages = [finding.message for finding in source.preflight(HOST) if finding.severity == "error"]
    assert any("large objects" in message for message in messages)
    assert any("row security" in message for message in messages)
    with source.open(HOST, CLOCK) as session:
        dump = dump_of(session, "site")
        with pytest.raises(SourceError, match="site"):
            drain(dump.open())


def test_dump_killed_in_the_middle_raises(site, narrow_pipes):
    with make(site, ["bench"]).open(HOST, CLOCK) as session:
        dump = dump_of(session, "bench")
        stream = dump.open()
        stream.read(10)
        copying = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE query LIKE 'COPY%'"
        wait_until(lambda: site.sql(copying) == "1", "its rows to be on their way")
        with pytest.raises(SourceError, match="bench"):
            drain(stream)


def test_lost_view_raises(site, narrow_pipes):
    with make(site, ["bench"]).open(HOST, CLOCK) as session:
        site.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
        for entry in session.entries():
            if entry.path == b"bench/database.dump":
                with pytest.raises(SourceError, match="bench"):
                    drain(entry.open())
        with pytest.raises(SourceError, match="bench"):
            session.fingerprint()


@pytest.mark.parametrize("method", ["dump", "ordered"])
def test_one_bad_database_does_not_end_the_others(site, method):
    """One that is not there, one whose view is lost: each is named, and what the third held can be proven."""
    told = {}
    with make(site, ["absent", "bench", "site"], method=method).open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.error:
                told[entry.path] = entry.error
            elif entry.path == b"bench":
                site.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
            elif entry.open and not entry.path.startswith(b"bench/"):
                drain(entry.open())
        fingerprint = session.fingerprint()
    assert list(fingerprint["databases"]) == ["site"]
    assert set(told) == {b"absent", b"bench"}
    assert 'database "absent" does not exist' in told[b"absent"] and "bench" in told[b"bench"]


def lying_programs(site, directory, name, script):
    """The real programs, but `name` is `script`."""
    directory.mkdir()
    for program in ("psql", "pg_dump", "pg_dumpall", "pg_restore"):
        (directory / program).symlink_to(site.programs / program)
    (directory / name).unlink()
    (directory / name).write_text(
        f"#!/bin/sh\ncase $1 in --version|--help) exec {site.programs}/{name} $1;; esac\n{script}"
    )
    (directory / name).chmod(0o755)
    return str(directory)


def test_truncated_dump_with_exit_zero_raises(site, tmp_path):
    programs = lying_programs(
        site, tmp_path / "bin", "pg_dump", f'{site.programs}/pg_dump "$@" | head -c 200000\nexit 0\n'
    )
    with make(site, ["bench"], bin_dir=programs).open(HOST, CLOCK) as session:
        dump = dump_of(session, "bench")
        with pytest.raises(SourceError, match="pg_restore"):
            drain(dump.open())


def test_globals_without_end_raise(site, tmp_path):
    programs = lying_programs(site, tmp_path / "bin", "pg_dumpall", "echo 'CREATE ROLE x;'\nexit 0\n")
    with pytest.raises(SourceError, match="no end"), make(site, ["bench"], bin_dir=programs).open(HOST, CLOCK):
        pass


def test_older_client_is_refused(site, tmp_path):
    programs = lying_programs(site, tmp_path / "bin", "pg_dump", "exit 1")
    (tmp_path / "bin" / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    with pytest.raises(SourceError, match="newest pg_dump there is 9") as caught:
        make(site, ["bench"], bin_dir=programs).open(HOST, CLOCK).__enter__()
    assert "postgresql-client-" in caught.value.next_step


def test_wrong_major_names_the_package(site, scratch):
    with pytest.raises(CouldNotRunError, match="PostgreSQL 99") as caught:
        make(site, "all").boot(HOST, str(scratch / "x").encode(), {"versions": {"server_major": 99}})
    assert "postgresql-99" in caught.value.next_step
    assert not (scratch / "x").exists()


def test_damaged_dumps_are_damage(site, taken, scratch):
    source = make(site, ["site"])
    files, fingerprint = taken
    whole = files.content[b"site/database.dump"]
    flipped = bytearray(whole)
    flipped[10] ^= 0xFF
    for content in (whole[: len(whole) // 2], b"", bytes(flipped)):
        damaged = MemoryFiles({**files.content, b"site/database.dump": content})
        with pytest.raises((DamageError, CouldNotRunError)) as caught:
            Restored(source, damaged, fingerprint, scratch)
        assert "database site" in str(caught.value)
        shutil.rmtree(scratch / "server")


def test_superuser_name_is_one_the_source_does_not_have(site, taken, scratch):
    source = make(site, ["site"])
    _, fingerprint = taken
    fingerprint = {**fingerprint, "roles": {**fingerprint["roles"], "backupctl_drill": {}}}
    instance = source.boot(HOST, str(scratch / "server").encode(), fingerprint)
    source.stop(instance)
    assert instance.connection["user"] == "backupctl_drill_2"


@pytest.mark.parametrize(
    "options",
    [
        {"conninfo": "user=a password=b"},
        {"conninfo": "postgresql://a@b/c"},
        {"databases": []},
        {"databases": ["a", "a"]},
        {"method": "fast"},
        {"parallel": 2},
        {"method": "ordered", "parallel": 0},
        {"password": "plain"},
    ],
)
def test_options_refused(options):
    with pytest.raises(ValidationError):
        PostgresqlOptions(**options)


def test_servers_do_not_run_as_root(site, taken, scratch):
    if os.geteuid() != 0:
        pytest.skip("only root has another user to become")
    source = make(site, ["site"])
    instance = source.boot(HOST, str(scratch / "server").encode(), taken[1])
    try:
        assert Path(f"/proc/{instance.pid}").stat().st_uid != 0
        assert "listen_addresses=" in Path(f"/proc/{instance.pid}/cmdline").read_text()
    finally:
        source.stop(instance)
