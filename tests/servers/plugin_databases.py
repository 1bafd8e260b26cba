"""Fixtures: one PostgreSQL, MariaDB and Redis server per test session. In CI a missing server is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.servers import databases
from tests.servers import redis as redis_servers


def missing(package: str) -> NoReturn:
    message = f"{package} is not installed: `apt-get install {package}`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[databases.PostgresServer]:
    programs = databases.postgres_directory()
    if programs is None:
        missing("postgresql")
    with databases.postgres_server(programs) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[databases.MariadbServer]:
    if not databases.mariadb_programs():
        missing("mariadb-server")
    with databases.mariadb_server("--log-bin=bin", "--server-id=1") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis_servers.RedisServer]:
    if not redis_servers.redis_programs():
        missing("redis-server")
    with redis_servers.redis_server() as server:
        yield server
