"""A standby of a drill's own: built, promoted and backed up by the real operations, its repositories lent by the scenario."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from backupctl.clock import Clock
from backupctl.config.models import Job, Settings, SourceSettings
from backupctl.config.standby import StandbySettings
from backupctl.errors import CouldNotRunError, UserError
from backupctl.hosts.protocol import Host
from backupctl.operations import standby, standby_promotion
from backupctl.operations.context import Context
from backupctl.operations.standby_servers import Servers
from backupctl.operations.wal import epoch_of, push_content
from backupctl.repository.fence import Fence, find_fence, raise_fence
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.files import FilesOptions
from backupctl.sources.mariadb import MariadbOptions
from backupctl.sources.mariadb_standby import lend_account
from backupctl.sources.postgresql import PostgresqlOptions
from backupctl.sources.postgresql_standby import stopped_at
from backupctl.sources.protocol import Instance

NAME = "drill"


@contextmanager
def rehearsed_standby(
    settings: Settings, job: str, clock: Clock, *, on: str, directory: bytes, local: Mapping[str, str]
) -> Iterator[RehearsedStandby]:
    place = StandbySettings(host=on, jobs=[job], directory=directory.decode("utf-8", "surrogateescape"))
    own = settings.model_copy(update={"standby": {NAME: place}})
    with Context.open(own, clock=clock) as context, context.resources.confined(own.repositories, on):
        yield RehearsedStandby(context, own.jobs[job], local)


class RehearsedStandby:
    """`drills.surroundings.Warm`."""

    def __init__(self, context: Context, job: Job, local: Mapping[str, str]) -> None:
        self._context, self._job, self._local = context, job, local
        self._place = standby.open_place(context, NAME)
        self._servers = Servers(context, self._place, context.settings.standby[NAME], job)
        self._repository: Repository | None = None
        self._lines: dict[str, list[str]] = {}
        self._short: dict[str, str] = {}

    @property
    def _host(self) -> Host:
        return self._place.host

    def refresh(self, repository: Repository) -> str:
        self._lend(repository)
        self._place.claim(self._context.clock)
        for source, text in self._local.items():
            server = self._servers.server(source)
            if self._host.stat(server.directory) is None:
                self._host.make_directory(server.directory, mode=0o711)
                self._place.write_content(server.local_file, text.encode())
        (done,) = standby.refresh(self._context, NAME)
        if done.problems:
            first = done.problems[0]
            raise UserError(
                f"{len(done.problems)} file(s) could not be restored, the first: {first.path}: {first.message}"
            )
        for state in done.servers:
            anew = state.built and state.source in self._short
            self._short[state.source] = "; ".join(["it was built anew", *state.notes] if anew else state.notes)
        return done.snapshot.id

    def promote(self) -> tuple[int, dict[str, int]]:
        plans = standby_promotion.plan(self._context, NAME)
        # a server that stops at the tested snapshot's own record leaves what came after it, on purpose
        (done,) = standby_promotion.apply(self._context, NAME, plans, accept_loss=True)
        for key, value in done.lines:
            self._lines.setdefault(key, []).append(value)
        return done.epoch, done.timelines

    def files(self, source: str) -> bytes:
        return self._place.files(self._job.job) + b"/" + source.encode()

    def server(self, source: str) -> Instance:
        instance = self._servers.running(source)
        if instance.kind == "mariadb":
            instance.connection["user"] = lend_account(source, instance)
            instance.connection["short"] = self._short.get(source, "")
        else:
            instance.connection["stopped"] = stopped_at(instance)
        return instance

    def attempts(self) -> list[tuple[str, str]]:
        repository, job, epoch = self._lent, self._job, self._job.epoch
        fence = find_fence(repository, job.job, epoch + 1)
        assert fence is not None
        tried: list[tuple[str, Callable[[], object]]] = [
            ("a backup of the old primary", lambda: epoch_of(repository, job)),
            ("an epoch that nobody began", lambda: epoch_of(repository, job.model_copy(update={"epoch": epoch + 2}))),
            ("a second standby, promoted too", lambda: self._second(repository, fence)),
        ]
        for source in self._servers.sources:
            options = job.sources[source].options
            if not isinstance(options, MariadbOptions):
                tried.append((f"log of the old primary of {source}", partial(self._old_log, repository, source)))
            elif options.binlog is not None:  # else its log is stored by another job, behind a fence of its own
                tried.append((f"log of the old primary of {source}", lambda: epoch_of(repository, job)))
        return [(what, _told(attempt)) for what, attempt in tried]

    def back_up(self) -> str:
        from backupctl.operations.backup import run_backup

        job = self._handed_over()
        settings = self._context.settings.model_copy(update={"jobs": {job.job: job}})
        clock, repository = self._context.clock, self._lent
        host = self._context.settings.standby[NAME].host
        with Context.open(settings, clock=clock) as context, context.resources.confined(settings.repositories, host):
            context.resources.lend(job.repository, repository)
            queued = context.catalog.enqueue("backup", job.job, clock.now(), trigger="manual")
            run = context.catalog.claim(queued.id, "drill") if queued is not None else None
            if run is None:
                raise CouldNotRunError(
                    f"a backup of {job.job} at this very instant exists already", next_step="run it again"
                )
            outcome = run_backup(context, run)
            context.catalog.finish(run.id, run.epoch, outcome.state, exit_code=outcome.exit_code)
        if outcome.state != "complete":
            raise UserError(f"the backup of the new primary is {outcome.state}: {outcome.message}")
        return outcome.snapshot

    @property
    def _lent(self) -> Repository:
        assert self._repository is not None
        return self._repository

    def _lend(self, repository: Repository) -> None:
        self._repository = repository
        self._context.resources.lend(self._job.repository, repository)

    def _second(self, repository: Repository, fence: Fence) -> None:
        other = raise_fence(repository, replace(fence, standby="another", host="another"))
        if other.standby != "another":
            raise UserError(f"standby {other.standby} was promoted first")

    def _old_log(self, repository: Repository, source: str) -> None:
        """A segment that the new primary's own directory still holds of the old timeline, as the old one would send it on: by
        the old configuration first, and then by one that says the new epoch."""
        epoch_of(repository, self._job)
        instance = self._servers.running(source)
        began = epoch_of(repository, self._job.model_copy(update={"epoch": self._job.epoch + 1}))
        turning = began.servers[source] if began is not None else None
        assert turning is not None
        log = instance.directory + b"/data/pg_wal/"
        for name in sorted(self._host.list_directory(log)):
            if len(name) == 24 and int(name[:8], 16) == turning.timeline:
                with self._host.open_read(log + name) as file:
                    data = b"".join(iter(lambda: file.read(1 << 20), b""))
                push_content(lambda server: LogArchive(repository, server), name.decode(), data, "", began)

    def _handed_over(self) -> Job:
        """The job as its configuration would read after what `promote` printed."""
        sources: dict[str, SourceSettings] = {}
        for name, source in self._job.sources.items():
            where = f"sources.{name}.{source.kind}"
            changes: dict[str, object] = {"host": self._lines[f"{where}.host"][0]}
            if isinstance(source.options, PostgresqlOptions) and f"{where}.conninfo" in self._lines:
                changes |= {"conninfo": self._lines[f"{where}.conninfo"][0], "password": None}
            elif isinstance(source.options, MariadbOptions) and f"{where}.socket" in self._lines:
                # what was printed leaves the source's own account, whose password no drill can load
                changes |= {"socket": self._lines[f"{where}.socket"][0], "address": None, "port": None}
                changes |= {"user": self.server(name).connection["user"], "password": None}
            elif isinstance(source.options, FilesOptions):
                changes["paths"] = self._lines[f"{where}.paths"]
            else:
                continue  # it lies there as its backup: nothing is served from it
            options = source.options.model_copy(update=changes)
            sources[name] = source.model_copy(update={"options": options, "host": changes["host"]})
        epoch = int(self._lines["epoch"][0])
        return self._job.model_copy(update={"sources": sources, "epoch": epoch})


def _told(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except UserError as error:
        return error.message
    return ""
