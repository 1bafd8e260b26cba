"""The archived log of a PostgreSQL server: each kind of damage, and none."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from backupctl.sources.wal_format import WalReader, is_segment_name, parse_lsn, read_header
from tests.damage.log_stage import Damage, LogStage, grow_old
from tests.damage.matrix import HEALTHY_ROUNDS_OF_A_SOAK, Case
from tests.damage.rows.postgresql_log import BRANCH, FIRST, ROWS, SECOND, THIRD
from tests.damage.stage import Edit, flipped_near_the_end, halved, stage, wrong_key
from tests.servers.databases import PostgresServer, postgres_directory, postgres_server
from tests.servers.plugin_databases import missing
from tests.soak import rounds

pytestmark = pytest.mark.servers
SEGMENT_BYTES = 1 << 20
BACKUP_AT, LOG_FROM = 0x20, 0x26  # numbers of segments


def forward(server: PostgresServer, segment: int) -> None:
    """Until the server writes that segment, whatever it took to be made."""
    while (at := parse_lsn(server.sql("SELECT pg_current_wal_insert_lsn()")) // SEGMENT_BYTES) < segment:
        server.sql("SELECT pg_logical_emit_message(true, 'next', 'segment'); SELECT pg_switch_wal()")
    assert at == segment


def push(log: LogStage) -> None:
    """What the server's archiver would do by now."""
    shop: PostgresServer = log.stage.server
    newest = shop.sql("SELECT pg_walfile_name(pg_switch_wal())")
    files = sorted(one for one in (shop.directory / "data" / "pg_wal").iterdir() if is_segment_name(one.name))
    for file in files:
        if (log.segments[-1:] or [f"{BACKUP_AT:024X}"])[0][8:] < file.name[8:] and file.name <= newest:
            log.stage.site.run("wal-push", "site/db", str(file))
            log.segments.append(file.name)


@pytest.fixture(scope="module")
def log() -> Iterator[LogStage]:
    directory = postgres_directory()
    if directory is None:
        missing("postgresql")
    made = [f"--wal-segsize={SEGMENT_BYTES >> 20}"]
    with (
        postgres_server(directory, initdb=made, wal_keep_size="500MB", shared_buffers="16MB") as shop,
        stage("postgresql", f"{{conninfo: '{shop.conninfo}', method: physical, wal: archive}}", shop) as made_stage,
    ):
        forward(shop, BACKUP_AT)
        with made_stage.prepared():
            made_stage.site.run("run")
            forward(shop, LOG_FROM)
            shop.sql("CREATE TABLE sales (n int); INSERT INTO sales VALUES (1);")
            for length, number in (
                (90_000, 9),
                (400_000, 1),
                (90_000, 30),
            ):  # the long one runs on into the second segment
                shop.sql(
                    f"SELECT pg_logical_emit_message(true, 'x', repeat('y', {length})) FROM generate_series(1, {number});"
                )
            log = LogStage(made_stage, shop.sql("SELECT system_identifier FROM pg_control_system()"))
            push(log)
        assert {FIRST, SECOND, THIRD} <= set(log.segments)
        yield log


def other_server(content: bytes) -> bytes:
    (system,) = struct.unpack_from("<Q", content, 24)
    return content[:24] + struct.pack("<Q", system + 1) + content[32:]


def other_timeline(content: bytes) -> bytes:
    return content[:4] + struct.pack("<I", 2) + content[8:]


def flipped(place: int) -> Edit:
    return lambda content: content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]


