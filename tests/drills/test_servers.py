"""Drills with real servers: databases under load in throw-away instances, and a staging host behind SSH."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupctl.drills.model import DrillResult
from backupctl.drills.run import run_drill
from backupctl.hosts.ssh import SshHost
from backupctl.sources.postgresql import PostgresqlSource
from backupctl.sources.postgresql_instance import client_of
from backupctl.sources.protocol import Instance
from tests.drills.helpers import CLOCK, Bench
from tests.servers.databases import PostgresServer

pytestmark = pytest.mark.servers


@pytest.fixture
def root() -> Iterator[Path]:
    """A place that a server with another user may pass through, unlike pytest's own."""
    root = Path(tempfile.mkdtemp(prefix="bctl-drill-", dir="/tmp"))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def bank(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    postgres_server.sql("CREATE DATABASE bank;")
    postgres_server.pgbench_init("bank")
    yield postgres_server
    postgres_server.sql("DROP DATABASE bank;")


@pytest.fixture
def bench(root: Path, bank: PostgresServer) -> Bench:
    bench = Bench(root).with_files().registered()
    bench.sources["bank-db"] = {"postgresql": {"conninfo": bank.conninfo, "databases": ["bank"]}}
    return bench


def failed(result: DrillResult) -> list[str]:
    return [check.name for check in result.checks if not check.ok]


def sockets() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("bctl-") and "-test-" not in name}


def test_postgresql_under_load_is_drilled_table_by_table(bench: Bench, bank: PostgresServer) -> None:
    before = sockets()
    with bank.load("bank"):
        bench.back_up()
        result = bench.drill(
            probes=[
                {"sql": {"database": "bank", "query": "select count(*) from pgbench_accounts", "equals": 100_000}},
                {"command": {"argv": ["sh", "-c", 'test -S "$DRILL_BANK_DB_SOCKETS/.s.PGSQL.$DRILL_BANK_DB_PORT"']}},
            ]
        )
    assert (result.verdict, result.level, result.reasons) == ("pass", 5, []), failed(result)
    tables = [check.name for check in result.checks if "pgbench_" in check.name and check.level == 4]
    assert len([name for name in tables if name.startswith("bank-db: table")]) == 4
    assert result.cleanup.proved, result.cleanup.facts
    assert bench.left_behind() == []
    assert sockets() == before


def test_one_row_that_differs_in_postgresql_is_named_with_its_table(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.back_up()
    load = PostgresqlSource.load

    def plant(self: PostgresqlSource, instance: Instance, files: Any, **options: Any) -> list[str]:
        notes = load(self, instance, files, **options)
        client = client_of(instance, self.name)
        argv = client.psql("bank")
        assert client.run(argv, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 4711;").returncode == 0
        return notes

    monkeypatch.setattr(PostgresqlSource, "load", plant)
    result = bench.drill()
    assert (result.verdict, result.level) == ("fail", 3)
    (name,) = failed(result)
    assert name.startswith("bank-db: table")
    assert name.endswith("pgbench_accounts")


def test_a_server_that_survives_its_source_is_ended_by_the_sandbox(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.back_up()
    before = sockets()
    monkeypatch.setattr(PostgresqlSource, "stop", lambda *arguments: None)
    result = bench.drill()
    assert result.verdict == "pass"
    assert any("ended postgres" in fact for fact in result.cleanup.facts), result.cleanup.facts
    assert result.cleanup.proved, result.cleanup.facts
    assert sockets() == before


def test_a_staging_host_behind_ssh(root: Path, new_ssh_host: Callable[..., SshHost]) -> None:
    staging = new_ssh_host()
    bench = Bench(root, staging=staging).with_files().with_database().registered().back_up()
    request = bench.request(
        probes=[
            {"sql": {"query": "select count(*) from authors", "equals": 1}},
            {"command": {"argv": ["sh", "-c", 'ls "$DRILL_RESTORED"'], "expect_output": "uploads"}},
        ]
    )
    result = run_drill(request, clock=CLOCK)
    assert (result.verdict, result.level, result.reasons) == ("pass", 5, []), failed(result)
    assert result.host == staging.name
    assert result.cleanup.proved
    assert bench.left_behind() == []
