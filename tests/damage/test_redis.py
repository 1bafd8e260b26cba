"""Redis: each kind of damage, and none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from hashlib import sha256

import pytest

from backupctl.sources.protocol import Instance
from backupctl.sources.redis import RedisSource
from tests.damage.matrix import Case
from tests.damage.rows.redis import ROWS
from tests.damage.stage import (
    Plant,
    Stage,
    cut_after,
    each_of,
    edited,
    full_disk,
    halved,
    killed,
    programs,
    restored,
    stage,
    stale,
    wrong_key,
)
from tests.servers.databases import run
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.servers
ITEM = "RDB of Redis"


@pytest.fixture(scope="module")
def cache(redis_server: RedisServer) -> Iterator[RedisServer]:
    # much more than a pipe holds, also compressed: whoever sends it has not ended when it is killed
    words = [f"SET key{number} {sha256(b'%d' % number).hexdigest() * 2}" for number in range(3_000)]
    lines = ["FLUSHALL", *words, "SELECT 1", "SET one 1", "SET two 2", "SELECT 2", "SET three 3"]
    lines += ["SELECT 4", "SET later 1 EX 864000"]
    lines += ["FUNCTION LOAD REPLACE \"#!lua name=mine\\nredis.register_function('f', function() return 1 end)\""]
    redis_server.commands(*lines)
    yield redis_server
    redis_server.commands("FLUSHALL", "FUNCTION FLUSH")


@pytest.fixture(scope="module")
def site(cache: RedisServer) -> Iterator[Stage]:
    with stage("redis", f"{{socket: {cache.socket}}}", cache) as made:
        yield made


def in_restored(*lines: str) -> Plant:
    def change(instance: Instance) -> None:
        said = run(["redis-cli", "-s", instance.connection["socket"]], "\n".join(lines) + "\n")
        assert "ERR" not in said

    return restored(RedisSource, change)


def flipped(whole: bytes) -> bytes:
    place = whole.index(b"key471")
    return whole[:place] + b"l" + whole[place + 1 :]


def cut(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
    cache: RedisServer = site.server
    port = site.resources.enter_context(cut_after(cache.socket, 60_000))
    site.configure(f"{{address: 127.0.0.1, port: {port}}}")


def with_server(body: str) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch, site: Stage) -> None:
        directory = programs(site, [], redis_server=body)
        site.configure(site.options.replace("}", f", bin_dir: {directory}}}"))

    return plant


OLDER = 'echo "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=0"'
LAZY = f'case "$1" in --version) exec {shutil.which("redis-server")} "$@";; esac; echo "disk is on strike"; exit 1'
PLANTS: dict[str, Plant] = {
    "dump process killed": killed(ITEM),
    "connection cut at a byte": cut,
    "RDB cut in half, exit status 0": edited(ITEM, halved),
    "one flipped byte": edited(ITEM, flipped),
    "wrong key": wrong_key,
    "one value changed": in_restored("SET key471 other"),
    "one key missing": in_restored("SELECT 1", "DEL one"),
    "one database missing": in_restored("SELECT 2", "FLUSHDB"),
    "time to live changed": in_restored("SELECT 4", "EXPIRE later 400000"),
    "function library missing": in_restored("FUNCTION FLUSH"),
    "staging server older": with_server(OLDER),
    "full disk on staging": full_disk,
    "server that will not start": with_server(LAZY),
    "stale backup": stale,
}


@each_of(ROWS)
def test_every_damage_is_told(site: Stage, monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    site.tells(cases, PLANTS, monkeypatch)


@pytest.mark.soak
def test_a_healthy_server_under_load_is_never_suspected(site: Stage) -> None:
    site.never_suspected(ROWS, site.server.load)
