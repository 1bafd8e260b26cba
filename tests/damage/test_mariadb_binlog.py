"""The binary logs of a MariaDB server: each kind of damage, none, and recovery to a point in time with its refusals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from backupctl.config.load import load as load_settings
from backupctl.errors import UserError
from backupctl.operations.binlog_receive import ReceivedLog, receive
from backupctl.operations.context import Context
from backupctl.operations.reporter import SilentReporter
from backupctl.sources import mariadb_logs
from backupctl.sources.binlog_archive import Piece, ReceivedFiles, ReceivedLogs, archive_of, compact
from backupctl.sources.protocol import Instance, SnapshotFiles
from tests.damage.matrix import Case
from tests.damage.rows.mariadb_binlog import ROWS
from tests.damage.stage import (
    Plant,
    Stage,
    during_dump,
    each_of,
    edited,
    flipped_near_the_end,
    full_disk,
    halved,
    killed,
    stage,
    stale,
    wrong_key,
)
from tests.end_to_end.processes import gone, wait_until
from tests.repository.helpers import new_repository
from tests.servers.databases import MariadbServer, mariadb_server, run
from tests.sources.helpers import MemoryFiles, drain, processes_with

pytestmark = pytest.mark.servers
ITEM = "binary log bin.000003"
Change = Callable[[dict[bytes, bytes]], None]
MIDDLE = b"binlog/bin.000002"


@pytest.fixture(scope="module")
def shop() -> Iterator[MariadbServer]:
    """A server of its own: its logs begin with the first, and are few."""
    with mariadb_server("--log-bin=bin", "--server-id=1") as server:
        server.sql("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, at VARCHAR(40));")
        for number in (1, 2):
            server.sql(f"INSERT INTO shop.orders VALUES ({number}, 'log {number}'); FLUSH BINARY LOGS;")
        server.sql("INSERT INTO orders SELECT seq, UUID() FROM seq_100_to_3000", "shop")
        yield server


@pytest.fixture(scope="module")
def site(shop: MariadbServer) -> Iterator[Stage]:
    with stage("mariadb", f"{{socket: {shop.socket}, user: root, method: binlog}}", shop) as made:
        yield made


def stored(change: Change) -> Plant:
    """What is read back from the repository is changed on its way."""

    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        original = mariadb_logs.load

        def planted(instance: Instance, files: SnapshotFiles) -> list[str]:
            names = files.names(b"binlog")
            content = {b"binlog/" + name: files.open(b"binlog/" + name).read() for name in names}
            change(content)
            return original(instance, MemoryFiles(content))

        monkeypatch.setattr(mariadb_logs, "load", planted)

    return plant


def flip(content: dict[bytes, bytes]) -> None:
    place = content[MIDDLE].index(b"log 2")
    content[MIDDLE] = content[MIDDLE][:place] + b"l0g 2" + content[MIDDLE][place + 5 :]


PLANTS: dict[str, Plant] = {
    "reading process killed": killed(ITEM),
    "log cut in half, exit status 0": edited(ITEM, halved),
    "one flipped byte on the way": edited(ITEM, flipped_near_the_end),
    "wrong key": wrong_key,
    "one log missing": stored(lambda content: content.pop(MIDDLE) and None),
    "newest log missing": stored(lambda content: content.pop(b"binlog/bin.000003") and None),
    "one flipped byte in a stored log": stored(flip),
    "stored log cut in half": stored(lambda content: content.update({MIDDLE: halved(content[MIDDLE])})),
    "full disk on staging": full_disk,
    "stale backup": stale,
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


def test_a_dropped_table_comes_back_as_it_was_before(site: Stage, shop: MariadbServer) -> None:
    """A backup of the data, logs that another job has stored since, and a target between the last order and the accident."""
    shop.sql(
        "CREATE DATABASE accident; CREATE TABLE accident.orders (id INT PRIMARY KEY); INSERT INTO accident.orders VALUES (1);"
    )
    with site.prepared():
        site.site.sources = {"data": f"{{mariadb: {{socket: {shop.socket}, user: root}}}}"}
        site.site.configure()
        site.site.run("run")
        since = shop.sql("SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%dT%H:%i:%sZ')")
        shop.sql("INSERT INTO accident.orders VALUES (2); FLUSH BINARY LOGS; INSERT INTO accident.orders VALUES (3);")
        shop.sql("DROP DATABASE accident")
        jobs = site.site.root / "jobs"
        (jobs / "logs.yaml").write_text(
            (jobs / "site.yaml")
            .read_text()
            .replace("job: site", "job: logs")
            .replace("user: root", "user: root, method: binlog")
        )
        site.site.run("run", "logs")
        site.site.run("run", "site", expect=3)  # a newer backup, from after the accident, which it tells
        asked = ["restore", "site", "--only", "data", "--start-database", "--json", "--into"]
        refused = site.site.run(*asked, str(site.site.root / "no"), "--at", "0-1-99999", "--plan", expect=10)
        assert "do not reach 0-1-99999" in refused.text
        searched = site.site.run("binlog", "find", "site", "--json", expect=None)
        assert searched.line("searched")["losses"] == 0, "nothing behind the newest backup"
        found = site.site.run("binlog", "find", "site", "--since", since, "--json")
        (loss,) = [one for one in found.lines if one["type"] == "loss"]
        assert loss["what"] == "dropped database accident"
        site.site.run(*asked, str(site.site.root / "no"), "--at", loss["at"], "--plan")
        said = site.site.run(*asked, str(site.site.root / "back"), "--at", loss["at"])
        served = said.line("restored")
        try:
            sql = "SELECT GROUP_CONCAT(id ORDER BY id) FROM accident.orders"
            assert run([*served["connect"], "-N", "-e", sql]).strip() == "1,2,3"
        finally:
            os.kill(served["pid"], signal.SIGTERM)
            wait_until(lambda: gone(served["pid"]), "the server to end")
        (jobs / "logs.yaml").unlink()


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(
    site: Stage, shop: MariadbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed logs are not read again; a server that goes on to another log meanwhile is no trouble."""

    @contextmanager
    def load() -> Iterator[None]:
        during_dump(monkeypatch, "binary log", lambda process: shop.sql("FLUSH BINARY LOGS"))
        # a pause between: the drill replays all that was written while the run took its time, which was 33 s of processor time
        with shop.load("UPDATE shop.orders SET at = UUID() WHERE id = 1; DO SLEEP(0.001);"):
            yield

    site.never_suspected(ROWS, load)
    done = site.complete(load)
    assert done["unchanged_files"] >= 2