def in_a_record(behind: int) -> Edit:
    """So many bytes into the first record that begins in the second half; its length is at 0, its content from 24 on."""

    def change(content: bytes) -> bytes:
        places: list[int] = []
        reader = WalReader(
            read_header(content).lsn, SEGMENT_BYTES, lambda *record: places.append(record[3] % SEGMENT_BYTES)
        )
        reader.feed(content)
        return flipped(min(place for place in places if place > len(content) // 2) + behind)(content)

    return change


def of_server(log: LogStage) -> None:
    with log.archive() as archive:
        content, facts = archive.get(SECOND), archive.look(SECOND).facts
        archive.delete(SECOND)
        archive.put(SECOND, other_server(content), {**facts, "system": str(int(log.server) + 1)})


def pushing(change: Edit) -> Damage:
    """On its way to the archive, which holds the right one already."""

    def damage(log: LogStage) -> None:
        with log.archive() as archive:
            content = archive.get(SECOND)
        file = log.stage.site.root / SECOND
        file.write_bytes(change(content))
        log.command = ("wal-push", "site/db", str(file), "--system", log.server)

    return damage


def first(damage: Damage) -> Damage:
    """The archive does not hold it yet."""

    def planted(log: LogStage) -> None:
        damage(log)
        log.path(SECOND).unlink()

    return planted


def pushed(change: Edit) -> Damage:
    """It has come to the archive like that."""

    def damage(log: LogStage) -> None:
        first(pushing(change))(log)
        log.stage.site.run(*log.command)
        log.command = ()

    return damage


def pushed_some_time_ago(log: LogStage) -> None:
    pushed(in_a_record(30))(log)
    grow_old(log)


def under_other_name(log: LogStage) -> None:
    path = log.path(SECOND)
    path.with_name(BRANCH).write_bytes(path.read_bytes())


PLANTS: dict[str, Damage] = {
    "segment missing": lambda log: log.path(SECOND).unlink(),
    "segments in the wrong order, those before not there yet": lambda log: [
        log.path(one).unlink() for one in (FIRST, SECOND)
    ],
    "segment's object cut short": lambda log: log.edit(SECOND, halved),
    "two segments in each other's place": lambda log: log.swap(SECOND, THIRD),
    "segment under a name of another timeline": under_other_name,
    "segment of another server": of_server,
    "history of a timeline missing": lambda log: log.replace(SECOND, bytes, under=BRANCH),
    "segment sealed with another key": lambda log: log.seal_otherwise(SECOND),
    "one flipped byte in a segment's object": lambda log: log.edit(SECOND, flipped_near_the_end),
    "segment of another timeline in a sound object": lambda log: log.replace(SECOND, other_timeline),
    "segment cut short before it was archived": pushing(halved),
    "segment of another timeline on the way to the archive": pushing(other_timeline),
    "other content under a name that is archived": pushing(flipped_near_the_end),
    "one flipped byte in a record, on the way to the archive": first(pushing(in_a_record(30))),
    "one flipped byte in a record, before it was archived": pushed(in_a_record(30)),
    "one flipped byte in a record's length, before it was archived": pushed(in_a_record(0)),
    "one flipped byte in a record, archived by a version that did not look": lambda log: log.replace(
        SECOND, in_a_record(30)
    ),
    "one flipped byte in a record that runs on from the segment before": pushed(flipped(20000)),
    "segment with a broken record, asked how far the log leads": pushed_some_time_ago,
    "wrong key": lambda log: wrong_key(pytest.MonkeyPatch(), log.stage),
    "archiving stopped": grow_old,
}


@pytest.mark.parametrize("case", ROWS.cases, ids=lambda case: case.damage)
def test_every_damage_is_told(log: LogStage, case: Case) -> None:
    log.tells(case, PLANTS[case.damage])


@pytest.mark.soak
def test_a_healthy_log_of_a_busy_server_is_never_suspected(log: LogStage) -> None:
    shop: PostgresServer = log.stage.server
    shop.sql("CREATE DATABASE busy;")
    shop.pgbench_init("busy")
    with log.stage.prepared():
        for _ in range(rounds(ROWS.healthy_rounds, HEALTHY_ROUNDS_OF_A_SOAK)):
            with shop.load("busy", per_second=200):
                push(log)
            done = log.stage.site.run("check", "--read-data", "--json").line("finished")
            assert done["verdict"] == "pass" and done["log_segments_read"] == len(log.segments), done
        assert log.stage.site.run("status", "--json").line("status")["state"] == "ok"
