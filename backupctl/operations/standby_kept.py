"""What the servers of a standby have in common, whatever their kind: where they lie, what is remembered of them, what is told.

DIR/servers/JOB/SOURCE/…         one server each
DIR/servers/JOB/SOURCE.json      what it was built from, and how it is reached; written when it was whole
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from backupctl.config.models import Job
from backupctl.config.standby import StandbySettings
from backupctl.errors import CouldNotRunError
from backupctl.operations.context import Context
from backupctl.operations.standby_place import Place
from backupctl.repository.fence import Turning
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.sources.protocol import Instance


@dataclass(slots=True)
class ServerState:
    """Where a server is, and what is stored of its log: `lag_seconds` from the last commit that it has replayed to the last that is
    stored, 0 when all of it is replayed. `lsn`: of PostgreSQL; of MariaDB the position in the primary's binary log."""

    job: str
    source: str
    kind: str
    lsn: str
    commit: datetime
    archived: datetime
    lag_seconds: float
    recovering: bool = True
    built: bool = False  # just now
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(slots=True)
class Handed:
    """What a promoted server's source has to say, below its kind, as (key, value); and where timelines parted, if it has any."""

    lines: list[tuple[str, str]]
    turning: Turning | None = None


class KeptServer(ABC):
    """Of one source, on one standby."""

    local: ClassVar[bytes]
    """Settings of somebody's own, beside the server; kept when it is built anew."""

    def __init__(self, context: Context, place: Place, settings: StandbySettings, job: Job, source: str) -> None:
        self.context, self.place, self.settings, self.job, self.source = context, place, settings, job, source
        self.title = f"{job.job}/{source}"
        self._name = b"servers/" + self.title.encode()
        self.directory = place.root + b"/" + self._name
        self.local_file = self._name + b"/" + self.local

    @abstractmethod
    def refresh(self, repository: Repository, snapshot: Snapshot, *, forced: bool, anew: bool) -> ServerState:
        """Built when there is none, or it is `forced`; started; caught up with what is stored. With `anew`, one that a hole in the
        log keeps from the newest backup is built from that. Raises CouldNotRunError, NoSuchError, DamageError."""

    @abstractmethod
    def look(self, repository: Repository, snapshot: Snapshot) -> ServerState | None:
        """Where it is now; None when it does not run."""

    @abstractmethod
    def running(self) -> Instance:
        """The server, started when it does not run. Raises CouldNotRunError when there is none."""

    @abstractmethod
    def stop(self) -> bool:
        """Whether it ran."""

    @abstractmethod
    def promote(self) -> Handed:
        """Make it a primary, unless it is one. Raises CouldNotRunError, SourceError."""

    def facts(self) -> dict[str, Any] | None:
        """What is remembered of it; None when there is none, or it did not get whole."""
        return self.place.read(self._name + b".json")

    def known(self, kind: str) -> Instance | None:
        facts = self.facts()
        if facts is None:
            return None
        connection = {str(key): str(value) for key, value in facts["connection"].items()}
        return Instance(kind, self.place.host, self.directory, str(facts["version"]), connection)

    def remember(self, snapshot: str, instance: Instance, **more: Any) -> None:
        facts = {"snapshot": snapshot, "version": instance.version, "connection": instance.connection, **more}
        self.place.write(self._name + b".json", facts)

    def clear(self) -> bytes | None:
        """Room for a new one; somebody's own settings from the old. Nothing may run there."""
        host = self.place.host
        kept = self.place.content(self.local_file)
        host.remove_tree(self.place.root + b"/" + self._name + b".json")
        host.remove_tree(self.directory)
        host.make_directory(self.directory.rpartition(b"/")[0], mode=0o711)
        return kept

    def tell_building(self, what: str) -> None:
        self.context.reporter.event("note", f"{self.title}: building a server from {what}")

    def none_there(self) -> CouldNotRunError:
        return CouldNotRunError(
            f"standby {self.place.name} has no server of {self.title}",
            next_step=f"backupctl standby refresh {self.place.name}",
        )
