"""A PostgreSQL server of a standby: built from the newest base backup once, then kept running and replaying the archived log.

DIR/servers/JOB/SOURCE/data, local.conf, …      the server
DIR/servers/JOB/SOURCE.json                     which snapshot it was built from; written when it was whole
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from backupctl.clock import iso
from backupctl.errors import NoSuchError
from backupctl.operations.records import fingerprint_of
from backupctl.operations.standby_kept import Handed, KeptServer, ServerState
from backupctl.operations.wal_status import LogStatus, status_of
from backupctl.repository.fence import Turning
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


class PostgresqlServer(KeptServer):
    local = b"local.conf"

    def refresh(self, repository: Repository, snapshot: Snapshot, *, forced: bool, anew: bool) -> ServerState:
        archive = status_of(repository, snapshot, self.source)
        facts = fingerprint_of(repository, snapshot)["sources"][self.source]["fingerprint"]
        instance = self.found()
        built = instance is None or forced or instance.connection["system"] != facts["system_identifier"]
        if instance is None or built:
            instance = self._build(repository, snapshot, facts, instance)
        where = self._catch_up(repository, snapshot, instance, archive, facts)
        if where.recovering and anew and not built and _before_a_hole(archive, facts, where.lsn):
            text = f"{self.title}: there is a hole in the log at {format_lsn(where.lsn)}: building it anew"
            self.context.reporter.event("note", text)
            instance, built = self._build(repository, snapshot, facts, instance), True
            where = self._catch_up(repository, snapshot, instance, archive, facts)
        return self._state(instance, archive, where, built=built)

    def _catch_up(
        self,
        repository: Repository,
        snapshot: Snapshot,
        instance: Instance,
        archive: LogStatus,
        facts: dict[str, Any],
    ) -> standby.Replay:
        clock = self.context.clock
        standby.start(self.source, instance, self.commands())
        where = standby.position(self.source, instance)
        reach = where.lsn
        if where.recovering and where.lsn < archive.lsn_end:
            with SnapshotReader(repository, snapshot) as reader:
                reach = self._feed(repository, instance, facts, where.lsn, reader.files(self.source))
        return standby.catch_up(self.source, instance, reach, clock, self._tell(archive))

    def look(self, repository: Repository, snapshot: Snapshot) -> ServerState | None:
        instance = self.found()
        if instance is None or not standby.is_running(instance) or not standby.find(instance):
            return None
        archive = status_of(repository, snapshot, self.source)
        return self._state(instance, archive, standby.position(self.source, instance))

    def running(self) -> Instance:
        instance = self.found()
        if instance is None:
            raise self.none_there()
        standby.start(self.source, instance, self.commands())
        return instance

    def stop(self) -> bool:
        instance = self.found()
        if instance is None or not standby.is_running(instance):
            return False
        standby.stop(instance)
        return True

    def promote(self) -> Handed:
        instance = self.running()
        promoted = standby.promote(self.source, instance)
        connection = instance.connection
        conninfo = f"host={connection['sockets']} port={connection['port']} user={connection['user']}"
        turning = Turning(connection["system"], promoted.old_timeline, promoted.lsn, promoted.timeline)
        return Handed([("conninfo", conninfo)], turning)

    def found(self) -> Instance | None:
        instance = self.known("postgresql")
        if instance is not None:
            standby.find(instance)
        return instance

    def commands(self) -> standby.LogCommands:
        program = self.settings.program
        if program is None:
            return standby.LogCommands()
        options = self.job.sources[self.source].options
        archived = isinstance(options, PostgresqlOptions) and options.wal == "archive"
        return standby.LogCommands(
            (*program, "--quiet", "wal-fetch", self.title),
            (*program, "--quiet", "wal-push", self.title) if archived else (),
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
        self, repository: Repository, snapshot: Snapshot, facts: dict[str, Any], old: Instance | None
    ) -> Instance:
        self.tell_building(f"the base backup of {iso(snapshot.time)}")
        if old is not None:
            standby.stop(old)
        host, directory = self.place.host, self.directory
        if self.settings.program is not None:
            standby.require_log(self.source, host, self.commands(), facts["system_identifier"])
        kept = self.clear()
        options = self.job.sources[self.source].options
        bin_dir = options.bin_dir if isinstance(options, PostgresqlOptions) else None
        with SnapshotReader(repository, snapshot) as reader:
            instance = standby.build(self.source, host, directory, reader.files(self.source), facts, bin_dir)
        instance.connection["system"] = facts["system_identifier"]
        if kept is not None:
            self.place.write_content(self.local_file, kept)
        self.remember(snapshot.id, instance)
        return instance

    def _state(
        self, instance: Instance, archive: LogStatus, where: standby.Replay, *, built: bool = False
    ) -> ServerState:
        commit = where.commit or archive.since
        lag = 0.0 if where.lsn >= archive.lsn_end else max(0.0, (archive.until - commit).total_seconds())
        if where.lsn >= archive.lsn_end:
            commit = max(commit, archive.until)
        state = ServerState(
            self.job.job,
            self.source,
            "postgresql",
            format_lsn(where.lsn),
            commit,
            archive.until,
            lag,
            where.recovering,
            built,
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
            self.context.reporter.progress("replaying", where.lsn, archive.lsn_end)

        return tell


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
