"""Binary logs of MySQL: stored, checked, and followed from a dump to a point in time; gaps and damage are refused."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.sources.binlog_format import BinlogDamage, BinlogReader
from backupctl.sources.gtids import DomainGtids, SourceGtids
from backupctl.sources.mariadb_binlog import read_whole
from backupctl.sources.mariadb_family import MARIADB, MYSQL
from backupctl.sources.mysql import MysqlOptions, MysqlSource
from backupctl.sources.mysql_binlog_events import read_previous
from backupctl.sources.protocol import BeforeBackupError
from tests.sources.helpers import HOST, MemoryFiles, bad, take
from tests.sources.restored import loaded, scratch_directory, throw_away

pytestmark = pytest.mark.servers
HOUR = 3600
BEGUN = 1_790_000_000
WRITES = (
    "INSERT INTO shop.t VALUES (1, 'plain'); FLUSH BINARY LOGS;",
    "SET SESSION binlog_transaction_compression = ON; INSERT INTO shop.t SELECT 1000 + id, REPEAT('compressed ', 100) FROM shop.t;",
    "CREATE TABLE shop.u (a INT) ENGINE=MyISAM; CREATE USER later@localhost IDENTIFIED BY 'x'; FLUSH BINARY LOGS;",
    "INSERT INTO shop.u VALUES (4);",
    "XA START 'x'; INSERT INTO shop.t VALUES (5, 'xa'); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'; FLUSH BINARY LOGS;",
    "BEGIN; DELETE FROM shop.t WHERE id = 1; UPDATE shop.t SET x = 'changed' WHERE id = 5; COMMIT;",
)
"""After the backup, an hour apart."""


@dataclass
class History:
    """`marks`: after each of WRITES, position, last GTID, time, and what the tables then held."""

    source: MysqlSource
    files: MemoryFiles
    fingerprint: dict
    logs: MemoryFiles
    log_facts: dict
    marks: list[tuple[str, str, datetime, str]]

    @property
    def stored(self):
        return [(self.log_facts, self.logs)]

    def without(self, number):
        """The stored logs without the one of that place after the backup's."""
        names = self.logs.names(b"binlog")
        gone = names[names.index(self.fingerprint["binary_log"][0].encode()) + number]
        return [(self.log_facts, MemoryFiles({k: v for k, v in self.logs.content.items() if not k.endswith(gone)}))]


SHOWN = "SELECT GROUP_CONCAT(CONCAT(id, '=', CRC32(x)) ORDER BY id) FROM shop.t;"


@pytest.fixture(scope="module")
def history(mysql_server, mysql_programs):
    server = mysql_server
    # times here are of our own choosing: what others committed today must not lie in the log where the backup begins
    server.sql("FLUSH BINARY LOGS")
    options = {"socket": server.socket, "user": "root", "bin_dir": str(mysql_programs / "bin")}
    server.sql(
        f"SET timestamp = {BEGUN - HOUR}; CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, x TEXT);"
    )
    server.sql(f"SET timestamp = {BEGUN - HOUR}; INSERT INTO shop.t VALUES (0, 'there before');")
    source = MysqlSource("shop", MysqlOptions(**options), lambda ref: b"")
    files, fingerprint = take(source)
    marks = []
    for number, write in enumerate(WRITES, 1):
        time = BEGUN + number * HOUR
        server.sql(f"SET timestamp = {time}; {write}")
        file, offset, *_, executed = server.sql("SHOW BINARY LOG STATUS; SELECT @@GLOBAL.gtid_executed;").split()
        gtid = f"{executed.rpartition(':')[0]}:{executed.rpartition('-')[2]}"
        marks.append((f"{file}:{offset}", gtid, datetime.fromtimestamp(time, UTC), server.sql(SHOWN)))
    logging = MysqlSource("log", MysqlOptions(**options, method="binlog"), lambda ref: b"")
    assert not [one for one in logging.preflight(HOST) if one.severity != "info" and "MyISAM" not in one.message]
    logs, facts = take(logging)
    return History(source, files, fingerprint, logs, facts, marks)


@pytest.fixture(scope="module")
def shared(history):
    with throw_away(history.source, history.fingerprint) as instance:
        yield instance


def find(history, until, stored=None):
    return history.source.find(history.fingerprint, stored or history.stored, until)


def test_what_is_stored_is_what_the_server_wrote(history, mysql_server):
    for path, content in history.logs.content.items():
        if path.startswith(b"binlog/"):
            written = (mysql_server.directory / "data" / path.decode().partition("/")[2]).read_bytes()
            assert content[:21] + content[22:] == written[:21] + written[22 : len(content)], "but for the flag `in use`"
    assert history.log_facts["kind"] == "mysql"
    groups = []
    names = history.logs.names(b"binlog")
    for name in names[names.index(history.fingerprint["binary_log"][0].encode()) :]:
        read_whole(history.logs.open(b"binlog/" + name), BinlogReader(groups.append))
    assert groups[-1].gtid == history.marks[-1][1]
    assert f"{groups[-1].time}" == f"{BEGUN + len(WRITES) * HOUR}"


def test_every_way_to_name_a_point_leads_to_the_same_place(history):
    for _, gtid, time, _ in history.marks[:-1]:
        names = (gtid, gtid.upper(), time, time + timedelta(minutes=59))
        assert len({find(history, one) for one in names}) == 1, gtid
    assert find(history, None) == find(history, history.marks[-1][0]) == find(history, history.marks[-1][1])


