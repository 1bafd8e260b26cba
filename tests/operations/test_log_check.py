"""`check` and the archived logs: what is damaged or missing is named, with the backups from which nothing leads across it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backupctl.operations.binlog_receive import ReceivedLog
from backupctl.operations.log_check import LogReport, check_logs
from backupctl.operations.log_gaps import Backups
from backupctl.operations.wal import push_content
from backupctl.repository.ledger import Ledger
from backupctl.repository.log_archive import LogArchive, list_objects
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import Piece, ReceivedLogs, archive_of
from backupctl.sources.wal_format import parse_lsn, segment_name
from backupctl.storage.memory import MemoryStore
from tests.operations.test_wal_expiry import SEGMENT, base_backup, saved
from tests.repository.helpers import new_repository
from tests.servers.databases import PostgresServer, mariadb_server

pytestmark = pytest.mark.servers


def checked(repository: Repository, *, read_data: bool = True, budget: int | None = None) -> LogReport:
    backups = Backups.read(repository, repository.snapshots())
    objects = list_objects(repository)
    return check_logs(repository, objects, backups, Ledger(repository), read_data=read_data, budget=budget)


@dataclass
class Log:
    """An archive of whole segments, `names` in order."""

    repository: Repository
    archive: LogArchive
    names: list[str]

    def path(self, name: str) -> str:
        return self.archive.directory + name

    def change(self, name: str, edit: Callable[[bytes], bytes]) -> None:
        store = self.repository.store
        store.put(self.path(name), edit(store.get(self.path(name))))


@pytest.fixture(scope="module")
def segments(postgres_server: PostgresServer) -> dict[str, bytes]:
    """Four, of a server that wrote them one after the other; a record runs on from the second into the third."""
    begin = parse_lsn(
        postgres_server.sql("SELECT pg_walfile_name(pg_switch_wal()); SELECT pg_current_wal_lsn()").split()[-1]
    )
    begin += -begin % SEGMENT
    postgres_server.sql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 9000000)) FROM generate_series(1, 6)")
    postgres_server.sql("SELECT pg_create_restore_point('end'); SELECT pg_switch_wal()")
    names = [segment_name(1, begin + number * SEGMENT, SEGMENT) for number in range(4)]
    return {name: (postgres_server.directory / "data" / "pg_wal" / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def archived(segments: dict[str, bytes]) -> Log:
    """Backups before the first segment and behind the third."""
    repository = new_repository()
    server = ""
    for name, content in segments.items():
        archives: list[LogArchive] = []

        def archive(said: str, archives: list[LogArchive] = archives) -> LogArchive:
            archives.append(LogArchive(repository, said))
            return archives[0]

        push_content(archive, name, content, "")
        server = archives[0].server
    first = int(next(iter(segments))[16:], 16)
    base_backup(repository, 2, first, server)
    base_backup(repository, 4, first + 3, server)
    return Log(repository, LogArchive(repository, server), list(segments))


def own(log: Log) -> Log:
    store = MemoryStore()
    for info in log.repository.store.list(""):
        store.put(info.name, log.repository.store.get(info.name))
    repository = Repository.open(store, "secret", clock=log.repository.clock)
    return Log(repository, LogArchive(repository, log.archive.server), log.names)


@pytest.fixture
def log(archived: Log) -> Log:
    return own(archived)


def test_a_sound_log_is_read_to_its_last_record(log: Log) -> None:
    report = checked(log.repository)
    assert (report.problems, report.hints) == ([], [])
    assert (report.objects_read, report.bytes_read) == (4, report.bytes) and report.bytes > 0
    structure = checked(log.repository, read_data=False)
    assert (structure.problems, structure.hints, structure.bytes_read) == ([], [], 0)


def test_a_flipped_byte_is_found_by_reading(log: Log) -> None:
    log.change(log.names[1], lambda data: data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])
    assert checked(log.repository, read_data=False).problems == []
    report = checked(log.repository)
    (problem,) = report.problems
    assert problem.object_name == log.path(log.names[1])
    first, _ = log.repository.snapshots()
    assert problem.snapshots == [first.id]
    assert "on timeline 1" in problem.message and "cannot be read" in problem.message
    assert problem.message.endswith("can be recovered, up to the next backup, of 2026-11-26T00:00:00Z")
    assert Ledger(log.repository).is_bad(next(one.id for one in report.objects.values() if one.segment == log.names[1]))
    assert len(checked(log.repository, budget=1).problems) == 1, "what was bad is read again, whatever the budget"


def test_a_cut_object_and_one_of_another_segment_are_found_without_reading(log: Log) -> None:
    log.change(log.names[0], lambda data: data[:-1])
    log.change(log.names[3], lambda _: log.repository.store.get(log.path(log.names[2])))
    cut, swapped = checked(log.repository, read_data=False).problems
    assert cut.object_name == log.path(log.names[0]) and "were stored" in cut.message
    assert swapped.object_name == log.path(log.names[3]) and "another segment than its name says" in swapped.message
    assert [len(one.snapshots) for one in (cut, swapped)] == [1, 2]
    assert swapped.message.endswith("can be recovered; back up again")


def test_a_missing_segment_is_a_gap_that_strands_the_backups_before_it(log: Log) -> None:
    log.archive.delete(log.names[1])
    (problem,) = checked(log.repository, read_data=False).problems
    assert problem.object_name == log.path(log.names[1]) and "1 segment(s)" in problem.message
    first, _ = log.repository.snapshots()
    assert problem.snapshots == [first.id]
    log.repository.delete_snapshot(first.id)
    report = checked(log.repository, read_data=False)
    assert report.problems == [] and len(report.hints) == 1, "no backup that is kept leads there"


def test_log_that_was_damaged_before_it_was_archived(log: Log, segments: dict[str, bytes]) -> None:
    """Sound as an object: the length of a record was overwritten on the server."""
    content = bytearray(segments[log.names[1]])
    content[8192:8216] = bytes(24)
    log.archive.delete(log.names[1])
    push_content(lambda server: log.archive, log.names[1], bytes(content), "")
    assert checked(log.repository, read_data=False).problems == []
    (problem,) = checked(log.repository).problems
    assert problem.object_name == log.path(log.names[1]) and "cannot be read on from" in problem.message


def test_a_flipped_bit_in_a_record_is_told_when_it_is_archived_and_by_every_check(
    log: Log, segments: dict[str, bytes]
) -> None:
    """Sound as an object, and stored: a server that cannot archive stops."""
    content = bytearray(segments[log.names[0]])
    content[100] ^= 1  # of the first record that begins in it
    log.archive.delete(log.names[0])
    pushed = push_content(lambda server: log.archive, log.names[0], bytes(content), "")
    assert pushed.new and "is not what its length and CRC say" in pushed.damage
    for read_data in (False, True):
        (problem,) = checked(log.repository, read_data=read_data).problems
        assert problem.object_name == log.path(log.names[0]) and "length and CRC" in problem.message
        assert problem.snapshots == [log.repository.snapshots()[0].id]


def test_a_timeline_without_its_history_or_what_leads_to_it(log: Log, segments: dict[str, bytes]) -> None:
    """The third segment belongs to timeline 2, which left the first within it."""
    branch = "00000002" + log.names[2][8:]
    log.archive.put(branch, segments[log.names[2]], log.archive.look(log.names[2]).facts)
    for name in log.names[2:]:
        log.archive.delete(name)
    (problem,) = checked(log.repository).problems
    assert problem.object_name == log.path("00000002.history") and len(problem.snapshots) == 2
    place = f"{int(log.names[2][8:16], 16):X}/{int(log.names[2][16:], 16):X}000100"
    log.archive.put("00000002.history", f"1\t{place}\tno recovery target specified\n".encode(), {})
    assert checked(log.repository).problems == []
    log.archive.delete(log.names[1])
    (problem,) = checked(log.repository).problems
    assert problem.object_name == log.path(log.names[1])


def test_what_nobody_can_read_is_named(log: Log) -> None:
    log.repository.store.put("backupctl/log/0123/thing", b"junk")
    (problem,) = checked(log.repository).problems
    assert problem.object_name == "backupctl/log/0123/thing" and "whose log" in problem.message


def test_a_budget_goes_round(log: Log) -> None:
    assert [checked(log.repository, read_data=False, budget=1).objects_read for _ in range(4)] == [1] * 4
    ledger = Ledger(log.repository)
    never = ledger.coverage({one.id: one.size for one in list_objects(log.repository)}, {}).never_read_packs
    assert never == 0


@pytest.fixture(scope="module")
def binlogs() -> Iterator[dict[str, bytes]]:
    """Three logs that follow one another."""
    with mariadb_server("--log-bin=bin", "--server-id=1") as server:
        server.sql("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY);")
        for number in range(3):
            for row in range(4):
                server.sql(f"INSERT INTO shop.orders VALUES ({10 * number + row})")
            server.sql("FLUSH BINARY LOGS")
        names = [one.split()[0] for one in server.sql("SHOW BINARY LOGS").splitlines()][-4:-1]
        yield {name: (Path(server.directory) / "data" / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def stored(binlogs: dict[str, bytes]) -> Log:
    """In pieces; backups in the first log and in the third."""
    repository = new_repository()
    archive = archive_of(repository, "uid")
    for name, content in binlogs.items():
        log = ReceivedLog(archive, name, [])
        for at in range(0, len(content), 200):
            log.feed(content[at : at + 200])
            log.store()
    for number, name in ((2, next(iter(binlogs))), (4, list(binlogs)[2])):
        time = f"2026-11-{22 + number}T00:00:00Z"
        facts = {"kind": "mariadb", "server_uid": "uid", "binary_log": [name, 256], "time": time}
        saved(repository, number, "mariadb", facts)
    pieces = [piece.name for file in ReceivedLogs(archive).files.values() for piece in file]
    assert len(pieces) >= 9
    return Log(repository, archive, pieces)


@pytest.fixture
def received(stored: Log) -> Log:
    return own(stored)


def test_sound_binary_logs_are_read_event_by_event(received: Log) -> None:
    report = checked(received.repository)
    assert (report.problems, report.hints, report.objects_read) == ([], [], len(received.names))


def piece_in(log: Log, file: int) -> str:
    """One in the middle of a log."""
    files = list(ReceivedLogs(log.archive).files.values())
    return files[file][1].name


def test_a_flipped_byte_in_a_piece_is_found_by_reading(received: Log) -> None:
    name = piece_in(received, 1)
    received.change(name, lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    (problem,) = checked(received.repository).problems
    assert problem.object_name == received.path(name)
    assert problem.snapshots == [received.repository.snapshots()[0].id]
    assert problem.message.endswith("up to the next backup, of 2026-11-26T00:00:00Z")


def test_a_piece_whose_events_are_not_what_their_checksums_say(received: Log) -> None:
    """Sound as an object: stored by somebody who did not look."""
    name = piece_in(received, 1)
    content, facts = received.archive.get(name), received.archive.look(name).facts
    received.archive.delete(name)
    received.archive.put(name, content[:30] + bytes([content[30] ^ 1]) + content[31:], facts)
    (problem,) = checked(received.repository).problems
    assert "the checksum of an event does not match" in problem.message


def test_facts_that_say_nothing_are_damage(received: Log) -> None:
    name = piece_in(received, 1)
    content = received.archive.get(name)
    received.archive.delete(name)
    received.archive.put(name, content, {"log": {}})
    (problem,) = checked(received.repository).problems
    assert "its facts say nothing of a binary log" in problem.message


def test_a_missing_piece_and_a_missing_log_are_gaps(received: Log) -> None:
    name = piece_in(received, 1)
    received.archive.delete(name)
    (problem,) = checked(received.repository, read_data=False).problems
    assert problem.object_name == received.path(name) and len(problem.snapshots) == 1
    for piece in (
        list(ReceivedLogs(received.archive).rest.values())[1] + list(ReceivedLogs(received.archive).files.values())[1]
    ):
        received.archive.delete(piece.name)
    (problem,) = checked(received.repository, read_data=False).problems
    third = list(ReceivedLogs(received.archive).files.values())[-1][0]
    assert problem.object_name == received.path(third.name) and "is missing" in problem.message
    assert problem.snapshots == [received.repository.snapshots()[0].id]


def test_pieces_that_are_put_together_meanwhile_are_no_gap(received: Log) -> None:
    """Listed before, gone afterwards."""
    objects = list_objects(received.repository)
    file, pieces = next(iter(ReceivedLogs(received.archive).files.items()))
    whole = b"".join(received.archive.get(one.name) for one in pieces)
    received.archive.put(Piece(file, 0, len(whole)).name, whole, received.archive.look(pieces[-1].name).facts)
    for piece in pieces:
        received.archive.delete(piece.name)
    backups = Backups.read(received.repository, received.repository.snapshots())
    ledger = Ledger(received.repository)
    report = check_logs(received.repository, objects, backups, ledger, read_data=True, budget=None)
    assert report.problems == []
