"""Which servers run on a host, and what in them no source takes: with real servers."""

from __future__ import annotations

import pytest

from backupctl.hosts.local import LocalHost
from backupctl.sources.discovery import Discovering, Reached, RunningServer, running_servers
from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from backupctl.sources.redis import RedisOptions, RedisSource
from backupctl.sources.sqlite import SqliteOptions, SqliteSource
from tests.servers.databases import MariadbServer, PostgresServer
from tests.servers.redis import RedisServer


def no_secret(reference: object) -> bytes:
    raise AssertionError(f"{reference} was asked for")


def test_servers_are_told_apart_by_process_directory_or_port() -> None:
    running = RunningServer("postgresql", "postgres", "7", "postgres", "/srv/pg", "5432")
    assert Reached("postgresql", "5432", "/srv/pg/").is_same(running)
    assert not Reached("postgresql", "5432", "/srv/other").is_same(running)
    assert Reached("postgresql", "5432").is_same(running)
    assert not Reached("mariadb", "5432", "/srv/pg").is_same(running)
    old = RunningServer("mysql", "mysqld", "9", "mysql", "/srv/my", "")  # or a new one of the other kind
    assert Reached("mysql", "", "/srv/my").is_same(old) and Reached("mariadb", "", "/srv/my").is_same(old)
    assert not Reached("mysql", "", "/srv/my").is_same(RunningServer("mariadb", "mariadbd", "9", "", "/srv/my", ""))
    assert Reached("redis", "1", "", "8").is_same(RunningServer("redis", "redis-server", "8", "", "", "6379"))
    assert not Reached("postgresql", "").is_same(RunningServer("postgresql", "postgres", "7", "", "", ""))


@pytest.mark.servers
def test_postgresql_tells_every_database_and_which_server_it_is(postgres_server: PostgresServer) -> None:
    postgres_server.sql("CREATE DATABASE covered; \n CREATE DATABASE forgotten;")
    options = PostgresqlOptions(conninfo=postgres_server.conninfo, databases=["covered"])
    host = LocalHost()
    found = PostgresqlSource("db", options, no_secret).discover(host)
    assert {"covered", "forgotten"} <= set(found.databases)
    assert "postgres" not in found.databases  # nobody has put anything into it
    assert found.protected == ["covered"]
    (mine,) = [one for one in running_servers(host) if found.is_same(one)]
    assert mine.directory == str(postgres_server.directory / "data")
    postgres_server.sql("CREATE TABLE left_here (x int)")
    try:
        assert "postgres" in PostgresqlSource("db", options, no_secret).discover(host).databases
    finally:
        postgres_server.sql("DROP TABLE left_here; ")


@pytest.mark.servers
def test_a_role_without_rights_still_tells_the_port(postgres_server: PostgresServer) -> None:
    postgres_server.sql("CREATE ROLE meek LOGIN")
    meek = postgres_server.conninfo.replace("user=postgres", "user=meek")
    found = PostgresqlSource("db", PostgresqlOptions(conninfo=meek), no_secret).discover(LocalHost())
    assert (found.port, found.directory) == (str(postgres_server.port), "")
    assert any(found.is_same(one) for one in running_servers(LocalHost()))


@pytest.mark.servers
def test_mariadb_and_redis_tell_the_same(mariadb_server: MariadbServer, redis_server: RedisServer) -> None:
    mariadb_server.sql("CREATE DATABASE forgotten")
    host, running = LocalHost(), running_servers(LocalHost())
    options = MariadbOptions(socket=mariadb_server.socket, user="root", databases=["kept"])
    found = MariadbSource("db", options, no_secret).discover(host)
    assert "forgotten" in found.databases
    assert not {"mysql", "sys", "information_schema"} & set(found.databases)
    assert len([one for one in running if found.is_same(one)]) == 1
    cache = RedisSource("cache", RedisOptions(socket=redis_server.socket), no_secret).discover(host)
    assert len([one for one in running if cache.is_same(one)]) == 1


def test_a_source_without_a_server_is_not_asked() -> None:
    assert not isinstance(SqliteSource("db", SqliteOptions(path="/x.db")), Discovering)
