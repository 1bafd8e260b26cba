"""Fixtures: one PostgreSQL, MariaDB, MySQL and Redis server per test session. In CI a missing server is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Host
from backupctl.sources import mariadb_instance
from backupctl.sources.mariadb_family import Family
from tests.servers import databases
from tests.servers import redis as redis_servers


def missing(what: str, command: str = "") -> NoReturn:
    message = f"{what} is not installed: `{command or f'apt-get install {what}'}`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def postgres_of_process() -> Iterator[databases.PostgresServer]:
    programs = databases.postgres_directory()
    if programs is None:
        missing("postgresql")
    with databases.postgres_server(programs) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server(postgres_of_process: databases.PostgresServer) -> Iterator[databases.PostgresServer]:
    """Without what another file's tests left in it: which file came before is chance."""
    with databases.given_back(postgres_of_process):
        yield postgres_of_process


@pytest.fixture(scope="session", autouse=True)
def restored_mariadb_servers_are_installed_once() -> Iterator[None]:
    """Those that a drill or a restore in this process starts."""
    with pytest.MonkeyPatch.context() as patch:
        original = mariadb_instance.install_command

        def planted(host: Host, program: str, *family: Family) -> list[str]:
            local = isinstance(host, LocalHost)
            return [*(databases.installed_once() if local else []), *original(host, program, *family)]

        patch.setattr(mariadb_instance, "install_command", planted)
        yield


@pytest.fixture(scope="session")
def mariadb_of_process() -> Iterator[databases.MariadbServer]:
    if not databases.mariadb_programs():
        missing("mariadb-server")
    with databases.mariadb_server("--log-bin=bin", "--server-id=1") as server:
        yield server


@pytest.fixture(scope="module")
def mariadb_server(mariadb_of_process: databases.MariadbServer) -> Iterator[databases.MariadbServer]:
    """Without what another file's tests left in it: which file came before is chance."""
    with databases.given_back(mariadb_of_process):
        yield mariadb_of_process


@pytest.fixture(scope="session")
def mysql_programs() -> Path:
    """What is above the `bin` that holds MySQL's programs, where tools/mysql-server.sh has put them."""
    place = os.environ.get("BACKUPCTL_MYSQL_SERVER", "")
    if not place:
        missing("mysql-server", "sh tools/mysql-server.sh")
    return Path(place)


@pytest.fixture(scope="session")
def mysql_of_process(mysql_programs: Path) -> Iterator[databases.MysqlServer]:
    gtids = ("--gtid-mode=ON", "--enforce-gtid-consistency=ON")
    with databases.mysql_server(mysql_programs, "--log-bin=bin", "--server-id=1", *gtids) as server:
        yield server


@pytest.fixture(scope="module")
def mysql_server(mysql_of_process: databases.MysqlServer) -> Iterator[databases.MysqlServer]:
    """Without what another file's tests left in it: which file came before is chance."""
    with databases.given_back(mysql_of_process):
        yield mysql_of_process


@pytest.fixture(scope="session")
def newer_servers() -> Path:
    """Where tools/newer-servers.sh has put newer majors: `lib/postgresql/17/bin`, and `bin` for MariaDB 11.8 and Valkey 8."""
    place = os.environ.get("BACKUPCTL_NEWER_SERVERS", "")
    if not place:
        missing("newer servers", "sh tools/newer-servers.sh")
    return Path(place)


@pytest.fixture
def narrow_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose output nobody reads yet still runs: little of it fits into its pipe."""
    monkeypatch.setattr("backupctl.hosts.pipes.PIPE_BYTES", 1 << 12)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis_servers.RedisServer]:
    if not redis_servers.redis_programs():
        missing("redis-server")
    with redis_servers.redis_server() as server:
        yield server
