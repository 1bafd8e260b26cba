"""MySQL: what it has that MariaDB has not, and where its programs and words are others. The rest is tested with MariaDB."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.errors import CouldNotRunError, DamageError, SourceError, UsageError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Completed
from backupctl.hosts.secret import SecretRef
from backupctl.sources import digest_program, mariadb_send
from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.mariadb_family import MARIADB, MYSQL, family_of_program
from backupctl.sources.mariadb_fingerprint import read_accounts
from backupctl.sources.mariadb_instance import client_of
from backupctl.sources.mariadb_programs import choose_client
from backupctl.sources.mysql import MysqlOptions, MysqlSource
from backupctl.sources.reading_rules import rules
from backupctl.sources.streams import program_text
from tests.servers.tls import certificates
from tests.soak import rounds
from tests.sources.helpers import CLOCK, HOST, MemoryFiles, bad, drain, processes_with, take
from tests.sources.restored import loaded, throw_away

pytestmark = pytest.mark.servers
PASSWORD = """s3#cret 'it"s \\ here"""
SCHEMA = r"""
CREATE TABLE numbers (n INT PRIMARY KEY);
INSERT INTO numbers WITH RECURSIVE seq(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 900) SELECT n FROM seq;
CREATE TABLE articles (id BIGINT AUTO_INCREMENT PRIMARY KEY, title VARCHAR(200) NOT NULL, body LONGBLOB, price DECIMAL(10,3),
  score DOUBLE, at TIMESTAMP(6) DEFAULT NOW(6), flags BIT(9), place POINT, kind ENUM('a', 'b'), data JSON, v VARBINARY(20),
  twice BIGINT AS (CHAR_LENGTH(title) * 2) STORED, hidden INT DEFAULT 3 INVISIBLE, more INT AS (hidden + 1) VIRTUAL, KEY (title),
  KEY computed ((price * 2)), CHECK (price >= 0));
INSERT INTO articles (title, body, price, score, flags, place, kind, data, v, hidden)
  SELECT CONCAT('題目 😀\\', n), UNHEX(SHA2(n, 256)), n / 7, n / 3, b'101', POINT(n, 1), 'b', '{"a": 1.0, "b": [null, "\\u0000"]}',
  UNHEX('00ff'), n FROM numbers;
INSERT INTO articles (title) VALUES ('NULL'), ('tab\tnew\nline');
ANALYZE TABLE articles UPDATE HISTOGRAM ON kind;
CREATE TABLE no_key (a INT, b VARCHAR(10));
INSERT INTO no_key SELECT n % 3, IF(n % 2, NULL, 'NULL') FROM numbers;
CREATE TABLE words (word VARCHAR(50) CHARACTER SET latin1 PRIMARY KEY, n FLOAT);
INSERT INTO words VALUES ('Zoë', 33333.66796875), ('b', 2);
SET sql_mode = '';
CREATE TABLE nothing (d DATE, t DATETIME, s TIMESTAMP NULL);
INSERT INTO nothing VALUES ('0000-00-00', '0000-00-00', '0000-00-00'), ('2020-00-01', '2020-00-00', NULL);
CREATE TABLE old_engine (x INT) ENGINE=MyISAM;
INSERT INTO old_engine VALUES (1);
CREATE TABLE parts (id INT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3;
INSERT INTO parts VALUES (1), (2), (3);
CREATE TABLE `od``d, Name` (`select` INT, `Ünder` TEXT);
INSERT INTO `od``d, Name` VALUES (1, 'x');
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
def site(mysql_server):
    server = mysql_server
    server.sql("CREATE DATABASE site; CREATE DATABASE bench; CREATE DATABASE other;")
    server.sql(SCHEMA, "site")
    server.sql("CREATE TABLE bench.left_side (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT)")
    server.sql("CREATE TABLE bench.counter (n BIGINT); INSERT INTO bench.counter VALUES (0)")
    server.sql("CREATE TABLE other.right_side (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT)")
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    server.sql(f"CREATE USER backup@'%' IDENTIFIED BY '{quoted}'; CREATE ROLE readers, writers;")
    server.sql("GRANT SELECT, RELOAD, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, REPLICATION CLIENT ON *.* TO backup@'%'")
    server.sql(
        """CREATE USER 'o''dd'@'10.%' ATTRIBUTE '{"note": " DEFAULT ROLE `x`@`y` REQUIRE "}'; GRANT SELECT ON bench.* TO readers;
        GRANT SELECT ON site.articles TO readers; GRANT readers, writers TO 'o''dd'@'10.%' WITH ADMIN OPTION;
        ALTER USER 'o''dd'@'10.%' DEFAULT ROLE readers, writers; GRANT EXECUTE ON FUNCTION site.twice TO readers;
        ALTER USER 'o''dd'@'10.%' PASSWORD EXPIRE INTERVAL 9 DAY FAILED_LOGIN_ATTEMPTS 4 PASSWORD_LOCK_TIME 2;"""
    )
    return server


@pytest.fixture(scope="module")
def programs(mysql_programs):
    return str(mysql_programs / "bin")


@pytest.fixture(scope="module")
def make(site, programs):
    def made(databases, **options):
        given = {"socket": site.socket, "user": "root", "bin_dir": programs, "databases": databases, **options}
        return MysqlSource("site-db", MysqlOptions(**given), lambda ref: Path(ref.file).read_bytes())

    return made


@pytest.fixture(scope="module")
def taken(make):
    return take(make(["site"]))


@pytest.fixture(scope="module")
def shared(make, taken):
    with throw_away(make(["site"]), taken[1]) as instance:
        yield instance


def test_round_trip_and_what_differs(site, make, taken, shared):
    source = make(["site"])
    files, fingerprint = taken
    facts = fingerprint["databases"]["site"]
    assert files.names() == [b"site", b"users.sql"]
    assert (facts["tables"]["articles"]["rows"], facts["tables"]["no_key"]["order"]) == (902, "free")
    assert facts["six_digits_only"] == {"words": ["n"]}
    assert facts["counts"] == {"tables": 8, "views": 1, "routines": 1, "triggers": 1, "events": 1}
    assert fingerprint["binary_log"][0].startswith("bin.") and fingerprint["server_uid"] in fingerprint["gtid_executed"]
    assert 0 < fingerprint["commits_held_up_seconds"] < 10
    dump = files.content[b"site/database.sql"]
    place, gtids, _ = dump.decode("latin-1").split("\n", 2)
    file, offset = fingerprint["binary_log"]
    assert place == f"-- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={offset};"
    assert gtids == f"-- SET @@GLOBAL.gtid_purged = '+{fingerprint['gtid_executed']}';" and b"SQL_LOG_BIN" not in dump
    with loaded(shared, source, files) as instance:
        command = Path(f"/proc/{instance.pid}/cmdline").read_text()
        assert "--skip-networking" in command and "--event-scheduler=OFF" in command
        results = source.compare(instance, fingerprint)
        assert not bad(results), [result for result in results if not result.ok]
        assert {"account 'readers'@'%'", "account 'o'dd'@'10.%'", "account 'root'@'localhost'"} <= {
            result.name for result in results
        }
        assert source.query(instance, "site", "SELECT COUNT(*), NULL FROM articles;") == [["902", "NULL"]]
        with pytest.raises(SourceError, match="READ ONLY"):
            source.query(instance, "site", "DELETE FROM articles")
        assert not bad(source.examine(instance, ["site"]))
        shell = source.client_command(instance, "site")

        def change(sql):
            HOST.run([*shell, "-e", sql], check=True)

        change("UPDATE articles SET hidden = 0 WHERE id = 7")
        assert bad(source.compare(instance, fingerprint)) == ["table site.articles"]
        change("UPDATE articles SET hidden = 7 WHERE id = 7; UPDATE articles SET data = '{\"a\": 1}' WHERE id = 8")
        change(
            "UPDATE no_key SET b = 'NULL' WHERE b IS NULL LIMIT 1; UPDATE nothing SET d = '2020-01-01' WHERE s IS NULL"
        )
        change("DROP EVENT nightly; DROP TABLE `od``d, Name`; ALTER USER readers IDENTIFIED BY 'x'")
        change("REVOKE EXECUTE ON FUNCTION site.twice FROM readers; ALTER USER `o'dd`@`10.%` DEFAULT ROLE NONE")
        assert sorted(bad(source.compare(instance, fingerprint))) == [
            "account 'o'dd'@'10.%'",
            "account 'readers'@'%'",
            "events in site",
            "schema of site",
            "table site.articles",
            "table site.no_key",
            "table site.nothing",
            "table site.od`d, Name",
            "tables in site",
        ]


@pytest.mark.parametrize("number", range(rounds(1, 10)))
def test_one_view_under_load(site, make, shared, number):
    """A hot writer changes two databases in one transaction: dumps and fingerprint agree, and so do the databases."""
    source = make(["bench", "other"])
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


def test_all_databases_with_chosen_restore(make, shared):
    source = make("all")
    files, fingerprint = take(source)
    assert list(fingerprint["databases"]) == ["bench", "other", "site"]
    with loaded(shared, source, files, databases=["bench"]) as instance:
        assert any("not granted" in note for note in instance.notes)
        results = source.compare(instance, fingerprint)
        assert not bad(results) and not any("site" in result.name for result in results)


def test_over_a_network_with_tls_or_without(site, programs, tmp_path, narrow_pipes):
    """caching_sha2_password sends the password over TLS or encrypted for the server; the certificate is verified when it is asked
    for."""
    (tmp_path / "password").write_text(PASSWORD + "\n")
    common = {"port": site.port, "user": "backup", "databases": ["site"], "bin_dir": programs}
    common["password"] = SecretRef(file=str(tmp_path / "password"))

    def source(**options):
        site.sql("FLUSH PRIVILEGES")  # the server forgets the password that it has seen
        return MysqlSource("db", MysqlOptions(**common, **options), lambda ref: Path(ref.file).read_bytes())

    with source(address="127.0.0.1").open(HOST, CLOCK) as session:
        assert processes_with("mysqldump") and not processes_with(PASSWORD)
        for entry in session.entries():
            if entry.open:
                drain(entry.open())
        assert PASSWORD not in json.dumps(session.fingerprint())
    findings = source(address="127.0.0.1", tls=False).preflight(HOST)
    assert not [finding for finding in findings if finding.severity == "error"]
    assert any("old_engine (MyISAM)" in finding.message for finding in findings)
    assert any("FLOAT" in finding.message and "words.n" in finding.message for finding in findings)
    with certificates("localhost") as directory:
        places = {"ssl_ca": "ca.pem", "ssl_cert": "server.pem", "ssl_key": "server.key"}
        own = [f"SET GLOBAL {name} = '{directory / file}';" for name, file in places.items()]
        site.sql("".join([*own, "ALTER INSTANCE RELOAD TLS;"]))
        assert "site" in source(address="localhost", tls={"ca": str(directory / "ca.pem")}).discover(HOST).databases
        for address, ca in (("localhost", "other.pem"), ("127.0.0.1", "ca.pem")):
            with pytest.raises(SourceError, match="2026") as caught:
                source(address=address, tls={"ca": str(directory / ca)}).discover(HOST)
            assert "tls: {ca: FILE}" in caught.value.next_step
    (tmp_path / "password").write_text("wrong" + PASSWORD)
    with pytest.raises(SourceError, match="1045") as caught:
        source(address="127.0.0.1").discover(HOST)
    assert PASSWORD not in str(caught.value) and "password" in caught.value.next_step


def test_missing_rights_are_named(site, make):
    site.sql("CREATE USER poor@localhost; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO poor@localhost")
    source = make(["bench"], user="poor")
    errors = [finding for finding in source.preflight(HOST) if finding.severity == "error"]
    assert [one.message.split()[0] for one in errors] == ["RELOAD", "REPLICATION"]
    assert all(
        one.next_step.startswith("GRANT SELECT, RELOAD") and "REPLICATION CLIENT" in one.next_step for one in errors
    )
    with pytest.raises(SourceError, match="RELOAD") as caught, source.open(HOST, CLOCK):
        pass
    assert "GRANT SELECT, RELOAD" in caught.value.next_step
    site.sql("DROP USER poor@localhost")


def test_one_family_is_not_taken_for_the_other(site, make, tmp_path, programs, shared, taken):
    for name, answer in (("mysql", "echo 10.11.14-MariaDB-log"), ("mysqldump", "exit 1")):
        said = f"echo '{name}  Ver 9.7.4 for Linux on x86_64 ((Debian))'"
        (tmp_path / name).write_text(f'#!/bin/sh\ncase "$*" in --version) {said};; *) {answer};; esac\n')
        (tmp_path / name).chmod(0o755)
    with pytest.raises(SourceError, match=r"the server is MariaDB 10\.11.*, not MySQL") as caught:
        take(make(["bench"], bin_dir=str(tmp_path)))
    assert "kind `mariadb`" in caught.value.next_step
    (tmp_path / "mysql").write_text((tmp_path / "mysql").read_text().replace("10.11.14-MariaDB-log", "5.7.44-log"))
    with pytest.raises(SourceError, match=r"MySQL 5\.7\.44, older than 8\.0\.17"):
        take(make(["bench"], bin_dir=str(tmp_path)))
    plugin = "ERROR 2059 (HY000): Authentication plugin 'mysql_native_password' cannot be loaded"
    (tmp_path / "mysql").write_text(
        f'#!/bin/sh\ncase "$*" in --version) {said};; *) echo "{plugin}" >&2; exit 1;; esac\n'
    )
    with pytest.raises(SourceError, match="2059") as caught:
        take(make(["bench"], bin_dir=str(tmp_path)))
    assert "kind of source site-db `mariadb`" in caught.value.next_step
    theirs = MariadbOptions(socket=site.socket, user="root")
    with pytest.raises(SourceError, match=r"the server is MySQL .*, not MariaDB") as caught:
        take(MariadbSource("db", theirs, lambda ref: b""))
    assert "kind `mysql`" in caught.value.next_step
    with pytest.raises(
        SourceError, match="mysql is not on host local; mysql is MariaDB's"
    ):  # its package has the old names, too
        take(make(["bench"], bin_dir=None))
    with pytest.raises(SourceError, match="mysql is MySQL's"):
        take(MariadbSource("db", theirs.model_copy(update={"bin_dir": programs}), lambda ref: b""))
    with pytest.raises(CouldNotRunError, match=r"was MySQL \d+\.\d+; host local has no MySQL server") as refused:
        make(["site"], bin_dir=None).boot(HOST, str(shared.directory.decode()).encode() + b"/x", taken[1])
    assert "mysql-server" in refused.value.next_step


@pytest.mark.parametrize(
    ("said", "family", "version"),
    [
        ("mysqldump  Ver 8.0.36-0ubuntu0.22.04.1 for Linux on x86_64 ((Ubuntu))", MYSQL, "8.0.36"),
        ("mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)", MYSQL, "5.7.44"),
        ("/usr/sbin/mysqld  Ver 8.0.35-27 for Linux on x86_64 (Percona Server (GPL), Release 27)", MYSQL, "8.0.35"),
        ("mysqldump  Ver 10.19 Distrib 10.11.14-MariaDB, for debian-linux-gnu (x86_64)", MARIADB, "10.11.14"),
        ("mariadb-dump from 11.8.3-MariaDB, client 10.19 for debian-linux-gnu (x86_64)", MARIADB, "11.8.3"),
        ("mysqld  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on x86_64 (Debian 12)", MARIADB, "10.11.14"),
        ("something else", None, ""),
    ],
)
def test_whose_program_it_is(said, family, version):
    assert family_of_program(said) is family
    assert family is None or family.version_said(said) == version


def test_an_older_dump_program_is_refused(tmp_path):
    for version in ("8.0.20", "8.4.3", "9.1.0"):
        for name in ("mysql", "mysqldump"):
            program = tmp_path / version / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(
                f"#!/bin/sh\necho '{name}  Ver {version} for Linux on x86_64 (MySQL Community Server - GPL)'\n"
            )
            program.chmod(0o755)
    client = MariadbClient(HOST, "s", (), "", MYSQL)
    several = f"{tmp_path}/{{series}}/bin"
    assert choose_client(client, several, "8.4.9").dumper == f"{tmp_path}/8.4.3/bin/mysqldump"
    assert choose_client(client, several, "8.0.36").dumper == f"{tmp_path}/8.0.20/bin/mysqldump"
    assert choose_client(client, several, "8.3.0").dumper == f"{tmp_path}/8.4.3/bin/mysqldump"
    with pytest.raises(SourceError, match=r"the server is MySQL 9\.7\.4; of mysqldump in .* the newest is 9\.1\.0"):
        choose_client(client, several, "9.7.4")
    one = f"{tmp_path}/8.4.3/bin"
    with pytest.raises(SourceError, match=r"mysqldump 8\.4\.3 is older than the server, 9\.7\.4") as caught:
        choose_client(MariadbClient(HOST, "s", (), "", MYSQL, f"{one}/mysql", f"{one}/mysqldump"), one, "9.7.4")
    assert "install mysql-client 9.7 or newer" in caught.value.next_step


def test_a_statement_that_runs_too_long_is_told():
    """FLUSH TABLES WITH READ LOCK waits for it, and writers wait meanwhile: 20 s at most."""
    assert "lock_wait_timeout = 20" in MYSQL.session
    waited = Completed(
        (), 1, b"", "ERROR 1205 (HY000) at line 3: Lock wait timeout exceeded; try restarting transaction"
    )
    failure = MariadbClient(HOST, "s", (), "", MYSQL).failure(waited, "holding up commits")
    assert "SHOW FULL PROCESSLIST" in failure.next_step


def test_changed_definitions_are_told(site, make):
    with make(["bench"], users=False).open(HOST, CLOCK) as session:
        for entry in session.entries():
            if entry.open:
                drain(entry.open())
                site.sql("ALTER TABLE bench.counter ADD COLUMN extra INT")
        try:
            with pytest.raises(SourceError, match="definitions in database bench changed"):
                session.fingerprint()
        finally:
            site.sql("ALTER TABLE bench.counter DROP COLUMN extra")


def test_what_comes_into_a_live_server_is_compared_or_gone_again(site, make, programs, monkeypatch):
    options = MysqlOptions(bin_dir=programs)
    with mariadb_send.live_client(HOST, "site-db", f"socket={site.socket} user=root", options) as client:
        notes = mariadb_send.send_database(client, "site", client, "site back")
        assert notes[0].startswith("database site is on that server as site back, and equal to what was restored")
        assert "events left out, since they would run there: nightly" in notes
        assert site.sql("SELECT COUNT(*) FROM `site back`.newest; SELECT `site back`.twice(4)") == "10\n8"
        with pytest.raises(UsageError, match="has a database site back already"):
            mariadb_send.refuse_taken(client, "site back")
        site.sql("DROP DATABASE `site back`; SET GLOBAL sql_require_primary_key = ON")
        try:
            with pytest.raises(CouldNotRunError, match="3750"):
                mariadb_send.send_database(client, "site", client, "back")
        finally:
            site.sql("SET GLOBAL sql_require_primary_key = OFF")
        whole = mariadb_send.compare

        def meddled(*sides):
            site.sql("UPDATE back.words SET n = 3 WHERE n = 2")
            whole(*sides)

        monkeypatch.setattr(mariadb_send, "compare", meddled)
        with pytest.raises(DamageError, match=r"table back\.words on that server: 2 rows"):
            mariadb_send.send_database(client, "site", client, "back")
        assert site.sql("SHOW DATABASES LIKE 'back%'") == ""


def test_damaged_dumps_are_damage(make, taken, shared):
    source = make(["site"])
    files, _ = taken
    whole = files.content[b"site/database.sql"]
    cut = whole[: whole.index(b"UNLOCK TABLES;") + 15]  # between two statements: the client has nothing to complain of
    for content in (cut, whole[: len(whole) // 2], whole.replace(b"INSERT INTO", b"INSERT INTA", 1)):
        damaged = MemoryFiles({**files.content, b"site/database.sql": content})
        with pytest.raises(DamageError, match="database site"), loaded(shared, source, damaged):
            pass
    accounts = MemoryFiles({**files.content, b"users.sql": files.content[b"users.sql"][:-20]})
    with pytest.raises(DamageError, match="dump of accounts has no"), loaded(shared, source, accounts):
        pass


def test_grants_on_databases_that_are_not_there_are_left_out():
    made = "CREATE USER IF NOT EXISTS `u`@`%` IDENTIFIED WITH 'caching_sha2_password' REQUIRE NONE;\n"
    lines = [
        "GRANT SELECT ON `shop`.`t` TO `u`@`%`",
        "GRANT USAGE ON *.* TO `u`@`%`",
        "REVOKE SELECT ON `mysql`.* FROM `u`@`%`",
    ]
    whole = read_accounts(made + ";\n".join([*lines, "ALTER USER `u`@`%` DEFAULT ROLE `r`@`%`;"]), ["shop"])
    assert {account: len(found) for account, found in whole.items()} == {"'u'@'%'": 5}
    assert len(read_accounts(made + ";\n".join(lines), ["site"])["'u'@'%'"]) == 3


def test_a_restricted_account_is_asked_for_nothing_else(make, monkeypatch):
    """Every command of a whole backup is one that its rules allow."""
    asked = []
    for name in ("run", "start"):
        real = getattr(LocalHost, name)

        def planted(host, argv, *more, real=real, **words):
            asked.append(argv)
            return real(host, argv, *more, **words)

        monkeypatch.setattr(LocalHost, name, planted)
    source = make(["bench"])
    take(source)
    allowed = rules("mysql", source.options)
    for argv in asked:
        if argv[0] == HOST.python:
            assert argv[2] == program_text(digest_program)
        else:
            assert any(re.fullmatch(one, "\0".join(argv)) for one in (*allowed.queries, *allowed.commands)), argv
    assert any("--single-transaction" in argv for argv in asked)
    with pytest.raises(UsageError, match="MySQL's programs from one directory"):
        rules("mysql", MysqlOptions(bin_dir="/opt/mysql-{series}/bin"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "physical"}, "XtraBackup"),
        ({"databases": ["mysql"]}, "belongs to the server"),
        ({"socket": "/s", "tls": False}, "needs none"),
        ({"method": "other"}, "logical"),
    ],
)
def test_options_refused(options, why):
    with pytest.raises(ValidationError, match=why):
        MysqlOptions(**options)


def test_a_server_of_another_directory_takes_everything_from_there(shared, mysql_programs):
    with client_of(shared, "db") as client:
        (found,) = client.rows("SELECT @@basedir, @@plugin_dir, @@character_sets_dir;")
        assert client.client == str(mysql_programs / "bin" / "mysql") != shutil.which("mysql")
    assert all(one.startswith(str(mysql_programs)) for one in found), found
