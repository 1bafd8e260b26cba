"""PostgreSQL by pg_dump: each kind of damage, and none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from backupctl.sources.postgresql import PostgresqlSource
from backupctl.sources.protocol import Instance
from tests.damage.matrix import Case
from tests.damage.rows.postgresql_dump import ROWS
from tests.damage.stage import (
    Plant,
    Stage,
    cut_after,
    each_of,
    edited,
    full_disk,
    halved,
    killed,
    programs,
    restored,
    stage,
    stale,
    wrong_key,
)
from tests.servers.databases import PostgresServer, run

pytestmark = pytest.mark.servers
SCHEMA = """
CREATE TABLE orders (id INT PRIMARY KEY, customer TEXT);
INSERT INTO orders SELECT n, 'customer number ' || n FROM generate_series(1, 6000) n;
CREATE TABLE items (id INT PRIMARY KEY); INSERT INTO items VALUES (1), (2);
CREATE TABLE parts (id INT PRIMARY KEY); INSERT INTO parts VALUES (1);
CREATE TABLE texts (t TEXT PRIMARY KEY); INSERT INTO texts VALUES ('客戶 Zoë');
CREATE TABLE times (at TIMESTAMPTZ PRIMARY KEY); INSERT INTO times VALUES ('2026-01-02 03:04:05+00');
CREATE SEQUENCE tickets START 100; SELECT nextval('tickets');
GRANT SELECT ON items TO clerks;
"""
ITEM = "PostgreSQL database damaged"
SERVER = ("initdb", "postgres", "pg_verifybackup")


@pytest.fixture(scope="module")
def shop(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    postgres_server.sql("CREATE ROLE clerks;")
    postgres_server.sql("CREATE DATABASE damaged;")
    postgres_server.sql(SCHEMA, "damaged")
    yield postgres_server
    postgres_server.sql("DROP DATABASE damaged;")
    postgres_server.sql("DROP ROLE clerks;")


@pytest.fixture(scope="module")
def site(shop: PostgresServer) -> Iterator[Stage]:
    with stage("postgresql", f"{{conninfo: '{shop.conninfo}', databases: [damaged]}}", shop) as made:
        yield made


def in_restored(sql: str) -> Plant:
    def change(instance: Instance) -> None:
        connection = instance.connection
        psql = [f"{connection['bin_dir']}/psql", "-h", connection["sockets"], "-U", connection["user"], "-d", "damaged"]
        run([*psql, "-v", "ON_ERROR_STOP=1", "-c", sql])

    return restored(PostgresqlSource, change)


def cut(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    shop: PostgresServer = site.server
    port = site.resources.enter_context(cut_after(f"{shop.directory}/.s.PGSQL.{shop.port}", 200_000))
    site.configure(site.options.replace(shop.conninfo, f"host=127.0.0.1 port={port} user=postgres"))


def with_program(name: str, body: str, *, server: bool = False) -> Plant:
    """`REAL` in the body is the path of the real one."""

    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        shop: PostgresServer = site.server
        names = ["psql", "pg_dump", "pg_dumpall", "pg_restore", *(SERVER if server else [])]
        text = body.replace("REAL", str(shop.programs / name))
        directory = programs(site, [str(shop.programs / one) for one in names], **{name: text})
        site.configure(site.options.replace("}", f", bin_dir: {directory}}}"))

    return plant


ASKED = 'case "$1" in --version|--help|-V) exec REAL "$@";; esac; '
STRIKE = 'case " $* " in *" -k "*) echo "disk is on strike" >&2; exit 1;; esac; exec REAL "$@"'
EVERYWHERE: dict[str, Plant] = {
    "connection cut at a byte": cut,
    "client older than the server": with_program("pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.1'"),
    "wrong key": wrong_key,
    "one row changed": in_restored("UPDATE orders SET customer = 'other' WHERE id = 471"),
    "one row missing": in_restored("DELETE FROM items WHERE id = 2"),
    "one table missing": in_restored("DROP TABLE parts"),
    "role missing": in_restored("DROP OWNED BY clerks; DROP ROLE clerks"),
    "sequence reset": in_restored("SELECT setval('tickets', 1)"),
    "wrong encoding": in_restored("UPDATE texts SET t = convert_from(convert_to(t, 'UTF8'), 'LATIN1')"),
    "wrong time zone": in_restored("UPDATE times SET at = at + interval '8 hours'"),
    "full disk on staging": full_disk,
    "server that will not start": with_program("postgres", ASKED + STRIKE, server=True),
    "stale backup": stale,
}
GLOBALS_CUT = with_program("pg_dumpall", ASKED + "echo 'CREATE ROLE clerks;'")
PLANTS = EVERYWHERE | {
    "dump process killed": killed(ITEM),
    "dump cut short, exit status 0": with_program("pg_dump", ASKED + 'REAL "$@" | head -c 100000; exit 0'),
    "globals cut short, exit status 0": GLOBALS_CUT,
    "dump damaged on its way, unnoticed": edited(ITEM, halved),
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(site: Stage, shop: PostgresServer) -> None:
    shop.sql("CREATE DATABASE busy;")
    shop.pgbench_init("busy")
    site.never_suspected(ROWS, partial(shop.load, "busy"), site.options.replace("[damaged]", "[damaged, busy]"))
    shop.sql("DROP DATABASE busy;")
