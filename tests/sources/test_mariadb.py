"""MariaDB: dumps and fingerprint in one view under load, restored into a throw-away server and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.errors import CouldNotRunError, DamageError, NoSuchError, SourceError, UsageError
from backupctl.hosts.secret import SecretRef
from backupctl.sources import mariadb_send
from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from backupctl.sources.mariadb_family import MARIADB
from backupctl.sources.mariadb_fingerprint import Table, TableReader
from backupctl.sources.mariadb_session import refuse_changed_accounts
from backupctl.sources.mariadb_views import Gate
from tests.soak import rounds
from tests.sources.helpers import CLOCK, HOST, MemoryFiles, bad, drain, processes_with, take
from tests.sources.restored import Restored, loaded, scratch_directory, throw_away

pytestmark = pytest.mark.servers
PASSWORD = """s3#cret 'it"s \\ here"""
SCHEMA = r"""
CREATE TABLE articles (id BIGINT AUTO_INCREMENT PRIMARY KEY, title VARCHAR(200) NOT NULL, body LONGBLOB, price DECIMAL(10,3),
  score DOUBLE, at TIMESTAMP(6) DEFAULT NOW(6), flags BIT(9), place POINT, kind ENUM('a', 'b'), data JSON, ip INET6,
  twice BIGINT AS (CHAR_LENGTH(title) * 2) STORED, KEY (title));
INSERT INTO articles (title, body, price, score, flags, place, kind, data, ip)
  SELECT CONCAT('題目 😀\\', seq), UNHEX(MD5(seq)), seq / 7, seq / 3, b'101', POINT(seq, 1), 'b', '{"a": 1}', '::1'
  FROM seq_1_to_2000;
INSERT INTO articles (title) VALUES ('NULL'), ('tab\tnew\nline');
CREATE TABLE no_key (a INT, b VARCHAR(10));
INSERT INTO no_key SELECT seq % 3, IF(seq % 2, NULL, 'NULL') FROM seq_1_to_500;
CREATE TABLE words (word VARCHAR(50) CHARACTER SET latin1 PRIMARY KEY, n FLOAT);
INSERT INTO words VALUES ('Zoë', 33333.66796875), ('b', 2);
CREATE TABLE `od``d, Name` (`select` INT, `Ünder` TEXT);
INSERT INTO `od``d, Name` VALUES (1, 'x');
CREATE TABLE versions (x INT PRIMARY KEY) WITH SYSTEM VERSIONING;
INSERT INTO versions VALUES (1), (2);
DELETE FROM versions WHERE x = 2;
CREATE TABLE old_engine (x INT) ENGINE=Aria;
INSERT INTO old_engine VALUES (1);
CREATE SEQUENCE tickets START WITH 100 INCREMENT BY 5;
SELECT NEXTVAL(tickets);
CREATE VIEW newest AS SELECT id, title FROM articles ORDER BY id DESC LIMIT 10;
CREATE FUNCTION twice(x INT) RETURNS INT DETERMINISTIC RETURN x * 2;
CREATE TRIGGER before_words BEFORE INSERT ON words FOR EACH ROW SET NEW.n = NEW.n;
CREATE EVENT nightly ON SCHEDULE EVERY 1 SECOND DO DELETE FROM articles;
"""
WRITE = (
    "INSERT INTO bench.left_side (x) VALUES (1); START TRANSACTION; UPDATE bench.counter SET n = n + 1;"
    " INSERT INTO other.right_side (x) VALUES (2); INSERT INTO bench.left_side (x) VALUES (2); COMMIT;"
)


