"""Drills with real servers: databases under load in throw-away instances, and a staging host behind SSH."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupctl.drills import watched
from backupctl.drills.model import DrillResult
from backupctl.drills.run import run_drill
from backupctl.hosts.ssh import SshHost
from backupctl.sources.mariadb import MariadbSource
from backupctl.sources.postgresql import PostgresqlSource
from backupctl.sources.postgresql_instance import client_of
from backupctl.sources.protocol import Instance
from backupctl.sources.redis import RedisSource
from tests.drills.helpers import CLOCK, Bench
from tests.servers.databases import MariadbServer, PostgresServer
from tests.servers.redis import RedisServer

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


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[Instance]:
    """The PostgreSQL instances that the test's drills boot."""
    instances = []
    boot = PostgresqlSource.boot

    def remember(self: PostgresqlSource, *arguments: Any) -> Instance:
        instances.append(boot(self, *arguments))
        return instances[-1]

    monkeypatch.setattr(PostgresqlSource, "boot", remember)
    return instances


def test_postgresql_under_load_is_drilled_table_by_table(
    bench: Bench, bank: PostgresServer, booted: list[Instance]
) -> None:
    with bank.load("bank", per_second=500):
        bench.back_up()
        result = bench.drill(
            probes=[
                {"sql": {"database": "bank", "query": "select count(*) from pgbench_accounts", "equals": 100_000}},
                {"integrity": {"source": "bank-db"}},
                {"command": {"argv": ["sh", "-c", 'test -S "$DRILL_BANK_DB_SOCKETS/.s.PGSQL.$DRILL_BANK_DB_PORT"']}},
            ]
        )
    assert (result.verdict, result.level, result.reasons) == ("pass", 5, []), failed(result)
    (examined,) = [check for check in result.checks if check.name == "bank-db: pg_amcheck of bank"]
    assert (examined.level, len(examined.evidence)) == (5, 64)
    assert result.interlocks[-2:] == [
        "server for bank-db: its data is below the drill's directory",
        "server for bank-db: another system identifier than the one in production",
    ]
    tables = [check.name for check in result.checks if "pgbench_" in check.name and check.level == 4]
    assert len([name for name in tables if name.startswith("bank-db: table")]) == 4
    assert result.cleanup.proved, result.cleanup.facts
    assert bench.left_behind() == []
    (instance,) = booted
    assert not os.path.exists(instance.connection["sockets"])


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
    bench: Bench, booted: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.back_up()
    monkeypatch.setattr(PostgresqlSource, "stop", lambda *arguments: None)
    result = bench.drill()
    assert result.verdict == "pass"
    assert any("ended postgres" in fact for fact in result.cleanup.facts), result.cleanup.facts
    assert result.cleanup.proved, result.cleanup.facts
    (instance,) = booted
    assert not os.path.exists(instance.connection["sockets"])


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


def test_the_time_budget_ends_a_hanging_drill_behind_ssh(root: Path, new_ssh_host: Callable[..., SshHost]) -> None:
    bench = Bench(root, staging=new_ssh_host()).with_files().with_database().registered().back_up()
    request = bench.request(probes=[{"command": {"argv": ["sleep", "600"]}}], timeout="8s")
    result = run_drill(request, clock=CLOCK)
    assert result.verdict == "inconclusive"
    assert "time budget" in result.reasons[0]
    assert result.level == 4
    assert result.cleanup.proved, result.cleanup.facts
    assert bench.left_behind() == []


