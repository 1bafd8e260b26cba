"""What is on a host, whoever protects it: the database servers that run there, and the databases in those that a source reaches."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from backupctl.errors import UserError
from backupctl.hosts.protocol import Host
from backupctl.sources import discovery_program
from backupctl.sources.streams import program_text


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server process. `directory` and `port` are "" where its command line does not tell."""

    kind: str
    program: str
    pid: str
    user: str
    directory: str
    port: str

    @property
    def words(self) -> str:
        where = self.directory or (f"port {self.port}" if self.port else "")
        return f"{self.program} (pid {self.pid}, user {self.user or '?'}{', ' + where if where else ''})"


@dataclass(frozen=True, slots=True)
class Reached:
    """The server that a source connects to: which one it is, as far as it tells, and every database in it. `protected`: those
    that this source backs up."""

    kind: str
    port: str = ""
    directory: str = ""
    pid: str = ""
    databases: list[str] = field(default_factory=list)
    protected: list[str] = field(default_factory=list)

    def is_same(self, running: RunningServer) -> bool:
        if self.kind != running.kind and (self.kind, running.program) != ("mariadb", "mysqld"):  # its name before 10.5
            return False
        if self.pid:
            return self.pid == running.pid
        if self.directory and running.directory:
            return self.directory.rstrip("/") == running.directory.rstrip("/")
        return bool(self.port) and self.port == running.port


@runtime_checkable
class Discovering(Protocol):
    """A source that can tell what else its server holds."""

    def discover(self, host: Host) -> Reached:
        """Raises UserError when the server cannot be asked."""


def running_servers(host: Host) -> list[RunningServer]:
    """Raises UserError when the host cannot tell, UnreachableError when it is away."""
    completed = host.run([host.python, "-c", program_text(discovery_program)], timeout=60, check=True)
    try:
        return [RunningServer(**one) for one in json.loads(completed.stdout)]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"host {host.name}: what runs there is not known: {error}", next_step=f"backupctl host check {host.name}"
        ) from None
