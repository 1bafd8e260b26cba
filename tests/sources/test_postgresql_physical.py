"""PostgreSQL as it lies on disk: backed up under load into a repository, recovered to the very record, compared by row."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import SystemClock
from backupctl.config.load import load
from backupctl.errors import DamageError, NoSuchError, SourceError, UserError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Host
from backupctl.hosts.ssh import SshHost
from backupctl.operations import wal
from backupctl.operations.context import Context
from backupctl.operations.setup import create_repository
from backupctl.operations.wal import Pushed, fetch
from backupctl.operations.wal_receive import receive
from backupctl.repository.entry import Problem
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.repository.written import WrittenSnapshot
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from backupctl.sources.protocol import Fingerprint, Instance
from backupctl.sources.wal_archive import Goal, LogIndex, Target, base_for, roll_forward
from backupctl.sources.wal_format import EPOCH, WalReader, format_lsn, is_segment_name, parse_lsn, read_header
from tests.repository.helpers import NOW, new_repository
from tests.servers.databases import PostgresServer, postgres_directory, postgres_server
from tests.servers.plugin_databases import missing
from tests.sources.helpers import bad

pytestmark = pytest.mark.servers
HOST, CLOCK = LocalHost(), SystemClock()
SETTINGS = {"shared_buffers": "16MB", "wal_keep_size": "1GB"}
SCHEMA = """
CREATE TABLE articles (id bigserial PRIMARY KEY, title text) TABLESPACE fast;
INSERT INTO articles (title) SELECT 'title ' || n FROM generate_series(1, 3000) n;
CREATE TABLE no_key (a int, b text);
INSERT INTO no_key SELECT n % 3, md5(n::text) FROM generate_series(1, 500) n;
CREATE UNLOGGED TABLE cache (k text);
INSERT INTO cache VALUES ('x');
SELECT lo_from_bytea(4711, 'a large object');
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    programs = postgres_directory()
    if programs is None:
        missing("postgresql")
    with postgres_server(programs, initdb=["--data-checksums"], **SETTINGS) as server:
        space = server.directory / "fast"
        space.mkdir()
        shutil.chown(space, (server.directory / "data").owner(), (server.directory / "data").group())
        server.sql(f"CREATE TABLESPACE fast LOCATION '{space}';")
        server.sql("CREATE ROLE backup LOGIN REPLICATION IN ROLE pg_read_all_data;")
        for name in ("site", "bench"):
            server.sql(f"CREATE DATABASE {name};")
        server.sql(SCHEMA, "site")
        server.pgbench_init("bench")
        server.sql("DROP DATABASE IF EXISTS nothing;")
        yield server


@pytest.fixture
def scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="bctl-drill-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def make(server: PostgresServer) -> PostgresqlSource:
    options = PostgresqlOptions(conninfo=server.conninfo, method="physical")
    return PostgresqlSource("site-db", options, lambda ref: b"")


Taken = tuple[Repository, Snapshot, Fingerprint, list[Problem], WrittenSnapshot]


def take(server: PostgresServer, repository: Repository | None = None, host: Host = HOST) -> Taken:
    repository = repository or new_repository()
    with SnapshotWriter(repository, clock=repository.clock) as writer:
        with make(server).open(host, CLOCK) as session:
            problems = writer.add_stream("site-db", session.stream())
            fingerprint = session.fingerprint()
        written = writer.finish()
    snapshot = Snapshot(NOW, written.tree, ["/site-db"], program_version="backupctl test")
    repository.save_snapshot(snapshot)
    return repository, snapshot, fingerprint, problems, written


class Restored:
    def __init__(self, server: PostgresServer, taken: Taken, directory: Path) -> None:
        self.source = make(server)
        repository, snapshot, fingerprint, _, _ = taken
        self.instance: Instance = self.source.boot(HOST, str(directory / "pg").encode(), fingerprint)
        try:
            with SnapshotReader(repository, snapshot) as reader:
                self.notes = self.source.load(self.instance, reader.files("site-db"))
        except BaseException:
            self.source.stop(self.instance)
            raise

    def __enter__(self) -> Instance:
        return self.instance

    def __exit__(self, *exc: object) -> None:
        self.source.stop(self.instance)


