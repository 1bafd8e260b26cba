"""The received binary logs of a MariaDB server: each kind of damage, and none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backupctl.operations.binlog_receive import ReceivedLog
from backupctl.repository.log_archive import LogArchive
from backupctl.sources.binlog_archive import MARIADB, Piece, ReceivedLogs, piece_of
from backupctl.sources.binlog_format import BinlogReader
from backupctl.sources.mariadb_binlog import facts_of
from tests.damage.log_stage import Damage, LogStage, grow_old
from tests.damage.matrix import HEALTHY_ROUNDS_OF_A_SOAK, Case
from tests.damage.rows.mariadb_log import FIRST, NEWEST, ROWS, SECOND, THIRD
from tests.damage.stage import flipped_near_the_end, halved, stage, wrong_key
from tests.servers.databases import MariadbServer, mariadb_server
from tests.soak import rounds

pytestmark = pytest.mark.servers


def receive(log: LogStage) -> None:
    """What `binlog receive` stores of each log that the server has begun by now, in three pieces."""
    shop: MariadbServer = log.stage.server
    with log.archive() as archive:
        for name in (line.split("\t")[0] for line in shop.sql("SHOW BINARY LOGS").splitlines()):
            received(archive, name, content_of(shop, name))
        log.segments = archive.names()


def content_of(shop: MariadbServer, name: str) -> bytes:
    return (shop.directory / "data" / name).read_bytes()


def received(archive: LogArchive, name: str, content: bytes) -> None:
    held = ReceivedLogs(archive)
    log = ReceivedLog(archive, name, held.files.get(name, []))
    third = len(content) // 3
    for part in (content[:third], content[third : 2 * third], content[2 * third :]):
        log.feed(part)
        log.store()
    assert not log.broken


@pytest.fixture(scope="module")
def log() -> Iterator[LogStage]:
    with (
        mariadb_server("--log-bin=bin", "--server-id=1") as shop,
        stage("mariadb", f"{{socket: {shop.socket}, user: root, binlog: {{every: 1}}}}", shop) as made,
    ):
        shop.sql("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, at VARCHAR(40));")
        with made.prepared():
            made.site.run("run")
            for number in range(4):
                each = "".join(f"INSERT INTO orders VALUES ({number * 100 + one}, UUID());" for one in range(60))
                shop.sql(f"{each} FLUSH BINARY LOGS;", "shop")
            log = LogStage(made, MARIADB + shop.sql("SELECT @@server_uid"))
            receive(log)
        yield log


def pieces(log: LogStage, file: str) -> list[str]:
    return [name for name in log.segments if (piece := piece_of(name)) and piece.file == file]


def middle(log: LogStage, file: str = SECOND) -> str:
    return pieces(log, file)[1]


def lost(*files: str) -> Damage:
    return lambda log: [log.path(one).unlink() for file in files for one in pieces(log, file)]


def of_another_server(log: LogStage) -> None:
    """A log of that name, whole, that begins after nothing."""
    with mariadb_server("--log-bin=bin", "--server-id=1") as other:
        other.sql("FLUSH BINARY LOGS; FLUSH BINARY LOGS; RESET MASTER TO 3; CREATE DATABASE x; FLUSH BINARY LOGS;")
        content = content_of(other, SECOND)
    for one in pieces(log, SECOND):
        log.path(one).unlink()
    reader = BinlogReader()
    reader.feed(content)
    with log.archive() as archive:
        archive.put(Piece(SECOND, 0, len(content)).name, content, {"log": facts_of(SECOND, reader.finish())})


def set_up_anew(log: LogStage) -> None:
    """The server has another log of that name than the one that is stored."""
    log.replace(pieces(log, NEWEST)[0], flipped_near_the_end)
    log.command = ("binlog", "receive", "site")


PLANTS: dict[str, Damage] = {
    "log missing": lost(SECOND),
    "piece of a log missing": lambda log: log.path(middle(log)).unlink(),
    "logs in the wrong order, those before not there yet": lost(FIRST, SECOND),
    "piece's object cut short": lambda log: log.edit(middle(log), halved),
    "two pieces in each other's place": lambda log: log.swap(middle(log), middle(log, THIRD)),
    "log of another server": of_another_server,
    "piece sealed with another key": lambda log: log.seal_otherwise(middle(log)),
    "one flipped byte in a piece's object": lambda log: log.edit(middle(log), flipped_near_the_end),
    "one flipped byte in an event, before it was stored": lambda log: log.replace(middle(log), flipped_near_the_end),
    "log cut short before it was stored": lambda log: log.replace(middle(log), halved),
    "other content under a name that is stored": set_up_anew,
    "wrong key": lambda log: wrong_key(pytest.MonkeyPatch(), log.stage),
    "receiving stopped": grow_old,
}


@pytest.mark.parametrize("case", ROWS.cases, ids=lambda case: case.damage)
def test_every_damage_is_told(log: LogStage, case: Case) -> None:
    log.tells(case, PLANTS[case.damage])


@pytest.mark.soak
def test_healthy_logs_of_a_busy_server_are_never_suspected(log: LogStage) -> None:
    shop: MariadbServer = log.stage.server
    shop.sql("CREATE TABLE shop.busy (n INT AUTO_INCREMENT PRIMARY KEY)")
    with log.stage.prepared():
        for _ in range(rounds(ROWS.healthy_rounds, HEALTHY_ROUNDS_OF_A_SOAK)):
            with shop.load("INSERT INTO shop.busy VALUES (); DO SLEEP(0.001);"):
                shop.sql("FLUSH BINARY LOGS")
            shop.sql("FLUSH BINARY LOGS")
            receive(log)
            done = log.stage.site.run("check", "--read-data", "--json").line("finished")
            assert done["verdict"] == "pass" and done["log_segments_read"] == len(log.segments), done
        assert log.stage.site.run("status", "--json").line("status")["state"] == "ok"