@pytest.mark.parametrize("step", ["file", "write_at", "flush"])
def test_an_interrupt_in_the_middle_of_a_restore_behind_ssh_cleans_up(
    root: Path, new_ssh_host: Callable[..., SshHost], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    bench = Bench(root, staging=new_ssh_host()).with_files().registered().back_up()

    def interrupted(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    target = watched._WatchedWriter if step == "write_at" else watched.WatchedPlacer
    monkeypatch.setattr(target, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.drill()
    assert bench.left_behind() == []


@pytest.fixture
def shop(root: Path, mariadb_server: MariadbServer) -> Iterator[Bench]:
    mariadb_server.sql(
        "CREATE DATABASE shop CHARACTER SET utf8mb4; CREATE TABLE shop.orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, item TEXT);"
    )
    mariadb_server.sql("INSERT INTO orders (item) SELECT concat('書 ', seq) FROM seq_1_to_2000;", "shop")
    bench = Bench(root).registered()
    bench.sources["shop-db"] = {"mariadb": {"socket": mariadb_server.socket, "user": "root", "databases": ["shop"]}}
    yield bench
    mariadb_server.sql("DROP DATABASE shop;")


def test_mariadb_under_load_is_drilled_table_by_table(shop: Bench, mariadb_server: MariadbServer) -> None:
    with mariadb_server.load("INSERT INTO shop.orders (item) VALUES ('while it is backed up'); DO SLEEP(0.001);"):
        shop.back_up()
        result = shop.drill(
            probes=[
                {"sql": {"database": "shop", "query": "select count(*) from orders", "at_least": 2000}},
                {"integrity": {}},
            ]
        )
    assert (result.verdict, result.level, result.reasons) == ("pass", 5, []), failed(result)
    assert [check.name for check in result.checks if check.name.startswith("shop-db: table")]
    (examined,) = [check for check in result.checks if check.name == "shop-db: CHECK TABLE of shop"]
    assert examined.actual.endswith("tables OK")
    assert result.interlocks[-1] == "server for shop-db: its data is below the drill's directory"
    assert result.cleanup.proved, result.cleanup.facts
    assert shop.left_behind() == []


def test_one_row_that_differs_in_mariadb_is_named_with_its_table(shop: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.back_up()
    load = MariadbSource.load

    def plant(self: MariadbSource, instance: Instance, files: Any, **options: Any) -> list[str]:
        notes = load(self, instance, files, **options)
        socket, user = instance.connection["socket"], instance.connection["user"]
        change = "UPDATE shop.orders SET item = 'forged' WHERE id = 471;"
        instance.host.run(["mariadb", "--no-defaults", "-S", socket, "-u", user, "-e", change], check=True)
        return notes

    monkeypatch.setattr(MariadbSource, "load", plant)
    result = shop.drill()
    assert (result.verdict, result.level) == ("fail", 3)
    (name,) = failed(result)
    assert name.startswith("shop-db: table")
    assert name.endswith("orders")


@pytest.fixture
def cache(root: Path, redis_server: RedisServer) -> Iterator[Bench]:
    redis_server.commands(
        *(f"HSET user{n} name 書{n} visits {n}" for n in range(200)), "SELECT 2", "SET greeting hello"
    )
    bench = Bench(root).registered()
    bench.sources["cache"] = {"redis": {"socket": redis_server.socket}}
    yield bench
    redis_server.commands("FLUSHALL")


def test_redis_under_load_is_drilled_key_by_key(cache: Bench, redis_server: RedisServer) -> None:
    with redis_server.load():
        cache.back_up()
        result = cache.drill(probes=[{"sql": {"database": "2", "query": "GET greeting", "equals": "hello"}}])
    assert (result.verdict, result.level, result.reasons) == ("pass", 5, []), failed(result)
    assert "cache: keys of database 0" in [check.name for check in result.checks if check.level == 4]
    assert result.cleanup.proved, result.cleanup.facts
    assert cache.left_behind() == []


def test_one_key_that_differs_in_redis_fails_its_database(cache: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.back_up()
    load = RedisSource.load

    def plant(self: RedisSource, instance: Instance, files: Any, **options: Any) -> list[str]:
        notes = load(self, instance, files, **options)
        instance.host.run(
            ["redis-cli", "-s", instance.connection["socket"], "HSET", "user7", "visits", "8"], check=True
        )
        return notes

    monkeypatch.setattr(RedisSource, "load", plant)
    result = cache.drill()
    assert (result.verdict, result.level, failed(result)) == ("fail", 3, ["cache: keys of database 0"])


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"used_memory_bytes": 1 << 60}, "bytes of memory"),
        ({"versions": {"product": "redis", "server": "99.0.0"}}, "99.0.0"),
    ],
)
def test_a_staging_host_that_cannot_serve_redis_says_nothing_about_the_backup(
    cache: Bench, facts: dict[str, Any], why: str
) -> None:
    cache.break_fingerprint = lambda fingerprint: fingerprint.update(facts)
    result = cache.back_up().drill()
    assert (result.verdict, result.level) == ("inconclusive", 0)
    assert why in result.reasons[0]
    assert result.cleanup.proved, result.cleanup.facts