@pytest.fixture(scope="module")
def taken(server: PostgresServer) -> Taken:
    """While it is written to, at a pace that leaves the machine to the tests."""
    with server.load("bench", per_second=200):
        return take(server)


def test_under_load_every_row_comes_back_as_it_was_in_one_snapshot(
    server: PostgresServer, taken: Taken, scratch: Path
) -> None:
    _, _, fingerprint, problems, _ = taken
    assert problems == [] and fingerprint["not_exact"] == [] and fingerprint["damaged_files"] == []
    assert fingerprint["data_checksums"] and len(fingerprint["tablespaces"]) == 1
    assert server.sql("SELECT count(*) FROM pg_replication_slots") == "0", "nothing is left behind"
    source = make(server)
    with Restored(server, taken, scratch) as instance:
        checks = source.compare(instance, fingerprint)
        assert bad(checks) == []
        tables = {check.name: check for check in checks if check.level == 4 and check.name.startswith("table ")}
        assert {"table bench.public.pgbench_history", "table site.public.articles"} <= set(tables)
        assert "table site.public.cache" not in tables, "unlogged tables are empty after a recovery"
        assert "3000 rows" in tables["table site.public.articles"].actual
        (links,) = source.query(
            instance, "site", "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"
        )
        assert links[0].startswith("pg_tblspc/"), "a tablespace is not restored to where it was"
        change = [*source.client_command(instance, "site"), "-c", "UPDATE no_key SET b = '' WHERE ctid = '(0,1)'"]
        subprocess.run(change, check=True, capture_output=True)
        assert bad(source.compare(instance, fingerprint)) == ["table site.public.no_key"]


def test_a_backup_with_a_damaged_file_does_not_start(server: PostgresServer, taken: Taken, scratch: Path) -> None:
    """A relation that is not what the server sent: the server's own program says so, before anything starts."""

    class Tampered:
        def __init__(self, files: Any) -> None:
            self.files = files

        def restore(self, placer: Any, path: bytes = b"", progress: Any = None) -> list[str]:
            problems: list[str] = self.files.restore(placer, path)
            victim = max(
                (scratch / "pg" / "data" / "base").rglob("*"), key=lambda one: one.stat().st_size * one.is_file()
            )
            data = bytearray(victim.read_bytes())
            data[-100] ^= 1
            victim.write_bytes(data)
            return problems

    source = make(server)
    instance = source.boot(HOST, str(scratch / "pg").encode(), taken[2])
    with (
        SnapshotReader(taken[0], taken[1]) as reader,
        pytest.raises(DamageError, match="does not match its backup_manifest"),
    ):
        source.load(instance, Tampered(reader.files("site-db")))  # type: ignore[arg-type]  # `load` uses nothing else
    source.stop(instance)


def test_a_log_that_ends_early_is_a_bad_backup(server: PostgresServer, taken: Taken, scratch: Path) -> None:
    source = make(server)
    instance = source.boot(HOST, str(scratch / "pg").encode(), {**taken[2], "target_lsn": "7/0"})
    with (
        SnapshotReader(taken[0], taken[1]) as reader,
        pytest.raises(DamageError, match="before configured recovery target"),
    ):
        source.load(instance, reader.files("site-db"))
    assert instance.pid == 0


