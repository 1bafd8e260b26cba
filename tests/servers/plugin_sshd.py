"""Fixtures: one sshd per test session, and a connected host per test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupctl.hosts.options import SshOptions
from backupctl.hosts.secret import SecretRef
from backupctl.hosts.ssh import SshHost
from backupctl.hosts.transport import Login
from tests.servers.sshd import Sshd, missing_programs


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    missing = missing_programs()
    if missing:
        message = f"NOT TESTED over SSH: no {', '.join(missing)}; `apt-get install openssh-server openssh-client`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def ssh_options(server: Sshd, **changes: object) -> SshOptions:
    values = {
        "address": server.address,
        "port": server.port,
        "user": server.user,
        "host_key": server.fingerprint(),
        "key": SecretRef(file=str(server.login_key)),
    }
    return SshOptions.model_validate({**values, **changes})


@pytest.fixture
def new_ssh_host(sshd: Sshd) -> Iterator[Callable[..., SshHost]]:
    """Make a host on the private sshd; keyword arguments replace its options."""
    hosts = []

    def make(*, key: Path | None = None, **changes: object) -> SshHost:
        host = SshHost("web1", ssh_options(sshd, **changes), Login((key or sshd.login_key).read_bytes()))
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def ssh_host(new_ssh_host: Callable[..., SshHost]) -> SshHost:
    return new_ssh_host()
