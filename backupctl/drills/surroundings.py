"""What stands around a drill: the configuration, opened, and the verbs of the room above, for scenarios that rehearse more
than one restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from backupctl.catalog.catalog import Catalog
from backupctl.config.models import Settings
from backupctl.config.resources import Resources
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository


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