def test_a_flipped_page_is_stored_flagged_and_named_and_the_day_after_only_changed_pages_are_new(
    server: PostgresServer, ssh_host: SshHost
) -> None:
    """The day after: 0.1 % of the rows updated here and there, 2 % appended. At most a tenth is stored anew; and the
    server's host is reached over SSH."""
    big = "repeat(md5(n::text), 4)"
    server.sql(
        "CREATE TABLE victim AS SELECT n FROM generate_series(1, 5000) n;"
        f"CREATE TABLE big AS SELECT n AS id, {big} AS body FROM generate_series(1, 120000) n;"
        "ALTER TABLE big ADD PRIMARY KEY (id); VACUUM FREEZE ANALYZE; CHECKPOINT;",
        "bench",
    )
    path = server.sql("SELECT pg_relation_filepath('victim')", "bench")
    file = server.directory / "data" / path
    good = file.read_bytes()
    damaged = bytearray(good)
    damaged[8192 + 4000] ^= 1
    file.write_bytes(damaged)
    try:
        repository, snapshot, fingerprint, problems, written = take(server)
    finally:
        file.write_bytes(good)
    assert [one.path for one in problems] == [f"data/{path}", "bench"]
    assert "invalid page in block 1" in problems[1].message and list(fingerprint["unread"]) == ["bench"]
    assert "checksum verification failed" in problems[0].message and "block 1" in problems[0].message
    assert fingerprint["damaged_files"] == [path]
    with SnapshotReader(repository, snapshot) as reader, reader.open(f"site-db/data/{path}".encode()) as stored:
        assert stored.read() == damaged, "what the disk held is kept"
    server.sql(
        "UPDATE big SET body = md5(body) WHERE id % 1000 = 7;"
        f"INSERT INTO big SELECT n, {big} FROM generate_series(120001, 122400) n; CHECKPOINT;",
        "bench",
    )
    before, after = written.stats, take(server, repository, ssh_host)[4].stats
    server.sql("DROP TABLE victim, big;", "bench")
    share = after.data_added_packed / before.data_added_packed
    assert share <= 0.10, f"{share:.1%} of {before.data_added_packed} bytes"


def test_a_killed_connection_leaves_what_was_sent_and_no_complete_backup(server: PostgresServer) -> None:
    repository = new_repository()
    with SnapshotWriter(repository, clock=repository.clock) as writer, make(server).open(HOST, CLOCK) as session:

        def entries() -> Iterator[Any]:
            for number, entry in enumerate(session.stream()):
                if number == 5:
                    server.sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'"
                    )
                yield entry

        problems = writer.add_stream("site-db", entries())
        with pytest.raises(SourceError):
            session.fingerprint()
        writer.finish()
    assert "the source ended early" in problems[-1].message and "ended early: exit status 1" in problems[-1].message


@pytest.fixture(scope="module")
def marked(server: PostgresServer, taken: Taken) -> tuple[LogIndex, dict[str, str]]:
    """After the base backup: five rows, each behind something that a recovery can be asked for; and all of it archived."""
    at: dict[str, str] = {}
    server.sql("CREATE TABLE marks (n int); INSERT INTO marks VALUES (1);", "site")
    at["time"] = server.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
    at["xid"] = server.sql("BEGIN; INSERT INTO marks VALUES (2); SELECT pg_current_xact_id(); COMMIT;", "site")
    server.sql("SELECT pg_create_restore_point('before three');")
    at["lsn"] = server.sql("INSERT INTO marks VALUES (3); SELECT pg_current_wal_insert_lsn();", "site")
    server.sql("INSERT INTO marks VALUES (4); SELECT pg_switch_wal();", "site")
    server.sql("INSERT INTO marks VALUES (5);", "site")
    switched = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    archive = LogArchive(taken[0], taken[2]["system_identifier"])
    log = server.directory / "data" / "pg_wal"
    for name in sorted(one.name for one in log.iterdir() if is_segment_name(one.name)):
        if name <= switched:
            assert wal.push(lambda server: archive, log / name) == Pushed(True)
    assert wal.push(lambda server: archive, log / switched) == Pushed(False), "the same again is fine"
    return LogIndex.read(archive, taken[2]["segment_bytes"]), at


def goal_of(index: LogIndex, taken: Taken, target: Target) -> Goal:
    placed: dict[str, bytes] = {}
    with SnapshotReader(taken[0], taken[1]) as reader:
        files = reader.files("site-db")
        return roll_forward(
            index, taken[2], target, placed.__setitem__, lambda name: files.open(b"data/pg_wal/" + name.encode()).read()
        )


