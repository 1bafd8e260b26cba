"""Redis over TLS, and a staging host that has Valkey's programs: by their names, since no Valkey is in Debian 12."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.errors import SourceError
from backupctl.sources.redis import RedisOptions, RedisSource
from tests.servers.databases import free_port
from tests.servers.redis import redis_server
from tests.servers.tls import certificates
from tests.sources.helpers import CLOCK, HOST, bad, take

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def secured():
    """A server that speaks TLS and asks for a certificate; the directory holds what `certificates` says."""
    port = free_port()
    with certificates("cache.test") as directory:
        files = {"--tls-cert-file": "server.pem", "--tls-key-file": "server.key", "--tls-ca-cert-file": "ca.pem"}
        options = [word for option, name in files.items() for word in (option, f"{directory}/{name}")]
        with redis_server("--tls-port", str(port), *options) as server:
            server.commands("SET key value", *(f"RPUSH list {number}" for number in range(500)))
            yield server, port, directory


def source(secured, bin_dir=None, **tls):
    _, port, directory = secured
    given = {"ca": "ca.pem", "certificate": "own.pem", "key": "own.key", "name": "cache.test", **tls}
    paths = {word: value if word == "name" else value and f"{directory}/{value}" for word, value in given.items()}
    options = RedisOptions(address="127.0.0.1", port=port, tls=paths, bin_dir=bin_dir)
    return RedisSource("cache", options, lambda ref: b"")


def test_the_same_backup_as_without(secured, tmp_path):
    server, _, _ = secured
    _, encrypted = take(source(secured))
    _, plain = take(RedisSource("cache", RedisOptions(socket=server.socket), lambda ref: b""))
    assert encrypted["databases"] == plain["databases"]
    assert encrypted["databases"]["0"]["lasting"][0] == 2
    assert not [one for one in source(secured).preflight(HOST) if one.severity == "error"]


@pytest.mark.parametrize(
    ("tls", "reason"),
    [
        ({"ca": "other.pem"}, "certificate verify failed"),
        ({"name": "elsewhere.test"}, "certificate verify failed"),
        ({"name": None}, "certificate verify failed"),
        ({"certificate": None, "key": None}, "certificate required|closed the connection|EOF occurred"),
        (
            {"certificate": "other.pem", "key": "other.key"},
            "unknown ca|closed the connection|decrypt error|EOF occurred",
        ),
    ],
)
def test_whom_it_does_not_trust_it_does_not_speak_to(secured, tls, reason):
    with pytest.raises(SourceError, match=reason) as caught, source(secured, **tls).open(HOST, CLOCK):
        pass
    if "verify failed" in reason:
        assert "correct `tls` of source cache" in caught.value.next_step
    (finding,) = source(secured, **tls).preflight(HOST)
    assert finding.severity == "error"


def test_options_refused():
    for wrong in ({"socket": "/s", "tls": {}}, {"tls": {"key": "/k"}}, {"tls": {"insecure": True}}):
        with pytest.raises(ValidationError):
            RedisOptions(**wrong)


def test_valkeys_programs_are_found_by_their_names(secured):
    """`valkey-server` here is Redis that calls itself so: what is tried is whom we start, and with which words."""
    server, _, _ = secured
    directory = Path(tempfile.mkdtemp(prefix="bctl-valkey-", dir="/tmp"))
    directory.chmod(0o755)
    program = directory / "valkey-server"
    version = '[ "$1" = --version ] && echo "Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=0" && exit 0'
    program.write_text(f'#!/bin/sh\n{version}\nexec {shutil.which("redis-server")} "$@"\n')
    program.chmod(0o755)
    try:
        cache = RedisSource("cache", RedisOptions(socket=server.socket, bin_dir=str(directory)), lambda ref: b"")
        files, fingerprint = take(cache)
        fingerprint["versions"] |= {"product": "valkey", "server": "8.0.1"}
        instance = cache.boot(HOST, f"{directory}/drill".encode(), fingerprint)
        try:
            cache.load(instance, files)
            assert bad(cache.compare(instance, fingerprint)) == []
            assert instance.version == "8.0.1"
            assert cache.client_command(instance, "3")[0] == "valkey-cli"
        finally:
            cache.stop(instance)
    finally:
        shutil.rmtree(directory)