def test_a_log_comes_again_the_same_or_is_refused(shop: MariadbServer) -> None:
    repository = new_repository()
    archive = archive_of(repository, "server")
    name = shop.sql("SHOW BINARY LOGS").split()[0]
    whole = (shop.directory / "data" / name).read_bytes()

    def store(content: bytes) -> ReceivedLog:
        log = ReceivedLog(archive, name, ReceivedLogs(archive).files.get(name, []))
        for at in range(0, len(content), 100):
            log.feed(content[at : at + 100])
            log.store()
        return log

    assert not store(whole[: len(whole) // 2]).broken
    assert len(ReceivedLogs(archive).files[name]) > 1
    log = store(whole)
    assert ReceivedLogs(archive).end(name) == len(whole)
    files = ReceivedFiles(ReceivedLogs(archive))
    restored = drain(files.open(b"binlog/" + name.encode()))
    assert restored[:21] + restored[22:] == whole[:21] + whole[22:]
    compact(archive, log.pieces)
    assert archive.names() == [Piece(name, 0, len(whole)).name]
    assert drain(ReceivedFiles(ReceivedLogs(archive)).open(b"binlog/" + name.encode())) == restored
    with pytest.raises(UserError, match="is not the one of that name that is stored"):
        store(whole[:30] + b"?" + whole[31:])
    archive.delete(archive.names()[0])
    damaged = store(flipped_near_the_end(whole))
    assert "the checksum of an event does not match" in damaged.broken
    assert 0 < ReceivedLogs(archive).end(name) < len(whole), "what came before it is stored"
    archive.delete(ReceivedLogs(archive).files[name][1].name)
    assert len(ReceivedLogs(archive).holes()) == 1
    later = {**archive.look(ReceivedLogs(archive).files[name][0].name).facts["log"], "start_gtids": {"0": 9}}
    archive.put(Piece(f"{name[:-1]}9", 0, 4).name, whole[:4], {"log": later})
    assert len(ReceivedLogs(archive).holes()) == 1, "what is missing of a log is told once"


def received(site: Stage, step: Callable[[ReceivedLogs], bool]) -> int:
    """`binlog receive` in this process; `step` is asked all the time, with what is stored, and ends it with True."""
    with Context.open(load_settings(site.site.root / "backupctl.yaml"), reporter=Told()) as context:
        server: MariadbServer = site.server
        uid = server.sql("SELECT @@server_uid")
        repository = context.resources.repository("main")
        asked = time.monotonic()

        def stop() -> bool:
            assert time.monotonic() - asked < 120
            return step(ReceivedLogs(archive_of(repository, uid)))

        return receive(context, context.settings.jobs["site"], stop=stop)


class Told(SilentReporter):
    """What was said, of all receivers."""

    words: ClassVar[list[str]] = []

    def event(self, kind: str, message: str, **fields: object) -> None:
        self.words.append(message)


def reaches(shop: MariadbServer, logs: ReceivedLogs) -> bool:
    """Whether all that the server has written is stored."""
    name, offset = shop.sql("SHOW MASTER STATUS").split()[:2]
    return logs.files.get(name, []) != [] and logs.end(name) == int(offset)


def test_received_as_it_is_written_across_a_cut_connection_and_over_no_hole(site: Stage, shop: MariadbServer) -> None:
    shop.sql("CREATE DATABASE till; CREATE TABLE till.sales (id INT PRIMARY KEY); INSERT INTO till.sales VALUES (1);")
    with site.prepared():
        vault = (
            "repositories: => repositories:\n  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}"
        )
        site.configure(f"{{socket: {shop.socket}, user: root, binlog: {{every: 1}}}}", main=vault)
        site.site.run("init")
        site.site.run("run")
        kill = "SET @id = (SELECT id FROM information_schema.processlist WHERE command = 'Binlog Dump');"
        kill += " EXECUTE IMMEDIATE CONCAT('KILL ', @id); INSERT INTO till.sales VALUES (4);"
        more = "INSERT INTO till.sales VALUES (2); FLUSH BINARY LOGS; INSERT INTO till.sales VALUES (3);"
        steps = iter([more, kill])
        before = set(Path("/tmp").glob("bctl-*/bin.0*"))

        def step(logs: ReceivedLogs) -> bool:
            if not reaches(shop, logs):
                return False
            sql = next(steps, "")
            if sql:
                shop.sql(sql)
            return not sql

        assert received(site, step) > 0
        assert any("trying again in 1 s" in one for one in Told.words), Told.words
        wanted = shop.sql("SELECT @@gtid_binlog_pos")
        shop.sql("DROP DATABASE till")
        received(site, lambda logs: reaches(shop, logs))
        shown = site.site.run("binlog", "show", "site")
        assert "HOLE" not in shown.out and "recoverable up to the last commit" in shown.out
        assert "recoverable up to" in site.site.run("status", "site", expect=None).text
        copied = site.site.run("copy", "site", "--to", "vault", "--json").line("copied")
        assert copied["error"] == "" and copied["log_segments"] >= 2
        said = site.site.run("check", "--read-data", "--json")
        read = [one for one in said.lines if one["type"] == "finished"]
        assert [one["verdict"] for one in read] == ["pass", "pass"] and all(
            one["log_segments_read"] >= 2 for one in read
        )
        (site.site.repository / "config").rename(site.site.root / "config")
        said = site.site.run(
            "restore",
            "site",
            "--from",
            "vault",
            "--only",
            "db",
            "--start-database",
            "--json",
            "--into",
            str(site.site.root / "again"),
            "--at",
            wanted,
        )
        served = said.line("restored")
        try:
            rows = run([*served["connect"], "-N", "-e", "SELECT GROUP_CONCAT(id ORDER BY id) FROM till.sales"]).strip()
            assert rows == "1,2,3,4"
        finally:
            os.kill(served["pid"], signal.SIGTERM)
            wait_until(lambda: gone(served["pid"]), "the server to end")
        (site.site.root / "config").rename(site.site.repository / "config")
        shop.sql("CREATE DATABASE lost; FLUSH BINARY LOGS; DROP DATABASE lost; FLUSH BINARY LOGS;")
        now = shop.sql("SHOW MASTER STATUS").split()[0]
        wait_until(lambda: shop.sql(f"PURGE BINARY LOGS TO '{now}'; SHOW BINARY LOGS").split()[0] == now, "purged logs")
        received(site, lambda logs: reaches(shop, logs))
        assert any("has purged what came after" in one for one in Told.words), Told.words
        assert not [one for one in processes_with("--stop-never") if shop.socket in one]
        assert set(Path("/tmp").glob("bctl-*/bin.0*")) <= before, "nothing stays on the source's host"
        shown = site.site.run("binlog", "show", "site", expect=3)
        assert "HOLE" in shown.out and "transactions are missing from" in shown.text
        told = site.site.run("check", "main", expect=4).text
        assert "binary log is missing after" in told and "back up again" in told
        refused = [
            "restore",
            "site",
            "--only",
            "db",
            "--start-database",
            "--into",
            str(site.site.root / "no"),
            "--plan",
        ]
        assert "have a gap" in site.site.run(*refused, "--at", f"{now}:400", expect=4).text
