"""PostgreSQL as it lies on disk, and its archived log: each kind of damage, and none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from backupctl.sources import postgresql_physical_instance
from backupctl.sources.base_backup import Frames
from backupctl.sources.protocol import Instance
from backupctl.sources.wal_format import is_segment_name, parse_lsn
from tests.damage.matrix import Case
from tests.damage.rows.postgresql_physical import ROWS
from tests.damage.stage import Edit, Plant, Stage, each_of, replaced, stage
from tests.damage.test_postgresql_dump import EVERYWHERE, SCHEMA
from tests.servers.databases import PostgresServer, postgres_directory, postgres_server
from tests.servers.plugin_databases import missing

pytestmark = pytest.mark.servers
SEGMENT_BYTES = 1 << 20


@pytest.fixture(scope="module")
def shop() -> Iterator[PostgresServer]:
    """A server of its own: all of it is backed up, it has checksums, and its log keeps what was archived."""
    directory = postgres_directory()
    if directory is None:
        missing("postgresql")
    made = ["--data-checksums", f"--wal-segsize={SEGMENT_BYTES >> 20}"]
    with postgres_server(directory, initdb=made, wal_keep_size="500MB", shared_buffers="16MB") as server:
        server.sql("CREATE ROLE clerks;")
        server.sql("CREATE DATABASE damaged;")
        server.sql(SCHEMA, "damaged")
        server.sql("CREATE TABLE victim AS SELECT n FROM generate_series(1, 5000) n; CHECKPOINT;", "damaged")
        yield server


@pytest.fixture(scope="module")
def site(shop: PostgresServer) -> Iterator[Stage]:
    with stage("postgresql", f"{{conninfo: '{shop.conninfo}', method: physical, wal: archive}}", shop) as made:
        yield made


def while_it_comes(action: Callable[[Stage], object], after: int = 1 << 20) -> Plant:
    """Once `after` bytes of the backup are there."""

    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        original = Frames.next
        seen = [0]

        def planted(self: Frames) -> tuple[bytes, bytes]:
            kind, payload = original(self)
            before, seen[0] = seen[0], seen[0] + len(payload)
            if before < after <= seen[0]:
                action(site)
            return kind, payload

        monkeypatch.setattr(Frames, "next", planted)

    return plant


def terminate(site: Stage) -> None:
    site.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'")


def data_edited(edit: Edit) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        original = Frames.next

        def planted(self: Frames) -> tuple[bytes, bytes]:
            kind, payload = original(self)
            return (kind, edit(payload)) if kind == b"D" and b"customer number 471" in payload else (kind, payload)

        monkeypatch.setattr(Frames, "next", planted)

    return plant


def torn_page(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """On the source's disk, as long as the case lasts."""
    shop: PostgresServer = site.server
    path = shop.sql(
        "CHECKPOINT; SELECT pg_relation_filepath('victim')", "damaged"
    )  # what is in memory goes to disk now
    file = shop.directory / "data" / path
    good = file.read_bytes()
    site.resources.callback(file.write_bytes, good)
    file.write_bytes(good[: 8192 + 4000] + bytes([good[8192 + 4000] ^ 1]) + good[8192 + 4001 :])


def restored_page(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    original = postgresql_physical_instance.verify

    def planted(instance: Instance) -> None:
        shop: PostgresServer = site.server
        file = Path(instance.directory.decode(), "data", shop.sql("SELECT pg_relation_filepath('orders')", "damaged"))
        flip(file, -100)
        original(instance)

    monkeypatch.setattr(postgresql_physical_instance, "verify", planted)


def archive(site: Stage) -> str:
    """What the server's archiver would do by now; the name of the newest segment."""
    shop: PostgresServer = site.server
    done = shop.directory / "archived"
    before = done.read_text() if done.exists() else ""
    newest = shop.sql("SELECT pg_walfile_name(pg_switch_wal())")
    log = shop.directory / "data" / "pg_wal"
    for name in sorted(one.name for one in log.iterdir() if is_segment_name(one.name)):
        if before < name <= newest:
            site.site.run("wal-push", "site/db", str(log / name))
    done.write_text(newest)
    return newest


def along_the_log(damage: Callable[[Stage, Path, str], object]) -> Plant:
    """A base backup, a segment of log behind it, and the drill `point-in-time` of the backup that the case makes after them.
    `damage` is given the segment's object in the repository, and where the first change in it lies in the log."""

    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        shop: PostgresServer = site.server
        site.site.run("run")
        archive(site)
        change = "UPDATE items SET id = id + 2; UPDATE items SET id = id - 2;"
        lsn = shop.sql(f"SELECT pg_current_wal_insert_lsn(); {change}", "damaged")
        between = archive(site)
        site.configure(site.options, job="on: staging => on: staging, scenario: point-in-time")

        def harm() -> None:
            archive(site)
            (found,) = (site.site.root / "repository" / "backupctl" / "log").rglob(between)
            damage(site, found, lsn)

        site.after_run = harm

    return plant


def lost(site: Stage, stored: Path, lsn: str) -> None:
    stored.unlink()


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def object_damaged(site: Stage, stored: Path, lsn: str) -> None:
    flip(stored, -100)


def archived_damaged(site: Stage, stored: Path, lsn: str) -> None:
    """The segment was not what the server had written when it was archived: nothing is wrong with the object."""
    shop: PostgresServer = site.server
    copy = site.site.root / stored.name
    copy.write_bytes((shop.directory / "data" / "pg_wal" / stored.name).read_bytes())
    flip(copy, parse_lsn(lsn) % SEGMENT_BYTES + 26)  # behind the header of a record
    stored.unlink()
    system = shop.sql("SELECT system_identifier FROM pg_control_system()")
    site.site.run("wal-push", "site/db", str(copy), "--system", system)


PLANTS = EVERYWHERE | {
    "connection killed by the server": while_it_comes(terminate),
    "one flipped byte in the stream": data_edited(replaced(b"customer number 471", b"customer number 472")),
    "one flipped byte in a page of the source": torn_page,
    "one flipped byte in a restored page": restored_page,
    "segment of the log missing": along_the_log(lost),
    "segment's object damaged": along_the_log(object_damaged),
    "one flipped byte in an archived segment": along_the_log(archived_damaged),
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(site: Stage, shop: PostgresServer) -> None:
    shop.sql("CREATE DATABASE busy;")
    shop.pgbench_init("busy")
    site.never_suspected(ROWS, partial(shop.load, "busy", per_second=200))
    shop.sql("DROP DATABASE busy;")
