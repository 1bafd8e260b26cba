"""MariaDB by mariadb-backup: each kind of damage, and none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from backupctl.sources import mariadb_physical_instance
from backupctl.sources.protocol import Instance
from tests.damage.matrix import Case
from tests.damage.rows.mariadb_physical import ROWS
from tests.damage.stage import (
    Plant,
    Stage,
    each_of,
    edit_stream,
    edited,
    flipped_near_the_end,
    halved,
    killed,
    programs,
    replaced,
    stage,
)
from tests.damage.test_mariadb_dump import SCHEMA, WRITE, in_restored, torn_page
from tests.end_to_end.processes import wait_until
from tests.servers.databases import MariadbServer, mariadb_server

pytestmark = pytest.mark.servers
ITEM = "the stream of mariadb-backup"


@pytest.fixture(scope="module")
def shop() -> Iterator[MariadbServer]:
    """A server of its own: all of it is backed up, and its logs are purged."""
    with mariadb_server("--log-bin=bin", "--server-id=1", "--binlog-format=ROW") as server:
        server.sql("CREATE DATABASE damaged CHARACTER SET utf8mb4; CREATE ROLE clerks;")
        server.sql(SCHEMA, "damaged")
        server.sql("CREATE EVENT damaged.nightly ON SCHEDULE EVERY 1 SECOND DO DELETE FROM damaged.orders;")
        yield server


@pytest.fixture(scope="module")
def site(shop: MariadbServer) -> Iterator[Stage]:
    with stage("mariadb", f"{{socket: {shop.socket}, user: root, method: physical}}", shop) as made:
        yield made


def purged(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """After the backup has noted its position, and before its logs are asked for."""
    shop: MariadbServer = site.server

    def purge(whole: bytes) -> bytes:
        now = shop.sql("FLUSH BINARY LOGS; SHOW MASTER STATUS").split()[0]
        # a log goes only when the server has noted that it needs it no more, which it does some time later
        ask = f"PURGE BINARY LOGS TO '{now}'; SHOW BINARY LOGS"
        wait_until(lambda: shop.sql(ask).split()[0] == now, "older logs to be purged")
        return whole

    edit_stream(monkeypatch, ITEM, purge)


def silent(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    names = ("mariadb", "mariadb-dump", "mariadb-binlog")
    body = f'case "$*" in *--version*) ;; *) exec 2>/dev/null;; esac; exec {shutil.which("mariadb-backup")} "$@"'
    directory = programs(site, [str(shutil.which(name)) for name in names], mariadb_backup=body)
    site.configure(site.options.replace("}", f", bin_dir: {directory}}}"))


def flipped_page(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """After the preparation, before the server starts."""
    original = mariadb_physical_instance.check_pages

    def planted(instance: Instance) -> None:
        path = f"{instance.directory.decode()}/data/damaged/orders.ibd"
        with open(path, "r+b") as file:
            file.seek(5 * 16384 + 3000)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
        original(instance)

    monkeypatch.setattr(mariadb_physical_instance, "check_pages", planted)


PLANTS: dict[str, Plant] = {
    "backup process killed": killed(ITEM),
    "stream cut in half, exit status 0": edited(ITEM, halved),
    "one flipped byte in the stream": edited(ITEM, replaced(b"customer number 471", b"customer number 472")),
    "no word of success, exit status 0": silent,
    "one flipped byte in a page of the source": torn_page,
    "binary log purged during the backup": purged,
    "one flipped byte in a binary log": edited("binary log", flipped_near_the_end),
    "one row changed": in_restored("UPDATE damaged.orders SET customer = 'other' WHERE id = 471"),
    "one table missing": in_restored("DROP TABLE damaged.parts"),
    "role missing": in_restored("DROP ROLE clerks"),
    "one flipped byte in a restored page": flipped_page,
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(site: Stage, shop: MariadbServer) -> None:
    """And the day after costs a tenth of the data at most, although it was written to all the time."""
    load = partial(shop.load, WRITE + " DO SLEEP(0.001);")  # a pause: the drill replays all that was written
    site.never_suspected(ROWS, load)
    done = site.complete(load)
    assert done["stored_bytes"] < done["bytes"] / 10
