"""PostgreSQL table by table: each kind of damage, and none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from backupctl.sources.postgresql_ordered import TABLE_END, TableReader, TableStream
from tests.damage.matrix import Case
from tests.damage.rows.postgresql_ordered import ROWS
from tests.damage.stage import Edit, Plant, Stage, each_of, halved, replaced, stage
from tests.damage.test_postgresql_dump import ASKED, EVERYWHERE, GLOBALS_CUT, shop, with_program
from tests.servers.databases import PostgresServer

__all__ = ["shop"]
pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def site(shop: PostgresServer) -> Iterator[Stage]:
    options = f"{{conninfo: '{shop.conninfo}', databases: [damaged], method: ordered}}"
    with stage("postgresql", options, shop) as made:
        yield made


def killed(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    """kill -9 of the program beside the server, once it has begun with the table: on a busy machine it may else have ended."""
    original = TableReader._ask

    def planted(self: TableReader, request: dict[str, object]) -> None:
        if "orders" not in str(request.get("script")) or "ordered" not in request:
            original(self, request)
            return
        original(self, {**request, "script": f"SELECT pg_sleep(20);\n{request['script']}"})
        self.kill()

    monkeypatch.setattr(TableReader, "_ask", planted)


def rows_edited(edit: Edit) -> Plant:
    """What is stored of the table `orders`; its fingerprint is taken beside the server, and stays true."""

    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        original = TableReader.read

        def planted(self: TableReader, table: TableStream) -> Iterator[bytes]:
            whole = b"".join(original(self, table))
            yield edit(whole) if table.name == "public.orders" else whole

        monkeypatch.setattr(TableReader, "read", planted)

    return plant


def without_end(whole: bytes) -> bytes:
    assert whole.endswith(TABLE_END)
    return halved(whole)


PLANTS = EVERYWHERE | {
    "process that reads a table killed": killed,
    "schema cut short, exit status 0": with_program("pg_dump", ASKED + 'REAL "$@" | head -c 3000; exit 0'),
    "globals cut short, exit status 0": GLOBALS_CUT,
    "rows lost on their way, unnoticed": rows_edited(replaced(b"471\tcustomer number 471\n", b"")),
    "table cut short on its way, unnoticed": rows_edited(without_end),
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
