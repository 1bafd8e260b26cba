"""Redis: each kind of damage, and none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from backupctl.sources.protocol import Instance
from backupctl.sources.redis import RedisSource
from tests.damage.matrix import HEALTHY_ROUNDS, Case
from tests.damage.rows.redis import CASES
from tests.damage.stage import (
    Stage,
    alone,
    change_restored,
    cut_after,
    edit_stream,
    full_disk,
    halved,
    kill_dump,
    programs,
    stage,
    stale,
    wrong_key,
)
from tests.servers.databases import run
from tests.servers.redis import RedisServer
from tests.soak import rounds

pytestmark = pytest.mark.servers
ITEM = "RDB of Redis"
Plant = Callable[[pytest.MonkeyPatch, Stage, RedisServer], None]


@pytest.fixture(scope="module")
def cache(redis_server: RedisServer) -> Iterator[RedisServer]:
    words = [f"SET key{number} {f'{number:x}' * 60}" for number in range(3_000)]
    lines = ["FLUSHALL", *words, "SELECT 1", "SET one 1", "SET two 2", "SELECT 2", "SET three 3"]
    lines += ["SELECT 4", "SET later 1 EX 864000"]
    lines += ["FUNCTION LOAD REPLACE \"#!lua name=mine\\nredis.register_function('f', function() return 1 end)\""]
    redis_server.commands(*lines)
    yield redis_server
    redis_server.commands("FLUSHALL", "FUNCTION FLUSH")


@pytest.fixture(scope="module")
def site(cache: RedisServer) -> Iterator[Stage]:
    with stage("redis", f"{{socket: {cache.socket}}}") as made:
        yield made


def in_restored(*lines: str) -> Plant:
    def plant(instance: Instance) -> None:
        said = run(["redis-cli", "-s", instance.connection["socket"]], "\n".join(lines) + "\n")
        assert "ERR" not in said

    return lambda monkeypatch, site, cache: change_restored(monkeypatch, RedisSource, plant)


def flipped(whole: bytes) -> bytes:
    place = whole.index(b"key471")
    return whole[:place] + b"l" + whole[place + 1 :]


def cut(monkeypatch: pytest.MonkeyPatch, site: Stage, cache: RedisServer) -> None:
    port = site.resources.enter_context(cut_after(cache.socket, 60_000))
    site.configure(f"{{address: 127.0.0.1, port: {port}}}")


def with_server(body: str) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage, cache: RedisServer) -> None:
        directory = programs(site, [], redis_server=body)
        site.configure(site.options.replace("}", f", bin_dir: {directory}}}"))

    return plant


OLDER = 'echo "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=0"'
LAZY = f'case "$1" in --version) exec {shutil.which("redis-server")} "$@";; esac; echo "disk is on strike"; exit 1'
PLANTS: dict[str, Plant] = {
    "dump process killed": lambda monkeypatch, site, cache: kill_dump(monkeypatch, ITEM),
    "connection cut at a byte": cut,
    "RDB cut in half, exit status 0": lambda monkeypatch, site, cache: edit_stream(monkeypatch, ITEM, halved),
    "one flipped byte": lambda monkeypatch, site, cache: edit_stream(monkeypatch, ITEM, flipped),
    "wrong key": lambda monkeypatch, site, cache: wrong_key(site),
    "one value changed": in_restored("SET key471 other"),
    "one key missing": in_restored("SELECT 1", "DEL one"),
    "one database missing": in_restored("SELECT 2", "FLUSHDB"),
    "time to live changed": in_restored("SELECT 4", "EXPIRE later 400000"),
    "function library missing": in_restored("FUNCTION FLUSH"),
    "staging server older": with_server(OLDER),
    "full disk on staging": lambda monkeypatch, site, cache: full_disk(monkeypatch, site),
    "server that will not start": with_server(LAZY),
    "stale backup": lambda monkeypatch, site, cache: stale(site),
}


@pytest.mark.parametrize("case", alone(CASES), ids=lambda case: case.damage)
def test_every_damage_is_told(site: Stage, cache: RedisServer, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    with site.prepared():
        PLANTS[case.damage](monkeypatch, site, cache)
        site.told(case)


def test_damages_that_come_together_are_all_told(
    site: Stage, cache: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case for case in CASES if case.together]
    with site.prepared():
        for case in cases:
            PLANTS[case.damage](monkeypatch, site, cache)
        site.told_each(cases)


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(site: Stage, cache: RedisServer) -> None:
    with site.prepared(), cache.load():
        for _ in range(rounds(HEALTHY_ROUNDS, 50)):
            site.healthy()
