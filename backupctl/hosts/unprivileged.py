"""Servers never run as root: PostgreSQL refuses to, and a restored database is nobody's to trust with the machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from backupctl.errors import CouldNotRunError
from backupctl.hosts.protocol import Host


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a server on `host` runs as. `prefix` goes before its argv; empty when we are unprivileged already."""

    host: Host
    user: str
    uid: int
    gid: int
    prefix: tuple[str, ...]

    def command(self, argv: Sequence[str]) -> list[str]:
        return [*self.prefix, *argv]

    def give(self, directory: bytes) -> None:
        """Hand over a directory and all below it, made by us. Links are not followed. Raises CouldNotRunError when the
        user cannot get there through the directories above."""
        if not self.prefix:
            return
        path = os.fsdecode(directory)
        self.host.run(["chown", "-hR", f"{self.uid}:{self.gid}", "--", path], check=True)
        if self.host.run(self.command(["test", "-x", path])).returncode != 0:
            raise CouldNotRunError(
                f"host {self.host.name}: user {self.user} cannot reach {path}",
                next_step=f"let others pass through the directories above it: `chmod o+x {path.rpartition('/')[0]}` and up",
            )


def unprivileged(host: Host, preferred: Sequence[str] = ()) -> Identity:
    """The first of `preferred` that exists on the host (for example `postgres`), else `nobody`; when the host's user is
    not root, that user. Raises CouldNotRunError when there is no way to step down."""
    facts = host.facts()
    if facts.uid != 0:
        return Identity(host, facts.user, facts.uid, int(host.run(["id", "-g"], check=True).stdout), ())
    for user in (*preferred, "nobody"):
        found = host.run(["id", "-u", "--", user])
        if found.returncode != 0:
            continue
        uid = int(found.stdout)
        gid = int(host.run(["id", "-g", "--", user], check=True).stdout)
        if uid != 0:
            return Identity(host, user, uid, gid, _prefix(host, user, uid, gid))
    raise CouldNotRunError(
        f"host {host.name}: no unprivileged user ({', '.join([*preferred, 'nobody'])})",
        next_step="add one, or log in to that host as somebody else than root",
    )


def _prefix(host: Host, user: str, uid: int, gid: int) -> tuple[str, ...]:
    stepping_down = (
        ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--"),
        ("runuser", "-u", user, "--"),
    )
    for prefix in stepping_down:
        if host.run([*prefix, "true"]).returncode == 0:
            return prefix
    raise CouldNotRunError(
        f"host {host.name}: neither setpriv nor runuser works, so no server can run as {user}",
        next_step="install the package util-linux there",
    )
