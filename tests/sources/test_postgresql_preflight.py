"""What `job check` says of PostgreSQL, and which of several majors' programs are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backupctl.errors import CouldNotRunError, SourceError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Completed
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from backupctl.sources.postgresql_client import PostgresClient, choose_client, program_directories
from backupctl.sources.postgresql_instance import find_dumper, find_server
from backupctl.sources.postgresql_preflight import Examination
from backupctl.sources.wal_watch import findings
from tests.sources.helpers import HOST, bad, take
from tests.sources.restored import Restored
from tests.sources.test_postgresql import scratch

__all__ = ["scratch"]
servers = pytest.mark.servers
SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "10",
    "fsync": "on",
    "full_page_writes": "on",
    "data_checksums": "on",
    "hot_standby_feedback": "on",
    "max_locks_per_transaction": "64",
    "max_connections": "100",
}
RIGHTS = {
    "super": True,
    "bypassrls": True,
    "passwords": True,
    "large_objects": 3,
    "row_security_tables": 1,
    "tables": 10,
    "unreadable": [],
    "foreign_tables": [],
}


class Answers:
    """A connected client of a server that answers as told."""

    def __init__(self, settings=(), standby=False, rights=(), **rows):
        self.settings, self.standby = {**SETTINGS, **dict(settings)}, standby
        self.rights, self.rows, self.source = {**RIGHTS, **dict(rights)}, rows, "s"

    def records(self, database, query):
        if "pg_is_in_recovery" in query:
            return [{"role": 'ba"ck', "standby": self.standby, "settings": self.settings}]
        if "rolsuper" in query:
            return [self.rights]
        if "pg_database_size" in query:
            return [self.rows["needs"]]
        return self.rows.get("collations" if "pg_attribute" in query else "database", [])


def examined(method="dump", **answers):
    examination = Examination(Answers(**answers), "15.4", method, 2)
    found = [*examination.server_findings("site"), *examination.database_findings("site")]
    return [(one.severity, one.message, one.next_step) for one in found if one.severity != "info"]


def test_a_good_server_gives_no_warning():
    assert examined() == []
    assert examined("ordered") == []


@pytest.mark.parametrize(
    ("answers", "severity", "message", "step"),
    [
        ({"settings": {"data_checksums": "off"}}, "warning", "checksums are off", "pg_checksums --enable"),
        ({"settings": {"fsync": "off"}}, "warning", "fsync is off", "ALTER SYSTEM SET fsync = on;"),
        ({"settings": {"wal_level": "minimal"}, "method": "physical"}, "error", "wal_level", "SET wal_level = replica"),
        (
            {"settings": {"max_wal_senders": "0"}, "method": "physical"},
            "error",
            "max_wal_senders",
            "max_wal_senders = 10",
        ),
        (
            {"settings": {"hot_standby_feedback": "off"}, "standby": True},
            "warning",
            "standby",
            "hot_standby_feedback = on",
        ),
        ({"rights": {"tables": 3000}, "method": "ordered"}, "warning", "room for 6400 locks", "transaction = 180"),
        ({"rights": {"super": False}}, "error", "3 large objects", 'ALTER ROLE "ba""ck" SUPERUSER;'),
        ({"rights": {"bypassrls": False}}, "error", "row security", 'ALTER ROLE "ba""ck" BYPASSRLS;'),
        ({"rights": {"unreadable": ["public.t"]}}, "error", "read public.t", 'GRANT pg_read_all_data TO "ba""ck";'),
        ({"rights": {"passwords": False}}, "warning", "passwords", 'GRANT SELECT ON pg_authid TO "ba""ck";'),
        ({"rights": {"foreign_tables": ["f"]}}, "warning", "foreign tables", "back up the server"),
        (
            {"database": [{"recorded": "2.31", "actual": "2.36"}]},
            "warning",
            "2.31",
            'REINDEX DATABASE "site"; ALTER DATABASE',
        ),
        (
            {"collations": [{"schema": "public", "name": "de", "recorded": "1", "actual": "2"}]},
            "warning",
            "collation de",
            'ALTER COLLATION "public"."de" REFRESH VERSION;',
        ),
    ],
)
def test_each_trouble_is_told_with_the_next_statement(answers, severity, message, step):
    (found,) = examined(**answers)
    assert found[0] == severity
    assert message in found[1]
    assert step in found[2]


ARCHIVING = {
    "archive_mode": "on",
    "archive_command": "backupctl -q wal-push site/db %p",
    "archive_library": "",
    "archive_timeout": "60",
    "slot_limit": "10GB",
    "wal_size": "1GB",
    "wal_bytes": 1 << 30,
    "segment_bytes": 16 << 20,
    "last_archived_wal": "000000010000000000000007",
    "last_failed_wal": "000000010000000000000008",
    "failed_at": "2026-11-20",
    "failing": False,
}
SLOT = {"active": True, "wal_status": "reserved", "safe_wal_size": 1, "behind": 0}


class Archiver:
    """A client of a server that says this of its log."""

    def __init__(self, settings=(), slot=SLOT, waiting=0, size=0):
        self.settings, self.slot, self.waiting, self.size = {**ARCHIVING, **dict(settings)}, slot, waiting, size

    def records(self, database, query):
        if "pg_stat_archiver" in query:
            return [self.settings]
        if "pg_replication_slots" in query:
            return [self.slot] if self.slot else []
        if None in (self.waiting, self.size):
            raise SourceError("permission denied")
        return [{"waiting": self.waiting, "bytes": self.size}]


def test_a_log_that_is_archived_gives_no_finding():
    assert findings(Archiver(), "site", "") == findings(Archiver(), "site", "backupctl") == []
    assert findings(Archiver(waiting=None, size=None), "site", "") == [], "without the right to look nothing is claimed"
    assert findings(Archiver(settings={"archive_command": "", "archive_library": "own"}), "site", "") == []


@pytest.mark.parametrize(
    ("answers", "slot", "severity", "message"),
    [
        ({"settings": {"archive_mode": "off"}}, "", "error", "archive_mode is off"),
        ({"settings": {"archive_command": "cp %p /x"}}, "", "warning", "archive_command is cp"),
        ({"settings": {"failing": True}}, "", "error", "fails since 2026-11-20: 000000010000000000000008"),
        ({"settings": {"archive_timeout": "0"}}, "", "warning", "archive_timeout is 0"),
        ({"waiting": 64}, "", "error", "64 segments wait"),
        ({"size": (2 << 30) + 1}, "", "warning", "something holds the log back"),
        ({"slot": None}, "backupctl", "error", "no replication slot backupctl"),
        ({"slot": {**SLOT, "wal_status": "lost", "active": False}}, "backupctl", "error", "has lost the log"),
        ({"slot": {**SLOT, "active": False, "behind": 5000}}, "backupctl", "error", "holds 5,000 bytes"),
        ({"slot": {**SLOT, "behind": 1 << 30}}, "backupctl", "warning", "bytes behind"),
        ({"settings": {"slot_limit": "-1"}}, "backupctl", "warning", "max_slot_wal_keep_size is -1"),
    ],
)
def test_each_trouble_with_the_log_is_told(answers, slot, severity, message):
    (found,) = findings(Archiver(**answers), "site", slot)
    assert found.severity == severity
    assert message in found.message
    assert found.next_step


def programs(directory: Path, version: str, *, sharedir: Path | None = None, real: Path | None = None) -> str:
    """Programs that report `version` and do what the real ones do."""
    directory.mkdir(parents=True)
    for name in ("psql", "pg_dump", "pg_restore", "pg_dumpall", "postgres", "initdb"):
        run = f'exec {real}/{name} "$@"' if real else "exit 1"
        (directory / name).write_text(
            f"#!/bin/sh\n[ $1 = --version ] && echo '{name} (PostgreSQL) {version}' && exit\n{run}\n"
        )
    (directory / "pg_config").write_text(f"#!/bin/sh\necho {sharedir}\n")
    for one in directory.iterdir():
        one.chmod(0o755)
    return str(directory)


@pytest.fixture
def majors(tmp_path):
    """13, 14 and 16 side by side, and what only looks like one."""
    for version in ("9.6.24", "13.9", "14.2", "16.1"):
        number = version.rpartition(".")[0]
        programs(tmp_path / number / "bin", version)
    (tmp_path / "common").mkdir()
    return str(tmp_path / "{major}" / "bin")


def chosen(bin_dir, server):
    return choose_client(PostgresClient(HOST, "s", ""), bin_dir, server).directory.split("/")[-2]


def test_the_programs_of_the_servers_major_else_of_the_next(majors):
    assert [one.split("/")[-2] for one in program_directories(HOST, majors)] == ["9.6", "13", "14", "16"]
    assert [chosen(majors, version) for version in ("14.18", "13.1", "15.3", "9.6.1", "16.9")] == [
        "14",
        "13",
        "16",
        "9.6",
        "16",
    ]


def test_only_older_ones_are_refused_by_name(majors):
    with pytest.raises(SourceError, match=r"17\.2, and on host local in .* the newest pg_dump there is 16") as caught:
        chosen(majors, "17.2")
    assert "postgresql-client-17" in caught.value.next_step


def test_a_server_of_the_same_major_is_booted(majors):
    client = PostgresClient(HOST, "s", "")
    assert find_server(client, majors, 14).directory.endswith("/14/bin")
    with pytest.raises(CouldNotRunError, match=r"PostgreSQL 12; host local has PostgreSQL server .*13\.9, 14\.2"):
        find_server(client, majors, 12)


def test_an_archive_of_a_newer_pg_dump_needs_its_pg_restore(majors):
    client = PostgresClient(HOST, "s", "", program_directories(HOST, majors)[2])
    assert find_dumper(client, majors, 14, "14.9") is None
    newer = find_dumper(client, majors, 14, "16.4")
    assert newer.endswith("/16/bin")
    both = replace(client, dump_directory=newer)
    assert both.program("pg_restore") == f"{newer}/pg_restore"
    assert both.program("psql").endswith("/14/bin/psql")
    with pytest.raises(CouldNotRunError, match="no pg_restore 99") as caught:
        find_dumper(client, majors, 14, "99.0")
    assert "postgresql-client-99" in caught.value.next_step


class Staging(LocalHost):
    name = "staging"

    def run(self, argv, **options):
        if list(argv) == ["locale", "-a"]:
            return Completed(tuple(argv), 0, b"C\nC.utf8\nPOSIX\nen_US.utf8\n", "")
        return super().run(argv, **options)


def needs(bin_dir, **row):
    row = {"size": 1000, "collation": "en_US.UTF-8", "ctype": "C.UTF-8", "extensions": [], **row}
    return Examination(Answers(needs=row), "14.2", "dump").staging_needs(["site"], Staging(), bin_dir)


def test_what_a_staging_host_lacks(tmp_path):
    (tmp_path / "share" / "extension").mkdir(parents=True)
    (tmp_path / "share" / "extension" / "citext.control").write_text("comment = 'x'\ndefault_version = '1.6'\n")
    bin_dir = programs(tmp_path / "14", "14.2", sharedir=tmp_path / "share")
    assert needs(bin_dir, extensions=["citext 1.6"]).findings == []
    (other,) = needs(bin_dir, extensions=["citext 1.4"]).findings
    assert (other.severity, "citext 1.6, the source has 1.4" in other.message) == ("warning", True)
    (extension,) = needs(bin_dir, extensions=["citext 1.6", "postgis 3.3"]).findings
    assert "extension postgis 3.3" in extension.message
    assert "postgresql-14" in extension.next_step
    (locale,) = needs(bin_dir, collation="zh_TW.UTF-8").findings
    assert "lacks the locale zh_TW.UTF-8" in locale.message
    assert "localedef -i zh_TW" in locale.next_step
    assert needs(bin_dir, size=10**9).bytes > 10**9
    only_newer = programs(tmp_path / "16", "16.1")
    (server,) = [one for one in needs(only_newer).findings if "was PostgreSQL 14" in one.message]
    assert "postgresql-14" in server.next_step


@servers
def test_on_a_real_server(postgres_server):
    postgres_server.sql("CREATE DATABASE drifted TEMPLATE template0 LOCALE 'C.UTF-8';")
    postgres_server.sql("CREATE ROLE looker LOGIN;")
    try:
        postgres_server.sql(
            """CREATE EXTENSION citext; CREATE TABLE t (a text COLLATE "und-x-icu" PRIMARY KEY); CREATE SEQUENCE s;
            UPDATE pg_collation SET collversion = '0.1' WHERE collname = 'und-x-icu';""",
            "drifted",
        )
        conninfo = postgres_server.conninfo.replace("user=postgres", "user=looker")
        source = PostgresqlSource("d", PostgresqlOptions(conninfo=conninfo, databases=["drifted", "nowhere"]), bytes)
        text = "\n".join(f"{one.message}: {one.next_step}" for one in source.preflight(HOST))
        assert "no right to read public.s, public.t: GRANT pg_read_all_data" in text
        assert "passwords cannot be read" in text and "fsync is off" in text
        assert "indexes use collation und-x-icu of version 0.1" in text
        assert "nowhere" in text, "one database that cannot be reached hides nothing of the others"
        staged = PostgresqlSource("d", PostgresqlOptions(conninfo=conninfo, databases=["drifted"]), bytes)
        assert [one for one in staged.staging_needs(HOST, HOST).findings if one.severity == "error"] == []
    finally:
        postgres_server.sql("DROP DATABASE drifted;")
        postgres_server.sql("DROP ROLE looker;")


@servers
def test_a_newer_pg_dump_than_the_server_there_and_back(postgres_server, tmp_path, scratch):
    """Only 13 and 16 in `bin_dir`, a server of another major: dumped by 16, booted from where the packages are."""
    server = int(postgres_server.sql("SHOW server_version").split(".")[0])
    for version in ("13.9", f"{server + 1}.1"):
        programs(tmp_path / version.partition(".")[0] / "bin", version, real=postgres_server.programs)
    postgres_server.sql("CREATE DATABASE between;")
    try:
        postgres_server.sql("CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1);", "between")
        options = PostgresqlOptions(
            conninfo=postgres_server.conninfo, databases=["between"], bin_dir=str(tmp_path / "{major}/bin")
        )
        source = PostgresqlSource("b", options, bytes)
        files, fingerprint = take(source)
        assert fingerprint["versions"] | {"server": ""} == {
            "server": "",
            "server_major": server,
            "pg_dump": f"{server + 1}.1",
        }
        with Restored(source, files, fingerprint, scratch) as instance:
            assert instance.connection["dump_bin_dir"] == str(tmp_path / str(server + 1) / "bin")
            assert not bad(source.compare(instance, fingerprint))
    finally:
        postgres_server.sql("DROP DATABASE between;")
