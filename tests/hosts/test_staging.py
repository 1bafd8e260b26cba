"""The staging marker, stepping down from root, and what configuration says about hosts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.clock import FakeClock
from backupctl.errors import CouldNotRunError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.options import HostOptions
from backupctl.hosts.protocol import HostFacts
from backupctl.hosts.registry import open_host, scratch_directory
from backupctl.hosts.secret import SecretRef
from backupctl.hosts.sizes import parse_size
from backupctl.hosts.ssh import SshHost
from backupctl.hosts.staging import FILE_NAME, register, require_marker
from backupctl.hosts.unprivileged import unprivileged


def no_secret(reference: SecretRef) -> bytes:
    raise AssertionError(reference)


class Elsewhere(LocalHost):
    def facts(self) -> HostFacts:
        return replace(super().facts(), machine_id="another", hostname="another")


@contextmanager
def refused(match: str) -> Iterator[None]:
    with pytest.raises(CouldNotRunError, match=match) as caught:
        yield
    assert "`backupctl host register staging`" in caught.value.next_step


def test_a_directory_becomes_staging_only_when_registered(tmp_path: Path) -> None:
    host, scratch = LocalHost(), os.fsencode(tmp_path / "scratch")
    with refused("is not registered for staging"):
        require_marker(host, scratch, "staging")
    marker = register(host, scratch, "staging", clock=FakeClock(datetime(2026, 11, 22, tzinfo=UTC)))
    assert require_marker(host, scratch, "staging") == marker
    assert marker.registered == "2026-11-22T00:00:00Z"
    assert register(host, scratch, "staging").nonce != marker.nonce


def test_a_marker_from_elsewhere_does_not_count(tmp_path: Path) -> None:
    scratch = os.fsencode(tmp_path)
    register(LocalHost(), scratch, "staging")
    with refused("was registered on another machine"):
        require_marker(Elsewhere(), scratch, "staging")
    register(LocalHost(), scratch, "other")
    with refused("is registered for host other"):
        require_marker(LocalHost(), scratch, "staging")


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "7", json.dumps({"name": "staging"})])
def test_a_damaged_marker_does_not_count(tmp_path: Path, content: str) -> None:
    (tmp_path / os.fsdecode(FILE_NAME)).write_text(content)
    with refused("marker is damaged"):
        require_marker(LocalHost(), os.fsencode(tmp_path), "staging")


def test_a_marker_that_is_a_link_does_not_count(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(FILE_NAME)).symlink_to("/etc/hostname")
    with refused("marker cannot be read"):
        require_marker(LocalHost(), os.fsencode(tmp_path), "staging")


def test_a_staging_host_over_ssh(ssh_host: SshHost, tmp_path: Path) -> None:
    marker = register(ssh_host, os.fsencode(tmp_path / "scratch"), "staging")
    assert require_marker(LocalHost(), os.fsencode(tmp_path / "scratch"), "staging") == marker


def test_servers_do_not_run_as_root(ssh_host: SshHost) -> None:
    for host in (LocalHost(), ssh_host):
        identity = unprivileged(host, ["no-such-user"])
        assert identity.uid != 0
        uid = host.run(identity.command(["id", "-u"]), check=True).stdout
        assert int(uid) == identity.uid
        assert (identity.prefix == ()) == (os.geteuid() != 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_giving_a_directory_away(tmp_path: Path) -> None:
    identity = unprivileged(LocalHost())
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "link").symlink_to("/etc/hostname")
    owner = os.stat("/etc/hostname").st_uid
    with pytest.raises(CouldNotRunError, match="cannot reach"):  # pytest's directories are 0700
        identity.give(os.fsencode(tmp_path / "data"))
    assert (tmp_path / "data").stat().st_uid == identity.uid
    assert os.stat("/etc/hostname").st_uid == owner


def test_options(tmp_path: Path) -> None:
    staging = HostOptions.model_validate({"local": {}, "role": "staging", "scratch": "s", "max_disk": "200GiB"})
    assert staging.max_disk == 200 << 30
    assert scratch_directory("staging", staging, base=tmp_path) == os.fsencode(tmp_path / "s")
    assert open_host("staging", staging, secrets=no_secret, base=tmp_path, hosts={}).name == "staging"
    ssh = {"address": "a", "user": "u", "key": {"file": "k"}}
    for wrong in (
        {},
        {"local": {}, "ssh": ssh},
        {"local": {}, "role": "staging"},
        {"local": {"x": 1}},
        {"ssh": ssh, "scratch": "relative"},
        {"ssh": {**ssh, "host_key": "MD5:00"}},
        {"ssh": {**ssh, "port": 0}},
        {"ssh": {**ssh, "key": "literal"}},
    ):
        with pytest.raises(ValidationError):
            HostOptions.model_validate(wrong)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("0", "7B", "1KiB", "1 kB", "1.5GiB", "2TB", 12)] == [
        0,
        7,
        1024,
        1000,
        3 << 29,
        2 * 10**12,
        12,
    ]
    for wrong in ("", "GiB", "-1", "1 XB", "1e3", None, 1.5, True):
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(wrong)
