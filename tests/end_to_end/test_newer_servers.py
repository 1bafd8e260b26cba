"""Several majors on one machine, and Valkey beside Redis: each is read, restored and compared with programs of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.site import Site
from tests.servers.databases import (
    MariadbServer,
    PostgresServer,
    mariadb_server,
    postgres_server,
    private_directory,
)
from tests.servers.redis import RedisServer, redis_server

pytestmark = pytest.mark.servers

ROLES = """
CREATE ROLE keeper NOLOGIN; CREATE ROLE reader NOLOGIN; CREATE ROLE "the chief" LOGIN;
GRANT pg_read_all_data TO reader;
GRANT keeper TO "the chief" WITH ADMIN OPTION;
SET ROLE "the chief"; GRANT keeper TO reader; RESET ROLE;
"""
"""Some grants stand in the superuser's name, and one in that of a role that was given the right to grant."""


@pytest.fixture(scope="module")
def bank(newer_servers: Path) -> Iterator[PostgresServer]:
    with postgres_server(newer_servers / "lib/postgresql/17/bin", wal_level="replica") as server:
        server.sql("CREATE DATABASE ledger;")
        server.pgbench_init("ledger")
        server.sql(ROLES)
        yield server


@pytest.fixture(scope="module")
def shop(newer_servers: Path) -> Iterator[MariadbServer]:
    with mariadb_server("--log-bin=bin", "--server-id=1", base=newer_servers) as server:
        server.sql(
            "CREATE DATABASE market; CREATE USER reader@localhost IDENTIFIED BY 'x'; GRANT SELECT ON market.* TO reader@localhost"
        )
        server.sql(
            "CREATE TABLE orders (id UUID PRIMARY KEY DEFAULT uuid(), at TIMESTAMP, v VECTOR(3) NOT NULL, ip INET6);",
            "market",
        )
        server.sql(
            "INSERT INTO orders (at, v, ip) SELECT now(), vec_fromtext('[1,2,3]'), '::1' FROM seq_1_to_500;", "market"
        )
        server.sql("CREATE TABLE writes (id BIGINT AUTO_INCREMENT PRIMARY KEY, item TEXT);", "market")
        yield server


@pytest.fixture(scope="module")
def cache(newer_servers: Path) -> Iterator[RedisServer]:
    with redis_server(program=str(newer_servers / "bin/valkey-server")) as server:
        server.commands("SET key value", "HSET hash a 1 b 2", "ZADD scores 1.5 a 2 b")
        yield server


@pytest.fixture
def beside(newer_servers: Path, postgres_of_process: PostgresServer) -> Iterator[Path]:
    """Both majors of PostgreSQL and both series of MariaDB below one directory, as `{major}` and `{series}` find them."""
    place = private_directory()
    place.chmod(0o755)
    for programs in (newer_servers / "lib/postgresql/17/bin", postgres_of_process.programs):
        (place / programs.parent.name).mkdir()
        (place / programs.parent.name / "bin").symlink_to(programs)
    (place / "mariadb-11.8").symlink_to(newer_servers)
    yield place
    shutil.rmtree(place)


def test_each_server_with_its_own_majors_programs(
    open_site: Site,
    beside: Path,
    bank: PostgresServer,
    shop: MariadbServer,
    cache: RedisServer,
    newer_servers: Path,
    postgres_server: PostgresServer,
    mariadb_server: MariadbServer,
) -> None:
    """Under load, in one snapshot, each kind and method; one drill restores them all."""
    postgres_server.sql("CREATE DATABASE old_ledger;")
    postgres_server.pgbench_init("old_ledger")
    mariadb_server.sql("CREATE DATABASE old_market")
    mariadb_server.sql("CREATE TABLE orders (id INT PRIMARY KEY) SELECT seq id FROM seq_1_to_9", "old_market")
    site, postgres, mariadb = (
        open_site,
        f'bin_dir: "{beside}/{{major}}/bin"',
        f'bin_dir: "{beside}/mariadb-{{series}}/bin"',
    )
    new, old = f"{postgres}, conninfo: '{bank.conninfo}'", f"{postgres}, conninfo: '{postgres_server.conninfo}'"
    site.sources = {
        "cache": f"{{redis: {{socket: {cache.socket}, bin_dir: {newer_servers}/bin}}}}",
        "new-dump": f"{{postgresql: {{{new}, databases: [ledger]}}}}",
        "new-ordered": f"{{postgresql: {{{new}, databases: [ledger], method: ordered}}}}",
        "new-physical": f"{{postgresql: {{{new}, method: physical}}}}",
        "old-dump": f"{{postgresql: {{{old}, databases: [old_ledger]}}}}",
        "shop-dump": f"{{mariadb: {{socket: {shop.socket}, user: root, {mariadb}, databases: [market]}}}}",
        "shop-physical": f"{{mariadb: {{socket: {shop.socket}, user: root, {mariadb}, method: physical}}}}",
        "old-shop": f"{{mariadb: {{socket: {mariadb_server.socket}, user: root, {mariadb}, databases: [old_market]}}}}",
    }
    site.configure()
    site.prepare()
    with ExitStack() as load:
        load.enter_context(cache.load())
        load.enter_context(bank.load("ledger", per_second=100))
        load.enter_context(
            shop.load("INSERT INTO market.writes (item) VALUES ('while it is backed up'); DO SLEEP(0.01);")
        )
        assert site.run("run", "--json", timeout=600).line("finished")["state"] == "complete"
        done = site.run("drill", "run", "--json", timeout=600).line("finished")
    assert (done["verdict"], done["failed_checks"], done["cleaned_up"]) == ("pass", 0, True)
    checks = site.run("drill", "show", "site/full", "--json").line("drill")["checks"]
    assert all(one["ok"] for one in checks if one["name"].startswith("cache: "))
    for source in site.sources.keys() - {"cache"}:
        tables = [one for one in checks if one["name"].startswith(f"{source}: table ")]
        assert tables and all(one["ok"] and one["level"] == 4 for one in tables), source
    assert {f"new-dump: role {name}" for name in ("keeper", "reader", "the chief")} <= {one["name"] for one in checks}


def test_a_staging_host_without_that_major_cannot_try(
    open_site: Site, newer_servers: Path, bank: PostgresServer
) -> None:
    site = open_site
    programs = newer_servers / "lib/postgresql/17/bin"
    site.sources = {"db": f"{{postgresql: {{conninfo: '{bank.conninfo}', databases: [ledger], bin_dir: {programs}}}}}"}
    site.configure()
    site.prepare()
    site.run("run")
    site.sources = {"db": f"{{postgresql: {{conninfo: '{bank.conninfo}', databases: [ledger]}}}}"}
    site.configure()
    said = site.run("drill", "run", "--json", expect=5)
    assert said.line("finished")["verdict"] == "inconclusive"
    assert "PostgreSQL 17" in said.text and "postgresql-17" in said.text
