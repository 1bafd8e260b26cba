"""Databases that are being written to: backed up in one snapshot with files, drilled table by table, restored and served."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.processes import gone, kill_below, wait_until
from tests.end_to_end.site import Said, Site
from tests.servers.databases import MariadbServer, PostgresServer, free_port
from tests.soak import rounds

pytestmark = pytest.mark.servers

ROWS = 2_000


@pytest.fixture(scope="module")
def bank(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    postgres_server.sql("CREATE DATABASE ledger;")
    postgres_server.pgbench_init("ledger")
    yield postgres_server
    postgres_server.sql("DROP DATABASE ledger;")


@pytest.fixture(scope="module")
def shop(mariadb_server: MariadbServer) -> Iterator[MariadbServer]:
    mariadb_server.sql("CREATE DATABASE market CHARACTER SET utf8mb4;")
    for table in ("orders", "writes"):
        mariadb_server.sql(f"CREATE TABLE {table} (id BIGINT AUTO_INCREMENT PRIMARY KEY, item TEXT);", "market")
    mariadb_server.sql(f"INSERT INTO orders (item) SELECT concat('書 ', seq) FROM seq_1_to_{ROWS};", "market")
    yield mariadb_server
    mariadb_server.sql("DROP DATABASE market;")


@pytest.fixture
def sources(bank: PostgresServer, shop: MariadbServer) -> dict[str, str]:
    return {
        "ledger": f"{{postgresql: {{conninfo: '{bank.conninfo}', databases: [ledger]}}}}",
        "market": f"{{mariadb: {{socket: {shop.socket}, user: root, databases: [market]}}}}",
        "db": "{sqlite: {path: ../input/shop.db}}",
        "www": "{files: {paths: [../input/www]}}",
    }


@pytest.fixture
def all_sources(open_site: Site, sources: dict[str, str]) -> Site:
    """A job with a source of every kind."""
    return with_sources(open_site, sources)


def with_sources(site: Site, sources: dict[str, str]) -> Site:
    site.sources = sources
    site.configure()
    return site.prepare()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A program that goes on inserting into the SQLite database, in WAL mode, until the context ends."""
    stop = threading.Event()
    failed: list[Exception] = []

    def write() -> None:
        database = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            while not stop.wait(0.001):
                database.execute("insert into orders(customer, total) values ('while it is backed up', 1)")
        except sqlite3.Error as error:
            failed.append(error)
        finally:
            database.close()

    with sqlite3.connect(path) as database:
        database.execute("pragma journal_mode = wal")
    database.close()
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def failed_checks(said: Said) -> list[str]:
    return [line["message"] for line in said.lines if line["type"] == "check"]


