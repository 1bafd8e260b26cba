"""How commands get to a machine by SSH: what `ssh.py` needs, and two ways to give it.

`paramiko_transport.py` is a library in this process; `openssh.py` runs the program `ssh`. Both pin the host's key, log in
without asking anybody, and end with UnreachableError when the connection does: never with a stream that only looks complete.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from backupctl.errors import UnreachableError, UserError
from backupctl.hosts.process import RunningProcess

CONNECT_SECONDS = 30
KEEPALIVE_SECONDS = 15
COMMAND_LIMIT_BYTES = 128 * 1024 - 1  # MAX_ARG_STRLEN: the far shell gets the whole command as one argument


@dataclass(frozen=True, slots=True)
class Login:
    """What proves who we are. Neither: the keys of an ssh-agent."""

    key: bytes = b""  # a private key's text
    certificate: bytes = b""  # its user certificate, as `ssh-keygen -s` writes it


class Transport(Protocol):
    """Connected at first use. A connection that broke stays broken."""

    def start(self, argv: Sequence[str], command: Sequence[str]) -> RunningProcess:
        """Run `command` there, by way of the login shell; `argv` is what people call it. Raises UnreachableError, WrongKeyError
        for a refused login, UserError for a command that is too long."""

    def close(self) -> None: ...


def command_line(where: str, argv: Sequence[str], command: Sequence[str]) -> bytes:
    """What the far login shell gets to see."""
    line = os.fsencode("exec " + shlex.join(command))
    if len(line) > COMMAND_LIMIT_BYTES:
        raise UserError(
            f"{where}: the command {argv[0]!r} is {len(line)} bytes long, more than SSH can carry",
            next_step="give long input on standard input or in a file",
        )
    return line


def connection_lost(where: str, shown: str, reason: str = "") -> UnreachableError:
    return UnreachableError(
        f"{where}: connection lost during `{shown}`{': ' + reason if reason else ''}",
        next_step="check the network and the host, then run the command again",
    )


def wrong_host_key(name: str, place: str, pinned: str, offered: Sequence[str]) -> UnreachableError:
    """`offered`: fingerprints with their types, of every kind of key that the machine has."""
    keys = ", ".join(offered) or "no key of a type that is safe to use"
    on_console = "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine's own console, then "
    if not pinned:
        return UnreachableError(
            f"host {name}: no host key is pinned; {place} offers {keys}",
            next_step=on_console + f"set `host_key` of {name} to it",
        )
    return UnreachableError(
        f"host {name}: NOT the pinned host key {pinned}: {place} offers {keys}. "
        "Either the machine was installed anew, or somebody stands between",
        next_step=on_console + f"only if they agree change `host_key` of {name}",
    )