@pytest.fixture(scope="module")
def site(mariadb_server):
    server = mariadb_server
    server.sql("CREATE DATABASE site CHARACTER SET utf8mb4; CREATE DATABASE bench; CREATE DATABASE other;")
    server.sql(SCHEMA, "site")
    server.sql("CREATE TABLE bench.left_side (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT)")
    server.sql("CREATE TABLE bench.counter (n BIGINT); INSERT INTO bench.counter VALUES (0)")
    server.sql("CREATE TABLE other.right_side (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT)")
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    server.sql(f"CREATE USER backup@'%' IDENTIFIED BY '{quoted}'; CREATE ROLE readers; CREATE USER 'o''dd'@'10.%';")
    server.sql("GRANT SELECT, RELOAD, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, BINLOG MONITOR ON *.* TO backup@'%'")
    server.sql(
        "GRANT SELECT ON site.articles TO readers; GRANT readers TO 'o''dd'@'10.%'; GRANT SELECT ON bench.* TO readers"
    )
    return server


def make(server, databases, **options):
    options = MariadbOptions(socket=server.socket, user="root", databases=databases, **options)
    return MariadbSource("site-db", options, lambda ref: Path(ref.file).read_bytes())


@pytest.fixture
def scratch():
    with scratch_directory() as directory:
        yield directory


