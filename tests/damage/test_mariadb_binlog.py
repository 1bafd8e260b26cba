"""The binary logs of a MariaDB server: each kind of damage, none, and recovery to a point in time with its refusals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from backupctl.sources import mariadb_logs
from backupctl.sources.protocol import Instance
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
from tests.servers.databases import MariadbServer, mariadb_server, run
from tests.sources.helpers import MemoryFiles

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

        def planted(instance: Instance, files: object) -> list[str]:
            names = files.names(b"binlog")  # type: ignore[attr-defined]  # what a drill hands over
            content = {b"binlog/" + name: files.open(b"binlog/" + name).read() for name in names}  # type: ignore[attr-defined]
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
        shop.sql("INSERT INTO accident.orders VALUES (2); FLUSH BINARY LOGS; INSERT INTO accident.orders VALUES (3);")
        wanted = shop.sql("SELECT @@gtid_binlog_pos")
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
        said = site.site.run(*asked, str(site.site.root / "back"), "--at", wanted)
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
