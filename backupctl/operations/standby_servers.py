"""The servers of a standby: one for each source whose log is stored, built from its newest backup and kept running behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backupctl.config.models import Job
from backupctl.config.standby import StandbySettings
from backupctl.operations.context import Context
from backupctl.operations.standby_kept import KeptServer, ServerState
from backupctl.operations.standby_mariadb import MariadbServer, followed_sources
from backupctl.operations.standby_place import Place
from backupctl.operations.standby_postgresql import PostgresqlServer
from backupctl.operations.wal_status import logged_sources
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.sources.protocol import Instance

KINDS: dict[str, type[KeptServer]] = {"postgresql": PostgresqlServer, "mariadb": MariadbServer}


def warm_sources(context: Context, settings: StandbySettings, job: Job) -> list[str]:
    """Sources of the job that a server is kept running for."""
    return [name for name in followed(context.settings.jobs, job) if settings.keeps(job.sources[name].kind)]


def followed(jobs: Mapping[str, Job], job: Job) -> list[str]:
    """Sources of the job whose log is stored, by any of the `jobs`."""
    logged = {*logged_sources(job), *followed_sources(jobs, job)}
    return [name for name in job.sources if name in logged]


class Servers:
    """Of one job on one standby."""

    def __init__(self, context: Context, place: Place, settings: StandbySettings, job: Job) -> None:
        self._context, self._place, self._settings, self._job = context, place, settings, job

    @property
    def sources(self) -> list[str]:
        return warm_sources(self._context, self._settings, self._job)

    def server(self, source: str) -> KeptServer:
        kind = KINDS[self._job.sources[source].kind]
        return kind(self._context, self._place, self._settings, self._job, source)

    def refresh(
        self, repository: Repository, snapshot: Snapshot, rebuild: str = "", *, anew: bool = True
    ) -> Iterator[ServerState]:
        """Every server of the job, as `KeptServer.refresh`; `rebuild` names one as JOB/SOURCE."""
        for source in self.sources:
            server = self.server(source)
            yield server.refresh(repository, snapshot, forced=rebuild == server.title, anew=anew)

    def look(self, repository: Repository, snapshot: Snapshot) -> Iterator[ServerState]:
        """Where each server is now; nothing for one that does not run."""
        for source in self.sources:
            if (found := self.server(source).look(repository, snapshot)) is not None:
                yield found

    def running(self, source: str) -> Instance:
        return self.server(source).running()

    def stop(self) -> Iterator[str]:
        """Every server that runs, also of sources that none is kept for any more; their names."""
        for source, one in self._job.sources.items():
            if one.kind in KINDS and self.server(source).stop():
                yield source