def recover(
    server: PostgresServer, taken: Taken, index: LogIndex, target: Target, directory: Path, host: Host = HOST
) -> tuple[PostgresqlSource, Instance, list[str]]:
    source = make(server)
    instance = source.boot(host, str(directory / "pg").encode(), taken[2])
    with SnapshotReader(taken[0], taken[1]) as reader:
        notes = source.recover(
            instance, reader.files("site-db"), lambda place, own: roll_forward(index, taken[2], target, place, own)
        )
    return source, instance, notes


def test_every_kind_of_target_is_one_exact_record(taken: Taken, marked: tuple[LogIndex, dict[str, str]]) -> None:
    index, at = marked
    assert index.holes() == [] and index.bad == []
    instant = datetime.fromisoformat(at["time"]).replace(tzinfo=UTC)
    by_time = goal_of(index, taken, Target("time", time=instant))
    by_xid = goal_of(index, taken, Target("xid", xid=int(at["xid"])))
    by_name = goal_of(index, taken, Target("point", name="before three"))
    by_lsn = goal_of(index, taken, Target("lsn", lsn=parse_lsn(at["lsn"])))
    latest = goal_of(index, taken, Target("latest"))
    assert by_time.lsn < by_xid.lsn < by_name.lsn < by_lsn.lsn < latest.lsn
    assert by_time.last_commit and by_time.last_commit <= instant < (by_xid.last_commit or EPOCH)
    assert by_name.last_commit == by_xid.last_commit and (latest.last_commit or EPOCH) > (by_lsn.last_commit or EPOCH)
    assert base_for([taken[2]], index, Target("xid", xid=int(at["xid"]))) is taken[2]
    beyond = Target("time", time=instant + timedelta(days=1))
    for target in (beyond, Target("xid", xid=1), Target("point", name="never made"), Target("lsn", lsn=1 << 50)):
        with pytest.raises(NoSuchError, match="does not reach"):
            goal_of(index, taken, target)
    for early in (Target("time", time=instant - timedelta(days=1)), Target("lsn", lsn=1)):
        with pytest.raises(NoSuchError, match="no base backup from before"):
            base_for([taken[2]], index, early)


def test_recovered_to_a_named_point_then_promoted_and_followed_onto_its_timeline(
    server: PostgresServer, taken: Taken, marked: tuple[LogIndex, dict[str, str]], scratch: Path, ssh_host: SshHost
) -> None:
    index, _ = marked
    source, instance, notes = recover(server, taken, index, Target("point", name="before three"), scratch)
    try:
        assert "recovered to LSN" in notes[0] and "on timeline 1" in notes[0] and "committed at" in notes[0]
        assert source.query(instance, "site", "SELECT string_agg(n::text, ',') FROM marks") == [["1,2"]]
        change = [*source.client_command(instance, "site"), "-XAtqc"]
        subprocess.run([*change, "INSERT INTO marks VALUES (20)"], check=True, capture_output=True)
        switch = [*change, "SELECT pg_walfile_name(pg_switch_wal())"]
        switched = subprocess.run(switch, check=True, capture_output=True, text=True).stdout.strip()
        for name in ("00000002.history", switched):
            wal.push(lambda server: index.archive, scratch / "pg" / "data" / "pg_wal" / name)
    finally:
        source.stop(instance)
    after = LogIndex.read(index.archive, index.segment_bytes)
    assert list(after.histories) == [2]
    followed, old = goal_of(after, taken, Target("latest")), goal_of(after, taken, Target("latest", timeline=1))
    assert (followed.timeline, old.timeline) == (2, 1)
    assert old == goal_of(index, taken, Target("latest"))
    shutil.rmtree(scratch / "pg")
    source, instance, notes = recover(server, taken, after, Target("latest"), scratch, ssh_host)
    try:
        assert "on timeline 2" in notes[0]
        assert source.query(instance, "site", "SELECT string_agg(n::text, ',') FROM marks") == [["1,2,20"]]
    finally:
        source.stop(instance)
        for name in set(index.archive.names()) - index.names:
            index.archive.delete(name)