def ended(process):
    """Gone, or waiting for its new parent to notice."""
    return not process.exists() or (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture(scope="module")
def taken(site):
    return take(make(site, ["site"]))


@pytest.fixture(scope="module")
def shared(site, taken):
    with throw_away(make(site, ["site"]), taken[1]) as instance:
        yield instance


def test_round_trip_and_one_row_difference(site, taken, scratch):
    source = make(site, ["site"])
    files, fingerprint = taken
    facts = fingerprint["databases"]["site"]
    assert files.names() == [b"site", b"users.sql"]
    assert facts["tables"]["articles"]["rows"] == 2002
    assert facts["tables"]["no_key"]["order"] == "free"
    assert facts["tables"]["versions"]["rows"] == 1
    assert facts["six_digits_only"] == {"words": ["n"]}
    assert facts["counts"] == {"tables": 7, "views": 1, "routines": 1, "triggers": 1, "events": 1}
    assert facts["sequences"]
    assert 0 < fingerprint["commits_held_up_seconds"] < 10
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    with Restored(source, files, fingerprint, scratch) as instance:
        process = Path(f"/proc/{instance.pid}")
        assert os.geteuid() != 0 or process.stat().st_uid != 0
        command = (process / "cmdline").read_text()
        assert "--skip-networking" in command
        assert "--event-scheduler=OFF" in command
        results = source.compare(instance, fingerprint)
        assert not bad(results), [result for result in results if not result.ok]
        names = {result.name for result in results}
        assert {"table site.articles", "schema of site", "sequence site.tickets", "events in site"} <= names
        assert "account 'readers'" in names
        assert source.query(instance, "site", "SELECT COUNT(*), NULL FROM articles;") == [["2002", "NULL"]]
        with pytest.raises(SourceError, match="READ ONLY"):
            source.query(instance, "site", "DELETE FROM articles")
        user, socket = instance.connection["user"], instance.connection["socket"]
        client = ["mariadb", "--no-defaults", "-S", socket, "-u", user, "site", "-e"]

        def change(sql):
            HOST.run([*client, sql], check=True)

        change("UPDATE articles SET body = NULL WHERE id = 7")
        assert bad(source.compare(instance, fingerprint)) == ["table site.articles"]
        change("UPDATE articles SET body = UNHEX(MD5(7)) WHERE id = 7")
        change("UPDATE no_key SET b = 'NULL' WHERE b IS NULL LIMIT 1")
        change("DROP EVENT nightly")
        change("DO SETVAL(tickets, 9000)")
        change("DROP TABLE `od``d, Name`")
        change("REVOKE SELECT ON site.articles FROM readers")
        assert sorted(bad(source.compare(instance, fingerprint))) == [
            "account 'readers'",
            "events in site",
            "schema of site",
            "sequence site.tickets",
            "table site.no_key",
            "table site.od`d, Name",
            "tables in site",
        ]
    assert ended(process)


@pytest.mark.parametrize("number", range(rounds(1, 10)))
def test_one_view_under_load(site, shared, number):
    """A hot writer changes two databases in one transaction: dumps and fingerprint agree, and so do the databases."""
    source = make(site, ["bench", "other"])
    with site.load(WRITE):
        site.wait_for_more("SELECT n FROM bench.counter", 0)
        before = int(site.sql("SELECT n FROM bench.counter"))
        files, fingerprint = take(
            source, between=lambda: site.wait_for_more("SELECT n FROM bench.counter", before + 20)
        )
    with loaded(shared, source, files) as instance:
        assert not bad(source.compare(instance, fingerprint))
        counts = "SELECT (SELECT n FROM bench.counter), COUNT(*) FROM other.right_side"
        ((counter, right),) = source.query(instance, "bench", counts)
        assert counter == right
    assert fingerprint["databases"]["bench"]["tables"]["left_side"]["rows"] > 0


def test_all_databases_with_chosen_restore(site, shared):
    source = make(site, "all")
    files, fingerprint = take(source)
    assert list(fingerprint["databases"]) == ["bench", "other", "site"]
    with pytest.raises(NoSuchError, match="nowhere"):
        source.load(shared, files, databases=["nowhere"])
    with loaded(shared, source, files, databases=["bench"]) as instance:
        assert any("not granted" in note for note in instance.notes)
        results = source.compare(instance, fingerprint)
        assert not bad(results)
        assert not any("site" in result.name for result in results)


def test_password_never_shows(site, tmp_path, narrow_pipes):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    options = {"address": "127.0.0.1", "port": site.port, "user": "backup", "databases": ["site"]}
    options["password"] = SecretRef(file=str(tmp_path / "password"))
    source = MariadbSource("site-db", MariadbOptions(**options), lambda ref: Path(ref.file).read_bytes())
    with source.open(HOST, CLOCK) as session:
        assert processes_with("mariadb-dump")
        assert not processes_with(PASSWORD)
        for entry in session.entries():
            if entry.open:
                drain(entry.open())
        assert PASSWORD not in json.dumps(session.fingerprint())
    findings = source.preflight(HOST)
    assert not [finding for finding in findings if finding.severity == "error"]
    assert any("FLOAT" in finding.message and "words.n" in finding.message for finding in findings)
    assert any("old_engine (Aria)" in finding.message for finding in findings)
    (tmp_path / "password").write_text("wrong" + PASSWORD)
    with pytest.raises(SourceError, match="1045") as caught, source.open(HOST, CLOCK):
        pass
    assert PASSWORD not in str(caught.value)
    assert "password" in caught.value.next_step
    assert "1045" in source.preflight(HOST)[0].message


def test_missing_database_and_server(site, tmp_path):
    with pytest.raises(SourceError, match="nowhere") as caught, make(site, ["nowhere"]).open(HOST, CLOCK):
        pass
    assert "databases" in caught.value.next_step
    options = MariadbOptions(socket=str(tmp_path / "no"), databases=["a"])
    with pytest.raises(SourceError, match="2002"), MariadbSource("s", options, bytes).open(HOST, CLOCK):
        pass


def test_missing_rights_are_named(site):
    site.sql(
        "CREATE USER IF NOT EXISTS poor@localhost; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO poor@localhost"
    )
    options = MariadbOptions(socket=site.socket, user="poor", databases=["bench"])
    source = MariadbSource("site-db", options, bytes)
    findings = source.preflight(HOST)
    assert any("RELOAD" in finding.message and "GRANT SELECT, RELOAD" in finding.next_step for finding in findings)
    with pytest.raises(SourceError, match=r"1227|RELOAD") as caught, source.open(HOST, CLOCK):
        pass
    assert "GRANT SELECT, RELOAD" in caught.value.next_step
    site.sql("DROP USER poor@localhost")


def test_commits_go_on_after_a_failed_start(site, tmp_path):
    """Whatever goes wrong while commits are held up, they are let go."""
    programs = lying_program(
        tmp_path / "bin", 'case "$*" in *--single-transaction*) exit 5;; *) exec mariadb-dump "$@";; esac'
    )
    with pytest.raises(SourceError, match="wrote nothing"), make(site, ["bench"], bin_dir=programs).open(HOST, CLOCK):
        pass
    site.sql(
        "SET lock_wait_timeout = 20; CREATE TABLE bench.t (a INT); INSERT INTO bench.t VALUES (1); DROP TABLE bench.t"
    )


def test_dump_killed_in_the_middle_raises(site, narrow_pipes):
    site.sql("CREATE TABLE IF NOT EXISTS other.big (id INT PRIMARY KEY, t TEXT)")
    site.sql("REPLACE INTO other.big SELECT seq, REPEAT('x', 1000) FROM seq_1_to_20000", "other")
    with make(site, ["other"]).open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.path != b"other/database.sql":
                continue
            stream = entry.open()
            stream.read(10)
            site.sql(
                "SELECT GROUP_CONCAT(id) INTO @all FROM information_schema.processlist WHERE info LIKE '%SQL_NO_CACHE%big%'"
                " AND id <> CONNECTION_ID(); EXECUTE IMMEDIATE CONCAT('KILL ', @all);"
            )
            with pytest.raises(SourceError, match="other"):
                drain(stream)
    site.sql("DROP TABLE other.big")


def lying_program(directory, body):
    """The real client, but `mariadb-dump` is `body`."""
    directory.mkdir()
    (directory / "mariadb").symlink_to(shutil.which("mariadb"))
    (directory / "mariadb-dump").write_text(f"#!/bin/sh\n{body}\n")
    (directory / "mariadb-dump").chmod(0o755)
    return str(directory)


def test_dump_without_end_marker_and_exit_zero_raises(site, tmp_path):
    body = 'case "$*" in *--single-transaction*) mariadb-dump "$@" | head -n -1;; *) exec mariadb-dump "$@";; esac'
    with make(site, ["bench"], bin_dir=lying_program(tmp_path / "bin", body)).open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.path == b"bench/database.sql":
                with pytest.raises(SourceError, match="Dump completed"):
                    drain(entry.open())


def test_changed_definitions_are_told(site):
    with make(site, ["bench"], users=False).open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.open:
                drain(entry.open())
                site.sql("ALTER TABLE bench.counter ADD COLUMN extra INT")
        try:
            with pytest.raises(SourceError, match="bench"):
                session.fingerprint()
        finally:
            site.sql("ALTER TABLE bench.counter DROP COLUMN extra")


def test_one_bad_database_does_not_end_the_others(site, shared):
    """One that is not there, one whose view leads nowhere, one whose dump is killed, one whose table is gone: each is named."""
    site.sql("CREATE DATABASE cut; CREATE TABLE cut.t (id INT PRIMARY KEY, t TEXT); CREATE DATABASE leads;")
    site.sql("CREATE TABLE leads.t (x INT); CREATE VIEW leads.v AS SELECT * FROM leads.t; DROP TABLE leads.t;")
    site.sql("INSERT INTO cut.t SELECT seq, REPEAT('x', 1000) FROM seq_1_to_5000", "cut")
    source = make(site, ["bench", "cut", "leads", "nowhere"])
    content, told = {}, {}
    with source.open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.error:
                told[entry.path] = entry.error
            elif entry.path == b"cut/database.sql":
                stream = entry.open()
                stream.read(1)
                stream.close()
            elif entry.open:
                content[entry.path] = drain(entry.open())
        fingerprint = session.fingerprint()
    site.sql("DROP DATABASE cut; DROP DATABASE leads")
    assert list(content) == [b"bench/database.sql", b"users.sql"] and list(fingerprint["databases"]) == ["bench"]
    assert set(told) == {b"leads", b"nowhere"}  # whoever read the dump knows of that one
    assert "1356" in told[b"leads"] and "1049" in told[b"nowhere"]
    with loaded(shared, source, MemoryFiles(content)) as instance:
        assert not bad(source.compare(instance, fingerprint))


def test_programs_of_the_servers_own_series_are_taken(site, tmp_path):
    series = ".".join(site.sql("SELECT VERSION()").split(".")[:2])
    (tmp_path / series).mkdir()
    for name in ("mariadb", "mariadb-dump"):
        (tmp_path / series / name).symlink_to(shutil.which(name))
    lying_program(tmp_path / "99.1", "echo 'mariadb-dump from 99.1.1-MariaDB'")
    with make(site, ["bench"], bin_dir=f"{tmp_path}/{{series}}").open(HOST, CLOCK) as session:
        assert session._client.dumper == f"{tmp_path}/{series}/mariadb-dump"


def test_what_comes_into_a_live_server_is_compared_or_gone_again(site, monkeypatch):
    site.sql("CREATE PROCEDURE clear_bench() DELETE FROM `site`.no_key; CREATE USER gone@localhost", "site")
    site.sql("CREATE DEFINER = gone@localhost VIEW by_gone AS SELECT 1 AS one; DROP USER gone@localhost", "site")
    with mariadb_send.live_client(HOST, "site-db", f"socket={site.socket} user=root", MariadbOptions()) as client:
        notes = mariadb_send.send_database(client, "site", client, "site back")
        assert (
            notes[0] == "database site is on that server as site back, and equal to what was restored, table by table"
        )
        assert "events left out, since they would run there: nightly" in notes
        assert any(note.startswith("routine clear_bench names site itself") for note in notes)
        assert any("gone@localhost" in note for note in notes)
        assert site.sql("SELECT COUNT(*) FROM `site back`.newest; SELECT `site back`.twice(4)") == "10\n8"
        assert site.sql("SELECT event_name FROM information_schema.events WHERE event_schema = 'site back'") == ""
        with pytest.raises(UsageError, match="has a database site back already"):
            mariadb_send.refuse_taken(client, "site back")
        site.sql("DROP DATABASE `site back`; DROP PROCEDURE clear_bench; DROP VIEW by_gone", "site")
        whole = mariadb_send.compare

        def meddled(*sides):
            site.sql("UPDATE back.words SET n = 3 WHERE n = 2")
            whole(*sides)

        monkeypatch.setattr(mariadb_send, "compare", meddled)
        with pytest.raises(DamageError, match=r"table back\.words on that server: 2 rows"):
            mariadb_send.send_database(client, "site", client, "back")
        assert site.sql("SHOW DATABASES LIKE 'back'") == ""
    with pytest.raises(UsageError, match="'password' is none of socket"):
        mariadb_send.live_options("socket=/s password=x", MARIADB)
    assert mariadb_send.live_options("address=db1 port=3307 user='a b' defaults=/root/f", MARIADB) == (
        ("--host=db1", "--port=3307", "--user=a b", "--protocol=tcp"),
        "/root/f",
    )


def test_accounts_that_change_around_a_view_are_refused(site):
    with make(site, ["bench"]).open(HOST, CLOCK) as session:
        refuse_changed_accounts(session._client, session._accounts)
        site.sql("CREATE USER late@localhost")
        with pytest.raises(SourceError, match="accounts or grants changed"):
            refuse_changed_accounts(session._client, session._accounts)
    site.sql("DROP USER late@localhost")


def test_no_false_alarm_of_what_changes_after_commits_are_let_go(site, shared, monkeypatch):
    """Tables without transactions: one written to between the dump's reading and the view's, one whose row comes and goes, one that
    is not touched. And a column that is computed when it is read."""
    site.sql("CREATE DATABASE quick")
    site.sql(
        "CREATE TABLE moved (x INT) ENGINE=Aria; INSERT INTO moved VALUES (1);"
        " CREATE TABLE queue (id INT AUTO_INCREMENT PRIMARY KEY) ENGINE=Aria;"
        " CREATE TABLE still (x INT) ENGINE=Aria; INSERT INTO still VALUES (1);"
        " CREATE TABLE dated (x INT, at DATETIME(6) AS (NOW(6)) VIRTUAL); INSERT INTO dated (x) VALUES (1);",
        "quick",
    )
    select, shut = Table.select, Gate.shut
    late = "DO GET_LOCK('late', 60);\n"
    monkeypatch.setattr(Table, "select", lambda table: late * (table.name == "moved") + select(table))
    holder = subprocess.Popen(
        [*site.client, "-N", "--unbuffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def planted(gate):
        holder.stdin.write("SELECT GET_LOCK('late', 60);\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "1\n"
        site.sql("INSERT INTO quick.queue VALUES ()")
        shut(gate)

    def between():
        if holder.poll() is None:
            site.sql("UPDATE quick.moved SET x = 2; DELETE FROM quick.queue;")
            holder.communicate()

    monkeypatch.setattr(Gate, "shut", planted)
    source = make(site, ["quick"], users=False)
    files, fingerprint = take(source, between=between)
    site.sql("DROP DATABASE quick")
    facts = fingerprint["databases"]["quick"]
    assert [one["name"] for one in facts["not_compared"]] == ["moved", "queue"]
    assert set(facts["tables"]) == {"still", "dated"}
    with loaded(shared, source, files) as instance:
        assert not bad(source.compare(instance, fingerprint))


def test_a_table_that_cannot_be_read_is_told_with_its_database(site):
    """The reader of the fingerprint goes on with the tables of the others, in the same view."""
    with make(site, ["bench", "other"], users=False).open(HOST, CLOCK) as session:
        gone = [Table("bench", "gone", "InnoDB", (("x", "int"),), ("x",)), *session._tables]
        reader = TableReader(session._client, gone)
        found = reader.result()
        reader.close()
        assert [table.full_name for table in reader.unread] == ["bench.gone"]
        assert "bench.gone" in str(reader.unread[gone[0]]) and "1146" in str(reader.unread[gone[0]])
        assert set(found) == {"bench.counter", "bench.left_side", "other.right_side"}


def test_damaged_dumps_are_damage(site, taken, shared):
    source = make(site, ["site"])
    files, _ = taken
    whole = files.content[b"site/database.sql"]
    cut = whole[: whole.index(b"UNLOCK TABLES;") + 15]  # between two statements: the client has nothing to complain of
    for content in (cut, whole[: len(whole) // 2], b"", whole.replace(b"INSERT INTO", b"INSERT INTA", 1)):
        damaged = MemoryFiles({**files.content, b"site/database.sql": content})
        with pytest.raises(DamageError, match="database site"), loaded(shared, source, damaged):
            pass


def test_wrong_series_names_the_package(site, scratch):
    with pytest.raises(CouldNotRunError, match=r"MariaDB 5\.5") as caught:
        make(site, "all").boot(
            HOST, str(scratch / "x").encode(), {"kind": "mariadb", "versions": {"server_series": "5.5"}}
        )
    assert "mariadb-server" in caught.value.next_step
    assert not (scratch / "x").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"socket": "/s", "port": 1},
        {"databases": []},
        {"databases": ["mysql"]},
        {"password": "plain"},
        {"port": 0},
        {"x": 1},
    ],
)
def test_options_refused(options):
    with pytest.raises(ValidationError):
        MariadbOptions(**options)


def test_more_databases_than_sshd_allows_sessions(site, ssh_host):
    names = [f"many{number:02d}" for number in range(9)]  # and three more channels
    site.sql("".join(f"CREATE DATABASE {name}; CREATE TABLE {name}.t (x INT PRIMARY KEY);" for name in names))
    try:
        with make(site, names, users=False).open(ssh_host, CLOCK) as session:
            stored = {entry.path: drain(entry.open()) for entry in session.entries() if entry.open}
            fingerprint = session.fingerprint()
    finally:
        site.sql("".join(f"DROP DATABASE {name};" for name in names))
    assert set(fingerprint["databases"]) == set(names)
    assert fingerprint["commits_held_up_seconds"] < 30
    assert set(stored) == {f"{name}/database.sql".encode() for name in names}


def test_what_a_staging_host_needs(mariadb_server, monkeypatch):
    source = make(mariadb_server, "all")
    needs = source.staging_needs(HOST, HOST)
    assert needs.bytes > 256 << 20 and needs.findings == []
    monkeypatch.setattr("backupctl.sources.mariadb.series", lambda version: "9.9")
    (finding,) = source.staging_needs(HOST, HOST).findings
    assert finding.severity == "error"
    assert "was MariaDB 9.9" in finding.message and "series 9.9" in finding.next_step
