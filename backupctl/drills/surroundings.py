"""What stands around a drill: the configuration, opened, and the verbs of the room above, for scenarios that rehearse more
than one restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from backupctl.catalog.catalog import Catalog
from backupctl.config.models import Job, Settings
from backupctl.config.resources import Resources
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.sources.protocol import Instance


class Warm(Protocol):
    """A standby of the drill's own: the real operations, on a directory of the sandbox and on repositories that keep what is
    written to them."""

    def refresh(self, repository: Repository) -> str:
        """Make it what the newest snapshot there holds; that one's id. Raises UserError unless everything is in place."""

    def promote(self) -> tuple[int, dict[str, int]]:
        """The epoch that began, and the timeline of each server. Raises UserError."""

    def files(self, source: str) -> bytes:
        """The directory on the staging host."""

    def server(self, source: str) -> Instance:
        """Of a source that has one, running, with an account to ask it by. Its `stopped` says where PostgreSQL's recovery ended,
        its `short` why MariaDB's replay does not lead to the newest snapshot. Raises CouldNotRunError."""

    def attempts(self) -> list[tuple[str, str]]:
        """What an old primary, and others who should not, try after the promotion; what each was told, "" where it got through."""

    def back_up(self) -> str:
        """Of the new primary, by the configuration that was printed; the id of the snapshot. Raises UserError unless complete."""


class Verbs(Protocol):
    """The real operations, on a configuration of the drill's own in place of the real one."""

    def back_up(self, settings: Settings, job: str) -> str:
        """Run the job now; the id of its snapshot. Raises UserError unless the run is complete."""

    def record(self, repository: Repository, snapshot: Snapshot) -> Mapping[str, Any]:
        """The snapshot's fingerprint record. Raises NoSuchError, DamageError."""

    def complete(self, repository: Repository, job: str) -> list[Snapshot]:
        """The job's complete snapshots there, oldest first."""

    def kit(self, repository: str) -> str:
        """The recovery kit of a real repository, as it would be printed now: a secret."""

    def bootstrap(self, kits: Sequence[str], directory: Path) -> Settings:
        """A configuration made in `directory` from recovery kits alone. Raises UsageError."""

    def tell(self, settings: Settings, job: str, outcome: str) -> list[tuple[str, str, str]]:
        """Say over every channel of `settings` that a backup of the job ended so, or with "test" send a test notice: channel,
        way, and why it did not arrive."""

    def state_at(self, settings: Settings, job: str, instant: datetime) -> str:
        """The job's state by its real repository, as it would be judged at that instant were nothing to happen until then."""

    def kept_warm(self, job: Job) -> list[str]:
        """Sources of the real job whose servers a standby would keep running: their log is stored, by this job or another."""

    def standby(
        self,
        settings: Settings,
        job: str,
        *,
        on: str,
        directory: bytes,
        local: Mapping[str, str],
    ) -> AbstractContextManager[Warm]:
        """On the host `on`, for this job of `settings`, whose catalog is the drill's own. `local`: by source, what its server's
        `local.conf` or `local.cnf` says."""

    def rebuild(self, settings: Settings) -> list[str]:
        """Make the catalog of `settings` again from its repositories; what could not be read."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`resources` open what `settings` name, the real things: a scenario reads them, and writes only where its module says
    so. `catalog` is the real one, to be read."""

    settings: Settings
    resources: Resources
    catalog: Catalog
    verbs: Verbs