def test_a_segment_is_missing_damaged_or_bad_inside(
    server: PostgresServer, taken: Taken, marked: tuple[LogIndex, dict[str, str]], scratch: Path
) -> None:
    index, at = marked
    archive = index.archive
    before = sorted(one for one in index.names if is_segment_name(one))[-2]
    by_lsn = Target("lsn", lsn=parse_lsn(at["lsn"]))
    latest = goal_of(index, taken, Target("latest"))
    stored = archive.get(before)

    archive.delete(before)
    holed = LogIndex.read(archive, index.segment_bytes)
    assert [one.end - one.start for one in holed.holes()] == [index.segment_bytes]
    assert goal_of(holed, taken, Target("latest")).lsn < latest.lsn, "no recovery leads across a hole"
    with pytest.raises(NoSuchError, match="does not reach"):
        goal_of(holed, taken, by_lsn)

    archive._store.put(archive._directory + before, b"cut short")
    with pytest.raises(DamageError, match=before):
        goal_of(LogIndex.read(archive, index.segment_bytes), taken, by_lsn)
    archive.delete(before)

    with pytest.raises(UserError, match="is segment"):
        wal.push_content(lambda server: archive, "0000000100000000000000EE", stored, "")
    flipped = bytearray(stored)
    flipped[parse_lsn(at["lsn"]) % index.segment_bytes - 12] ^= 0xFF  # within the commit of the third row
    pushed = wal.push_content(lambda server: archive, before, bytes(flipped), "")
    assert pushed.new and "is not what its length and CRC say" in pushed.damage
    assert wal.push_content(lambda server: archive, before, bytes(flipped), "") == replace(pushed, new=False)
    damaged = LogIndex.read(archive, index.segment_bytes)
    assert damaged.damaged == {before} and damaged.holes() == []
    assert goal_of(damaged, taken, Target("point", name="before three")).lsn < parse_lsn(at["lsn"])
    with pytest.raises(DamageError, match=f"in segment {before}, is not what its length and CRC say") as told:
        goal_of(damaged, taken, Target("latest"))
    last = Target("lsn", lsn=parse_lsn(told.value.next_step.rpartition("lsn:")[2]))
    assert goal_of(damaged, taken, last).lsn == last.lsn, "what it says to do leads there"
    for name in (before, before + ".damaged"):
        archive.delete(name)
    wal.push_content(lambda server: archive, before, stored, "")
    healed = LogIndex.read(archive, index.segment_bytes)
    assert goal_of(healed, taken, Target("latest")) == latest

    source = make(server)
    instance = source.boot(HOST, str(scratch / "pg").encode(), taken[2])

    def on_the_way(place: Callable[[str, bytes], None], own: Callable[[str], bytes]) -> Goal:
        def damaging(name: str, content: bytes) -> None:
            place(name, bytes(flipped) if name == before else content)

        return roll_forward(healed, taken[2], Target("latest"), damaging, own)

    with SnapshotReader(taken[0], taken[1]) as reader, pytest.raises(DamageError, match="cannot recover to"):
        source.recover(instance, reader.files("site-db"), on_the_way)