def test_recovery_to_each_point_has_what_was_committed_by_then_and_nothing_else(history, shared):
    """The last one by each name of it; all writes are replayed once, the compressed, the prepared and the definitions."""
    source = history.source
    for until, shown, later in (
        (history.marks[1][2], history.marks[1][3], "0"),
        (history.marks[4][1], history.marks[4][3], "1"),
        (None, history.marks[5][3], "1"),
    ):
        HOST.run(["rm", "-rf", f"{shared.directory.decode()}/recovery"], check=True)

        class Recovering:
            """`loaded` loads a source; this one follows the logs as well."""

            def load(self, instance, files, until=until):
                return source.load_until(instance, files, history.fingerprint, history.stored, until)

        with loaded(shared, Recovering(), history.files) as instance:
            assert any(note.startswith("recovered from bin.") for note in instance.notes)
            assert source.query(instance, "shop", SHOWN) == [[shown]]
            asked = "SELECT COUNT(*) FROM mysql.user WHERE user = 'later'"
            assert source.query(instance, "mysql", asked) == [[later]]


def test_what_the_logs_do_not_reach_is_refused_with_how_far_they_go(history):
    uuid = history.marks[0][1].partition(":")[0]
    for beyond in (f"{uuid}:99999", "bin.000999:4", datetime(2040, 1, 1, tzinfo=UTC)):
        with pytest.raises(NoSuchError, match=r"do not reach .*; they reach bin\."):
            find(history, beyond)
    with pytest.raises(BeforeBackupError):
        find(history, f"{uuid}:1")
    with pytest.raises(NoSuchError, match="do not reach 0-1-4711"):  # MariaDB's form
        find(history, "0-1-4711")
    with pytest.raises(UsageError, match="nor a GTID"):
        find(history, f"{uuid}:x")


def test_a_missing_log_is_a_gap(history):
    with pytest.raises(DamageError, match=r"bin\.0\d+ is missing before bin"):
        find(history, None, history.without(2))
    assert find(history, history.marks[0][2], history.without(2)) == find(history, history.marks[0][2])
    with pytest.raises(NoSuchError, match="no stored binary log"):
        find(history, None, history.without(0))


def test_a_flipped_byte_ends_what_can_be_reached(history):
    file, _, offset = history.marks[3][0].partition(":")
    path = f"binlog/{file}".encode()
    for change in (
        lambda whole, at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
        lambda whole, at: whole[:at],
    ):
        damaged = MemoryFiles({**history.logs.content, path: change(history.logs.content[path], int(offset) - 10)})
        with pytest.raises(DamageError, match=r"is damaged|in the middle of the event") as caught:
            find(history, None, [(history.log_facts, damaged)])
        assert caught.value.next_step.startswith(f"--at {find(history, history.marks[2][2])}")


def test_a_drill_reads_every_event_of_the_logs(history, mysql_programs):
    source = MysqlSource("log", MysqlOptions(method="binlog"), lambda ref: b"")
    name = history.logs.names(b"binlog")[1]
    path = b"binlog/" + name
    for content, wrong in (
        (history.logs.content, []),
        ({**history.logs.content, path: history.logs.content[path][:-9]}, ["binary logs"]),
        ({one: data for one, data in history.logs.content.items() if one != path}, ["binary logs"]),
    ):
        with scratch_directory() as directory:
            instance = source.boot(HOST, str(directory / "logs").encode(), history.log_facts)
            source.load(instance, MemoryFiles(content))
            assert bad(source.compare(instance, history.log_facts)) == wrong
            source.stop(instance)


def event(kind, body, at):
    return struct.pack("<IBIIIH", 1, kind, 1, 19 + len(body), at + 19 + len(body), 0) + body


def test_gtids_with_tags_are_refused():
    with pytest.raises(BinlogDamage, match="tags"):
        read_whole(io.BytesIO(b"\xfebin" + event(42, b"\0" * 40, 4)), BinlogReader())
    with pytest.raises(BinlogDamage, match="tags"):
        read_whole(io.BytesIO(b"\xfebin" + event(35, struct.pack("<Q", 1 << 56 | 1 << 8), 4)), BinlogReader())


def test_sets_of_gtids():
    server = "cc44d013-ec02-11f1-ab98-02fc00000001"
    held = SourceGtids()
    for number in (5, 1, 2, 4, 7, 3):
        assert not held.repeats(server, number)
        held.add(server, number)
    assert held == {server: ((1, 5), (7, 7))} and str(held) == f"{server}:1-5:7"
    assert (
        held.repeats(server, 3)
        and held.holds(f"{server}:7")
        and not held.holds(f"{server}:6")
        and not held.holds("0-1-3")
    )
    body = struct.pack("<Q16sQqqqq", 1, UUID(server).bytes, 2, 1, 6, 7, 8)
    assert read_previous(memoryview(body)) == held
    domains = DomainGtids({"0": 7})
    assert domains.holds("0-1-7") and not domains.holds("0-1-8") and not domains.holds(f"{server}:1")
    assert (str(domains), str(SourceGtids())) == ("0-*-7", "nothing")


def test_where_the_log_is_asked_in_the_words_of_the_version():
    asked = [(MYSQL, "8.0.36"), (MYSQL, "8.4.3-log"), (MARIADB, "11.8.3-MariaDB")]
    assert [family.log_status(version) for family, version in asked] == ["MASTER", "BINARY LOG", "MASTER"]


def test_receiving_is_refused_with_what_there_is_instead():
    with pytest.raises(ValueError, match="`method: binlog`"):
        MysqlOptions(binlog={})
