"""The PostgreSQL servers of a standby: built from the newest base backup once, then kept running and replaying the archived log.

DIR/servers/JOB/SOURCE/data, local.conf, …      one server each
DIR/servers/JOB/SOURCE.json                     which snapshot it was built from; written when it was whole
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.clock import iso
from backupctl.config.models import Job
from backupctl.config.standby import StandbySettings
from backupctl.errors import CouldNotRunError, NoSuchError
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of
from backupctl.operations.standby_place import Place
from backupctl.operations.wal_status import LogStatus, logged_sources, status_of
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.reader import SnapshotReader, SourceFiles
from backupctl.repository.repository import Repository
from backupctl.sources import postgresql_standby as standby
from backupctl.sources.postgresql import PostgresqlOptions
from backupctl.sources.postgresql_load import read_all
from backupctl.sources.protocol import Instance
from backupctl.sources.wal_archive import LogIndex
from backupctl.sources.wal_format import format_lsn, parse_lsn
from backupctl.sources.wal_index import history_name, newest_descendant, segments_along, way_to


@dataclass(slots=True)
class ServerState:
    """Where a server is, and what the archive holds: `lag_seconds` from the last commit that it has replayed to the last that is
    archived, 0 when all of it is replayed."""

    job: str
    source: str
    lsn: str
    commit: datetime
    archived: datetime
    lag_seconds: float
    recovering: bool = True
    built: bool = False  # just now
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def warm_sources(settings: StandbySettings, job: Job) -> list[str]:
    """Sources of the job that a server is kept running for."""
    return logged_sources(job) if settings.servers else []


class Servers:
    """Of one job on one standby."""

    def __init__(self, context: Context, place: Place, settings: StandbySettings, job: Job) -> None:
        self._context, self._place, self._settings, self._job = context, place, settings, job
        self._root = place.root + b"/servers/" + job.job.encode()

    @property
    def sources(self) -> list[str]:
        return warm_sources(self._settings, self._job)

    def refresh(
        self, repository: Repository, snapshot: Snapshot, rebuild: str = "", *, anew: bool = True
    ) -> Iterator[ServerState]:
        """Every server of the job: built when there is none, or `rebuild` names it as JOB/SOURCE; started; caught up with what is
        stored. With `anew`, one that a hole in the log keeps from the newest base backup is built from that. Raises
        CouldNotRunError, NoSuchError, DamageError."""
        for source in self.sources:
            forced = rebuild == f"{self._job.job}/{source}"
            yield self._refresh(repository, snapshot, source, forced=forced, anew=anew)

    def _refresh(
        self, repository: Repository, snapshot: Snapshot, source: str, *, forced: bool, anew: bool
    ) -> ServerState:
        archive = status_of(repository, snapshot, source)
        facts = fingerprint_of(repository, snapshot)["sources"][source]["fingerprint"]
        instance = self.found(source)
        built = instance is None or forced or instance.connection["system"] != facts["system_identifier"]
        if instance is None or built:
            instance = self._build(repository, snapshot, source, facts, instance)
        where = self._catch_up(repository, snapshot, source, instance, archive, facts)
        if where.recovering and anew and not built and _before_a_hole(archive, facts, where.lsn):
            text = f"{self._job.job}/{source}: there is a hole in the log at {format_lsn(where.lsn)}: building it anew"
            self._context.reporter.event("note", text)
            instance, built = self._build(repository, snapshot, source, facts, instance), True
            where = self._catch_up(repository, snapshot, source, instance, archive, facts)
        return self._state(source, instance, archive, where, built=built)

    def _catch_up(
        self,
        repository: Repository,
        snapshot: Snapshot,
        source: str,
        instance: Instance,
        archive: LogStatus,
        facts: dict[str, Any],
    ) -> standby.Replay:
        clock = self._context.clock
        standby.start(source, instance, self.commands(source), clock)
        where = standby.position(source, instance)
        reach = where.lsn
        if where.recovering and where.lsn < archive.lsn_end:
            with SnapshotReader(repository, snapshot) as reader:
                reach = self._feed(repository, instance, facts, where.lsn, reader.files(source))
        return standby.catch_up(source, instance, reach, clock, self._tell(archive))

    def look(self, repository: Repository, snapshot: Snapshot) -> Iterator[ServerState]:
        """Where each server is now; nothing for one that does not run."""
        for source in self.sources:
            instance = self.found(source)
            if instance is not None and standby.is_running(instance) and standby.find(instance):
                archive = status_of(repository, snapshot, source)
                yield self._state(source, instance, archive, standby.position(source, instance))

    def running(self, source: str) -> Instance:
        """The server, started when it does not run. Raises CouldNotRunError when there is none."""
        instance = self.found(source)
        if instance is None:
            raise CouldNotRunError(
                f"standby {self._place.name} has no server of {self._job.job}/{source}",
                next_step=f"backupctl standby refresh {self._place.name}",
            )
        standby.start(source, instance, self.commands(source), self._context.clock)
        return instance

    def stop(self) -> Iterator[str]:
        """Every server that runs; their names."""
        for source in logged_sources(self._job):
            instance = self.found(source)
            if instance is not None and standby.is_running(instance):
                standby.stop(instance)
                yield source

    def found(self, source: str) -> Instance | None:
        """The server that was built; None when there is none, or it did not get whole."""
        facts = self._place.read(self._file(source))
        if facts is None:
            return None
        connection = {str(key): str(value) for key, value in facts["connection"].items()}
        instance = Instance("postgresql", self._place.host, self._directory(source), str(facts["version"]), connection)
        standby.find(instance)
        return instance

    def commands(self, source: str) -> standby.LogCommands:
        program = self._settings.program
        if program is None:
            return standby.LogCommands()
        options = self._job.sources[source].options
        name = f"{self._job.job}/{source}"
        archived = isinstance(options, PostgresqlOptions) and options.wal == "archive"
        return standby.LogCommands(
            (*program, "--quiet", "wal-fetch", name), (*program, "--quiet", "wal-push", name) if archived else ()
        )

    def _feed(
        self, repository: Repository, instance: Instance, facts: dict[str, Any], lsn: int, base: SourceFiles
    ) -> int:
        """Bring it what is stored from here on: archived, or in the newest base backup, whose end may not be archived yet. Up to
        where it leads."""
        index = LogIndex.read(LogArchive(repository, facts["system_identifier"]), facts["segment_bytes"])
        way = way_to(
            newest_descendant(facts["timeline"], parse_lsn(facts["log_end"]), index.histories), index.histories
        )
        there, reach = standby.spooled(instance), lsn

        def pieces() -> Iterator[tuple[str, bytes]]:
            for one in way:
                name = history_name(one.timeline)
                if one.timeline in index.histories and name not in there:
                    yield name, index.archive.get(name)
            nonlocal reach
            now = next(one.timeline for one in way if not one.end or one.end > lsn)
            for number, (name, _) in enumerate(segments_along(way, now, lsn, index.segment_bytes)):
                archived = name in index.names or name in index.opened
                content = index.content(name) if archived else _of_base(base, name)
                if content is None:
                    break
                reach = parse_lsn(index.facts(name)["end"] if archived else facts["log_end"])
                if not number or name not in there or name not in index.names:  # what was partly there may be whole
                    yield name, content

        standby.feed(instance, pieces())
        return reach

    def _build(
        self, repository: Repository, snapshot: Snapshot, source: str, facts: dict[str, Any], old: Instance | None
    ) -> Instance:
        host, directory = self._place.host, self._directory(source)
        text = f"{self._job.job}/{source}: building a server from the base backup of {iso(snapshot.time)}"
        self._context.reporter.event("note", text)
        if old is not None:
            standby.stop(old)
        if self._settings.program is not None:
            standby.require_log(source, host, self.commands(source), facts["system_identifier"])
        kept = self._place.content(self._local(source))
        host.remove_tree(self._place.root + b"/" + self._file(source))
        host.remove_tree(directory)
        host.make_directory(self._root, mode=0o711)
        options = self._job.sources[source].options
        bin_dir = options.bin_dir if isinstance(options, PostgresqlOptions) else None
        with SnapshotReader(repository, snapshot) as reader:
            instance = standby.build(source, host, directory, reader.files(source), facts, bin_dir)
        instance.connection["system"] = facts["system_identifier"]
        if kept is not None:
            self._place.write_content(self._local(source), kept)
        self._place.write(
            self._file(source),
            {"snapshot": snapshot.id, "version": instance.version, "connection": instance.connection},
        )
        return instance

    def _state(
        self, source: str, instance: Instance, archive: LogStatus, where: standby.Replay, *, built: bool = False
    ) -> ServerState:
        commit = where.commit or archive.since
        lag = 0.0 if where.lsn >= archive.lsn_end else max(0.0, (archive.until - commit).total_seconds())
        if where.lsn >= archive.lsn_end:
            commit = max(commit, archive.until)
        state = ServerState(
            self._job.job, source, format_lsn(where.lsn), commit, archive.until, lag, where.recovering, built
        )
        state.notes += archive.notes
        if not where.recovering:
            state.notes.append("it is no standby any more: it was promoted")
        elif where.lsn < archive.lsn_end:
            shown = f"{instance.directory.decode('utf-8', 'backslashreplace')}/server.log"
            state.notes.append(f"it does not replay all that is archived; its log says why: {shown}")
        return state

    def _tell(self, archive: LogStatus) -> Callable[[standby.Replay], None]:
        def tell(where: standby.Replay) -> None:
            self._context.reporter.progress("replaying", where.lsn, archive.lsn_end)

        return tell

    def _directory(self, source: str) -> bytes:
        return self._root + b"/" + source.encode()

    def _file(self, source: str) -> bytes:
        return b"servers/" + self._job.job.encode() + b"/" + source.encode() + b".json"

    def _local(self, source: str) -> bytes:
        return b"servers/" + self._job.job.encode() + b"/" + source.encode() + b"/local.conf"


def _of_base(base: SourceFiles, name: str) -> bytes | None:
    try:
        return read_all(base.open(b"data/pg_wal/" + name.encode()))
    except NoSuchError:
        return None


def _before_a_hole(archive: LogStatus, facts: dict[str, Any], lsn: int) -> bool:
    """Log was archived behind this place, not from here on, and the newest base backup lies behind it. What is only not archived
    yet is no hole."""
    here = any(one.start <= lsn < one.end for one in archive.spans)
    return not here and any(one.start > lsn for one in archive.spans) and parse_lsn(facts["end_lsn"]) > lsn
