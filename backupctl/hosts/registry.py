"""From configuration to a host one can talk to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from backupctl.errors import ConfigError, UserError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.options import HostOptions
from backupctl.hosts.protocol import Host
from backupctl.hosts.secret import SecretRef

SecretFetcher = Callable[[SecretRef], bytes]


def open_host(
    name: str, options: HostOptions, *, secrets: SecretFetcher, base: Path, hosts: Mapping[str, HostOptions]
) -> Host:
    """A host; nothing is connected before it is used. `secrets` fetches the login key, `hosts` holds the jump hosts,
    `base` is the directory of the configuration file. Raises ConfigError for a jump host that is unknown or in a
    circle, and whatever `secrets` raises."""
    return _open(name, options, secrets=secrets, hosts=hosts, through=(name,))


def _open(
    name: str,
    options: HostOptions,
    *,
    secrets: SecretFetcher,
    hosts: Mapping[str, HostOptions],
    through: tuple[str, ...],
    transport: Literal["paramiko", "openssh"] | None = None,
) -> Host:
    """`transport`: of the host that goes through this one, which both then use."""
    if options.ssh is None:
        return LocalHost(name)
    from backupctl.hosts.ssh import SshHost
    from backupctl.hosts.transport import Login

    jump_host = None
    jump = options.ssh.jump
    if jump is not None:
        if jump in through:
            raise ConfigError(
                f"host {name}: jump hosts go in a circle: {' → '.join([*through, jump])}",
                next_step=f"correct `jump` of {name}",
            )
        if jump not in hosts or hosts[jump].ssh is None:
            raise ConfigError(
                f"host {name}: jump host {jump!r} is not an SSH host of this configuration",
                next_step="define it under `hosts:` with `ssh:`",
            )
        opened = _open(
            jump,
            hosts[jump],
            secrets=secrets,
            hosts=hosts,
            through=(*through, jump),
            transport=transport or options.ssh.transport,
        )
        assert isinstance(opened, SshHost)
        jump_host = opened
    ssh = options.ssh if transport is None else options.ssh.model_copy(update={"transport": transport})
    login = Login(
        key=secrets(ssh.key) if ssh.key is not None else b"",
        certificate=secrets(ssh.certificate) if ssh.certificate is not None else b"",
    )
    return SshHost(name, ssh, login, jump=jump_host)


def scratch_directory(name: str, options: HostOptions, *, base: Path) -> bytes:
    """Where drills may restore on this host. A relative path on this machine is relative to `base`."""
    if options.scratch is None:
        raise UserError(f"host {name} has no scratch directory", next_step=f"set `scratch` of host {name}")
    path = options.scratch if options.ssh else str(base.absolute() / options.scratch)
    return path.encode("utf-8", "surrogateescape")