def test_every_kind_under_load_in_one_snapshot_again_and_again(
    all_sources: Site, bank: PostgresServer, shop: MariadbServer
) -> None:
    site = all_sources
    with ExitStack() as load:
        load.enter_context(bank.load("ledger", per_second=300))
        load.enter_context(
            shop.load("INSERT INTO market.writes (item) VALUES ('while it is backed up'); DO SLEEP(0.001);")
        )
        load.enter_context(writing(site.root / "input" / "shop.db"))
        for turn in range(rounds(1, 50)):
            assert site.run("run", "--json").line("finished")["state"] == "complete", turn
            said = site.run("drill", "run", "--json")
            done = said.line("finished")
            assert (done["verdict"], done["failed_checks"], done["cleaned_up"]) == ("pass", 0, True), said.out
            assert done["level"] >= 4
    checks = {one["name"]: one for one in site.run("drill", "show", "site/full", "--json").line("drill")["checks"]}
    for table in ("pgbench_accounts", "pgbench_history", "market.orders", "market.writes", "shop.db.orders"):
        found = [one for name, one in checks.items() if "table" in name and name.endswith(table)]
        assert found and all(one["ok"] and one["level"] == 4 for one in found), f"{table} in {sorted(checks)}"
    (snapshot,) = [line for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"][-1:]
    assert snapshot["sources"] == ["db", "ledger", "market", "www"]
    assert [one.name for one in (site.root / "staging").iterdir()] == ["backupctl-staging.json"]


PLANT = """
import os, subprocess, sys

def before(module, name, plant):
    source = getattr(__import__(module, fromlist=[name]), name)
    compare = source.compare
    def planted(self, instance, fingerprint):
        plant(instance)
        return compare(self, instance, fingerprint)
    source.compare = planted

def postgresql(instance):
    psql = [instance.connection["bin_dir"] + "/psql", "-h", instance.connection["sockets"], "-U", instance.connection["user"]]
    sql = "update pgbench_accounts set abalance = abalance + 1 where aid = 4711"
    subprocess.run([*psql, "-d", "ledger", "-c", sql], check=True, capture_output=True)

def mariadb(instance):
    client = ["mariadb", "--no-defaults", "-S", instance.connection["socket"], "-u", instance.connection["user"]]
    sql = "update market.orders set item = 'forged' where id = 471"
    subprocess.run([*client, "-e", sql], check=True, capture_output=True)

def sqlite(instance):
    import sqlite3
    with sqlite3.connect(os.fsdecode(instance.directory) + "/shop.db") as database:
        database.execute("update orders set total = total + 0.01 where id = 471")
    database.close()

if "drill" in sys.orig_argv:  # the run is forked from it
    before("backupctl.sources.KIND", "CLASS", KIND)
"""
"""Becomes sitecustomize: between loading and comparing, one row of the restored copy is changed."""


@pytest.mark.parametrize(
    ("kind", "cls", "source", "table"),
    [
        ("postgresql", "PostgresqlSource", "ledger", "pgbench_accounts"),
        ("mariadb", "MariadbSource", "market", "market.orders"),
        ("sqlite", "SqliteSource", "db", "shop.db.orders"),
    ],
)
def test_one_row_that_differs_in_the_restored_copy_is_named_with_its_table(
    open_site: Site, sources: dict[str, str], kind: str, cls: str, source: str, table: str
) -> None:
    site = with_sources(open_site, {source: sources[source]})
    site.run("run")
    (site.root / "planted").mkdir()
    (site.root / "planted" / "sitecustomize.py").write_text(PLANT.replace("KIND", kind).replace("CLASS", cls))
    site.environment["PYTHONPATH"] = str(site.root / "planted")
    said = site.run("drill", "run", "--json", expect=4)
    assert (said.line("finished")["verdict"], said.line("finished")["failed_checks"]) == ("fail", 1)
    (message,) = failed_checks(said)
    assert f"table {table}" in message or (f"table {source}" in message and table in message), message
    plain = site.run("drill", "run", expect=4)
    assert table in plain.text
    assert table in site.run("status", expect=4).text
    del site.environment["PYTHONPATH"]
    site.run("drill", "run")


@pytest.mark.parametrize(
    ("source", "program", "option"), [("ledger", "/pg_dump", "--snapshot="), ("market", "mariadb-dump", "--databases")]
)
def test_a_dump_that_is_killed_half_way_never_makes_a_complete_run(
    open_site: Site, sources: dict[str, str], source: str, program: str, option: str
) -> None:
    site = with_sources(open_site, {source: sources[source], "www": sources["www"]})
    running = site.start("run", "--json")
    kill_below(running.pid, program, option)
    said = site.ended(running, expect=3)
    assert said.line("finished")["state"] == "incomplete"
    (problem,) = [line for line in said.lines if line["type"] == "problem"]
    assert problem["source"] == source
    status = [line["status"] for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"]
    assert status == ["incomplete"]
    assert site.run("status", expect=6).code == 6
    assert site.run("run", "--json").line("finished")["state"] == "complete"
    site.run("check", "--read-data")


def query(connect: list[str], sql: str) -> str:
    more = ["-At", "-c", sql] if connect[0].endswith("psql") else ["-N", "-B", "-e", sql]
    done = subprocess.run([*connect, *more], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("source", "sql", "answer"),
    [
        ("ledger", "select count(*), min(aid), max(aid) from pgbench_accounts", "100000|1|100000"),
        ("market", "select count(*), min(id), max(item) from orders where id <= 9", "9\t1\t書 9"),
    ],
)
def test_a_restored_database_is_served_until_its_process_is_killed(
    open_site: Site, sources: dict[str, str], source: str, sql: str, answer: str
) -> None:
    site = with_sources(open_site, {source: sources[source]})
    site.run("run")
    into = site.root / "served"
    served = site.run("restore", "--only", f"db:{source}", "--start-database", "--into", str(into), "--json").line(
        "restored"
    )
    try:
        assert query(served["connect"], sql) == answer
        assert str(into) in served["remove"]
        assert all(Path(one).is_dir() for one in served["remove"])
    finally:
        os.kill(served["pid"], signal.SIGTERM)
    wait_until(lambda: gone(served["pid"]), "the server to end")
    again = site.run("restore", "--only", f"db:{source}", "--start-database", "--into", str(into), expect=2)
    assert "does not exist yet" in again.err
    for directory in served["remove"]:
        subprocess.run(["rm", "-r", directory], check=True)
    said = site.run("restore", "--only", f"db:{source}", "--start-database", "--into", str(into))
    typed = dict(line.strip().split(": ", 1) for line in said.out.splitlines()[1:])
    assert query(shlex.split(typed["look inside"]), sql) == answer
    subprocess.run(["sh", "-c", typed["when done"]], check=True)
    assert not into.exists()


def test_a_restored_sqlite_database_needs_no_process(open_site: Site, sources: dict[str, str]) -> None:
    site = with_sources(open_site, {"db": sources["db"]})
    site.run("run")
    said = site.run("restore", "--only", "db:shop.db", "--start-database", "--into", "looked")
    assert "kill" not in said.out
    assert f"sqlite3 {site.root}/looked/shop.db" in said.out
    database = sqlite3.connect(site.root / "looked" / "shop.db")
    assert database.execute("select count(*) from orders").fetchone() == (ROWS,)
    database.close()


def test_a_wrong_database_password_is_one_clear_line(
    open_site: Site, bank: PostgresServer, shop: MariadbServer
) -> None:
    bank.sql("DROP ROLE IF EXISTS nightly; CREATE ROLE nightly LOGIN PASSWORD 'right';")
    shop.sql("CREATE OR REPLACE USER nightly@'127.0.0.1' IDENTIFIED BY 'right';")
    (open_site.root / "wrong").write_text("hunter2\n")
    (open_site.root / "wrong").chmod(0o600)
    connection = f"host=127.0.0.1 port={bank.port} user=nightly"
    site = with_sources(
        open_site,
        {
            "ledger": f"{{postgresql: {{conninfo: '{connection}', password: {{file: ../wrong}}, databases: [ledger]}}}}",
            "market": f"{{mariadb: {{address: 127.0.0.1, port: {shop.port}, user: nightly, password: {{file: ../wrong}}}}}}",
        },
    )
    said = site.run("run", "--json", expect=1)
    messages = {line["source"]: line["message"] for line in said.lines if line["type"] == "problem"}
    assert "password authentication failed" in messages["ledger"]
    assert "Access denied" in messages["market"]
    assert "hunter2" not in said.text
    assert site.run("snapshots").out.strip() == "no snapshot"
    plain = site.run("job", "check", "site", expect=None)
    assert plain.code != 0
    assert "password authentication failed" in plain.text
    bank.sql("DROP ROLE nightly;")
    shop.sql("DROP USER nightly@'127.0.0.1';")


def test_a_server_that_is_down_costs_its_own_source_only(open_site: Site, sources: dict[str, str]) -> None:
    port = free_port()
    site = with_sources(
        open_site,
        {
            "ledger": f"{{postgresql: {{conninfo: 'host=127.0.0.1 port={port} user=nightly', databases: [ledger]}}}}",
            "market": f"{{mariadb: {{address: 127.0.0.1, port: {port}, user: nightly}}}}",
            "www": sources["www"],
        },
    )
    said = site.run("run", expect=3)
    for source, reason in (("ledger", "Connection refused"), ("market", "Can't connect")):
        lines = [line for line in said.err.splitlines() if reason in line]
        assert any(source in line for line in lines), said.err
    said = site.run("run", "--json", expect=3)
    assert {line["source"] for line in said.lines if line["type"] == "problem"} == {"ledger", "market"}


def test_a_database_comes_back_into_a_live_server_under_another_name(
    open_site: Site, bank: PostgresServer, sources: dict[str, str]
) -> None:
    site = with_sources(open_site, {"ledger": sources["ledger"]})
    bank.sql(
        "CREATE ROLE teller; ALTER TABLE pgbench_tellers OWNER TO teller; CREATE SEQUENCE numbers START 7;", "ledger"
    )
    site.run("run")
    held = bank.sql("SELECT sum(tbalance) FROM pgbench_tellers", "ledger")
    bank.sql(
        "UPDATE pgbench_tellers SET tbalance = tbalance + 1; ALTER TABLE pgbench_tellers OWNER TO postgres; DROP ROLE teller",
        "ledger",
    )
    command = ["restore", "--only", "db:ledger", "--into", "way", "--into-server", bank.conninfo]
    assert "needs a new name" in site.run(*command, expect=2).err
    assert "has a database ledger already" in site.run(*command, "--as", "ledger", expect=2).err
    assert not (site.root / "way").exists(), "refused before anything was restored"
    typed = [*command[:-1], f"{bank.conninfo} password=secret", "--as", "x"]
    assert "holds a password" in site.run(*typed, expect=2).err
    lacking = site.run(*command, "--as", "ledger_before", expect=2).err
    assert "lacks roles" in lacking and 'CREATE ROLE "teller";' in lacking
    assert bank.sql("SELECT count(*) FROM pg_database WHERE datname = 'ledger_before'") == "0"
    bank.sql("CREATE ROLE teller")
    site.run(*command, "--as", "ledger_before")
    assert bank.sql("SELECT sum(tbalance) FROM pgbench_tellers", "ledger_before") == held
    assert bank.sql("SELECT sum(tbalance) FROM pgbench_tellers", "ledger") != held
    assert (
        bank.sql("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'pgbench_tellers'", "ledger_before")
        == "teller"
    )
    assert bank.sql("SELECT last_value FROM numbers", "ledger_before") == "7"
    assert not (site.root / "way").exists()
    bank.sql("DROP DATABASE ledger_before;")
    bank.sql("DROP SEQUENCE numbers;", "ledger")
    bank.sql("DROP ROLE teller;")