def test_received_over_a_slot_what_was_committed_seconds_ago_can_be_recovered(
    server: PostgresServer, taken: Taken, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "backupctl.yaml").write_text(
        "repositories: {offsite: {storage: {local: {path: repo}}, password: {file: key}}}\n"
        "jobs: {site: {owner: web, class: low, repository: offsite, objectives: {rpo: 1h, rto: 1h},\n"
        f"  sources: {{db: {{postgresql: {{conninfo: '{server.conninfo}', method: physical,\n"
        f"    wal: {{slot: received, spool: '{tmp_path}/spool', every: 1}}}}}}}}}}}}\n"
    )
    server.sql("CREATE TABLE received (n int);", "site")
    at: dict[str, int] = {}
    with Context.open(load(tmp_path / "backupctl.yaml")) as context:
        create_repository(context, "offsite")
        archive = LogArchive(context.resources.repository("offsite"), taken[2]["system_identifier"])

        def stop() -> bool:
            """Once it receives, a segment is made whole and another is begun; until that is stored, it goes on."""
            slot = server.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'received'")
            if not at and slot == "t":
                at["first"] = parse_lsn(server.sql("INSERT INTO received VALUES (1); SELECT pg_switch_wal();", "site"))
                at["last"] = parse_lsn(
                    server.sql("INSERT INTO received VALUES (2); SELECT pg_current_wal_insert_lsn();", "site")
                )
            index = LogIndex.read(archive, taken[2]["segment_bytes"])
            return bool(at) and any(parse_lsn(index.facts(one)["end"]) >= at["last"] - 8 for one in index.opened)

        assert receive(context, context.settings.jobs["site"], stop=stop) >= 1
        server.sql("SELECT pg_drop_replication_slot('received');")
        index = LogIndex.read(archive, taken[2]["segment_bytes"])
        assert index.holes() == [] and len(index.opened) == 1
        (span,) = index.spans()
        assert span.start <= at["first"] and at["last"] <= span.end
        (name,) = index.opened.values()
        assert len(fetch(archive, name[:24])) == taken[2]["segment_bytes"], "a server that fetches gets it, filled up"
        assert index.facts(name[:24])["commits"] >= 1
        assert [one.name for one in (tmp_path / "spool").iterdir()] == [f"{name[:24]}.partial"], (
            "what is stored leaves the spool"
        )


def test_the_log_is_read_as_pg_waldump_reads_it(server: PostgresServer) -> None:
    server.sql("SELECT pg_switch_wal();")
    server.sql(
        "CREATE TABLE t AS SELECT repeat('x', 3000) FROM generate_series(1, 900); SELECT pg_create_restore_point('here');",
        "bench",
    )
    server.sql("".join(f"INSERT INTO t VALUES ('{n}');" for n in range(200)) + "DROP TABLE t;", "bench")
    name = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    server.sql("SELECT pg_switch_wal();")
    segment = server.directory / "data" / "pg_wal" / name
    data = segment.read_bytes()
    header = read_header(data)
    assert header.system == server.sql("SELECT system_identifier FROM pg_control_system()")
    reader = WalReader(header.lsn, header.size)
    events = [event for at in range(0, len(data), 10007) for event in reader.feed(data[at : at + 10007])]
    dumped = subprocess.run(
        [server.programs / "pg_waldump", segment], capture_output=True, text=True
    ).stdout.splitlines()
    lsns = [line.split("lsn: ")[1].split(",")[0] for line in dumped if "desc: COMMIT" in line]
    assert [f"{e.lsn >> 32:X}/{e.lsn & 0xFFFFFFFF:08X}" for e in events if e.kind == "commit"] == lsns and len(
        lsns
    ) > 200
    assert [event.name for event in events if event.kind == "restore_point"] == ["here"]
    assert events[-1].kind == "switch" and not reader.ended and reader.end == header.lsn + header.size, format_lsn(
        reader.end
    )


def test_preflight_tries_what_a_physical_backup_needs(server: PostgresServer) -> None:
    assert not [one for one in make(server).preflight(HOST) if one.severity == "error"]
    options = PostgresqlOptions(
        conninfo=server.conninfo.replace("user=postgres", "user=nobody_special"), method="physical"
    )
    server.sql("CREATE ROLE nobody_special LOGIN IN ROLE pg_read_all_data;")
    found = PostgresqlSource("db", options, lambda ref: b"").preflight(HOST)
    server.sql("DROP ROLE nobody_special;")
    assert any(one.severity == "error" and "no replication connection" in one.message for one in found)
