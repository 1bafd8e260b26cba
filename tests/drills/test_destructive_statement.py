"""The scenario on MariaDB, and what its judge says of a search. On PostgreSQL it runs in tests/end_to_end/test_point_in_time.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backupctl.drills.scenarios import destructive_mariadb
from backupctl.drills.scenarios.destruction import Draw, Found, Truth, judge_search
from backupctl.repository.log_archive import LogArchive
from backupctl.sources.binlog_losses import BinlogLoss
from backupctl.sources.mariadb import MariadbSource
from backupctl.sources.mariadb_instance import client_of
from backupctl.sources.protocol import Instance
from tests.damage.stage import Stage, stage
from tests.servers.databases import MariadbServer, mariadb_server

TRUTH = Truth("TRUNCATE", "751", 20, {"rows": 2400})


def test_only_the_very_transaction_counts_as_found() -> None:
    right = Found("751", "emptied 1 table or index file(s)", "committed 2026-11-20T14:03:00Z, LSN 0/600A5C8")
    other = Found("750", "deleted 1,200 rows of file 16390 of database 5", "LSN 0/600A000")
    found = judge_search("db", [right], TRUTH)
    assert found.ok and found.detail == "committed 2026-11-20T14:03:00Z, LSN 0/600A5C8"
    assert not judge_search("db", [other], TRUTH).ok
    assert not judge_search("db", [other, right], TRUTH).ok, "something else was taken for a loss, too"
    nothing = judge_search("db", [], TRUTH)
    assert (nothing.ok, nothing.actual) == (False, "nothing")


@pytest.fixture(scope="module")
def shop() -> Iterator[MariadbServer]:
    with mariadb_server("--log-bin=mysql-bin", "--server-id=7") as server:
        server.sql(
            "CREATE DATABASE shop; USE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, item VARCHAR(40)) ENGINE=InnoDB;"
            "INSERT INTO shop.orders SELECT seq, UUID() FROM seq_1_to_1500; CREATE USER clerk@localhost;"
        )
        yield server


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, shop: MariadbServer) -> Iterator[Stage]:
    with stage("mariadb", f"{{socket: {shop.socket}, user: root, method: {request.param}}}", shop) as made:
        made.configure(made.options, job="on: staging => on: staging, scenario: destructive-statement")
        made.site.run("run")
        yield made


def drilled(site: Stage, monkeypatch: pytest.MonkeyPatch, statement: str, expect: int) -> dict[str, dict[str, Any]]:
    """The drill's checks by name, when it destroys by that statement."""
    monkeypatch.setattr(destructive_mariadb, "draw", lambda stage, statements: Draw(statement, 9, 6))
    done = site.site.run("drill", "run", "--json", expect=expect).line("finished")
    assert done["cleaned_up"] and done["verdict"] == ("fail" if expect else "pass"), done
    shown = site.site.run("drill", "show", "site/full", "--json").line("drill")
    return {one["name"].removeprefix("db: "): one for one in shown["checks"]}


def bad(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, one in checks.items() if not one["ok"]]


@pytest.mark.servers
@pytest.mark.parametrize(
    ("site", "statement"),
    [
        ("logical", "DROP TABLE"),
        ("logical", "DELETE without WHERE"),
        ("logical", "UPDATE of all rows"),
        ("physical", "TRUNCATE"),
        ("physical", "DROP DATABASE"),
    ],
    indirect=["site"],
)
def test_each_statement_is_found_in_the_binary_logs_and_undone(
    site: Stage, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    checks = drilled(site, monkeypatch, statement, 0)
    found = checks["the statement is found in the log"]
    assert found["actual"].startswith("in transaction 0-1-") and statement in found["expected"]
    assert checks["what was committed before it"]["actual"] == "rows [9, 1, 9]"
    assert checks["what it took is there"]["actual"].startswith("['2400', ")
    assert checks["table shop.orders"]["actual"].startswith("1500 rows") and "account 'clerk'@'localhost'" in str(
        checks
    )


def lost_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in which it is never comes to the archive."""
    original = destructive_mariadb._archive_logs

    def planted(instance: Instance, archive: LogArchive, names: list[str]) -> None:
        original(instance, archive, names[:-1])

    monkeypatch.setattr(destructive_mariadb, "_archive_logs", planted)


def one_transaction_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BinlogLoss, "before", property(lambda loss: loss.gtid))


def one_row_less(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MariadbSource.load_until

    def planted(self: MariadbSource, instance: Instance, *arguments: Any) -> list[str]:
        notes = original(self, instance, *arguments)
        with client_of(instance, self.name) as client:
            ((name,),) = client.rows(
                "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE '%goods';"
            )
            client.rows(f"DELETE FROM {name}.goods WHERE id = 471;")
        return notes

    monkeypatch.setattr(MariadbSource, "load_until", planted)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("site", "plant", "told"),
    [
        ("physical", lost_log, "the statement is found in the log"),
        ("physical", one_transaction_further, "what it took is there"),
        ("physical", one_row_less, "what it took is there"),
    ],
    indirect=["site"],
)
def test_a_planted_fault_fails_it(
    site: Stage, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], told: str
) -> None:
    plant(monkeypatch)
    assert bad(drilled(site, monkeypatch, "UPDATE of all rows", 4)) == [told]


@pytest.mark.servers
@pytest.mark.parametrize("site", ["physical"], indirect=True)
def test_some_databases_of_a_server_are_not_enough(site: Stage, shop: MariadbServer) -> None:
    with site.prepared():
        site.configure(
            f"{{socket: {shop.socket}, user: root, databases: [shop]}}",
            job="on: staging => on: staging, scenario: destructive-statement",
        )
        site.site.run("run")
        site.site.run("drill", "run", expect=5)
        assert "nor one of a whole MariaDB server" in "".join(site.reasons())
