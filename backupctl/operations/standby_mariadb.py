"""A MariaDB server of a standby: built from the newest physical backup once, then kept running; each refresh replays the binary
logs that were stored since.

Its file beside it remembers the position up to which the primary's log is replayed, and the server's own GTIDs at that moment.
Before a replay it is marked with the server's process, after it the new position takes its place. Killed in between, the GTIDs
lead to the position; where they do not tell it for certain, the server is built anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backupctl.clock import iso, parse_iso
from backupctl.config.models import Job
from backupctl.errors import CouldNotRunError, DamageError, NoSuchError
from backupctl.operations.binlog_status import newest_commit
from backupctl.operations.records import fingerprint_of
from backupctl.operations.recovery import stored_logs
from backupctl.operations.standby_kept import Handed, KeptServer, ServerState
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.sources import mariadb_standby as standby
from backupctl.sources.binlog_format import Group
from backupctl.sources.mariadb import MariadbOptions
from backupctl.sources.mariadb_binlog import DIRECTORY, Position
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.mariadb_recovery import holds_logs, logs_from
from backupctl.sources.mariadb_replay import Chain, Logs, instant, key, sequence, up_to
from backupctl.sources.protocol import Instance, StoredLogs

UNTIL = re.compile(r"^\[backupctl\][ \t]*\nreplay_until[ \t]*=[ \t]*(\S+):(\d+)[ \t]*$", re.M)
"""In its `local.cnf`, a section that no program of MariaDB reads."""


def followed_sources(jobs: Mapping[str, Job], job: Job) -> list[str]:
    """Sources with a physical backup whose binary logs are stored, by the configuration: received, or backed up by any job."""
    logs = {
        _reached(one.host, one.options)
        for other in jobs.values()
        for one in other.sources.values()
        if isinstance(one.options, MariadbOptions) and one.options.method == "binlog"
    }
    return [
        name
        for name, one in job.sources.items()
        if isinstance(one.options, MariadbOptions)
        and one.options.method == "physical"
        and (one.options.binlog is not None or _reached(one.host, one.options) in logs)
    ]


def _reached(host: str, options: MariadbOptions) -> tuple[object, ...]:
    return host, options.socket, options.address, options.port


def server_of(repository: Repository, snapshot: Snapshot, source: str) -> str:
    """Whose logs are its logs. Raises NoSuchError when the snapshot holds no physical backup of the source."""
    return str(_backup(repository, snapshot, source)["server_uid"])


def _backup(repository: Repository, snapshot: Snapshot, source: str) -> dict[str, Any]:
    facts = fingerprint_of(repository, snapshot)["sources"].get(source, {}).get("fingerprint", {})
    if facts.get("method") != "physical" or not facts.get("server_uid"):
        raise NoSuchError(
            f"snapshot {snapshot.short_id} holds no physical backup of {source} that binary logs can follow",
            next_step="backupctl run",
        )
    return dict(facts)


class DoubtError(Exception):
    """Nobody can say what the server holds."""


@dataclass(slots=True)
class _Place:
    """Where the primary's log is replayed to. `gtids`: the server's own then; `replaying`: the process of a server that a replay
    began in, and has not ended; `commit`: of the last transaction."""

    position: Position
    commit: datetime
    gtids: str = ""
    replaying: str = ""
    promoted: bool = False

    @classmethod
    def of(cls, facts: dict[str, Any]) -> _Place:
        commit, position = parse_iso(facts["commit"]), Position(*facts["position"])
        return cls(position, commit, facts["gtids"], facts["replaying"], facts["promoted"])

    def fields(self) -> dict[str, Any]:
        position = [self.position.file, self.position.offset]
        return {
            "position": position,
            "commit": iso(self.commit),
            "gtids": self.gtids,
            "replaying": self.replaying,
            "promoted": self.promoted,
        }


class MariadbServer(KeptServer):
    local = b"local.cnf"

    def refresh(self, repository: Repository, snapshot: Snapshot, *, forced: bool, anew: bool) -> ServerState:
        backup = _backup(repository, snapshot, self.source)
        facts = self.facts()
        if facts is not None and not forced and facts["connection"]["server_uid"] == backup["server_uid"]:
            try:
                state, hole = self._follow(repository, backup)
            except DoubtError as doubt:
                if not anew:
                    raise self._doubtful(doubt) from None
                self._tell(f"{doubt}: building it anew")
            else:
                if not (
                    anew and hole and key(Position(*backup["base"])) > key(_Place.of(self._known_facts()).position)
                ):
                    return state
                self._tell(f"{state.notes[0]}: building it anew")
        self._build(repository, snapshot, backup)
        try:
            state, _ = self._follow(repository, backup)
        except DoubtError as doubt:
            raise self._doubtful(doubt) from None
        state.built = True
        return state

    def _doubtful(self, doubt: DoubtError) -> CouldNotRunError:
        return CouldNotRunError(
            f"{self.title}: {doubt}: nobody can say what it holds",
            next_step=f"backupctl standby refresh {self.place.name} --rebuild {self.title}",
        )

    def look(self, repository: Repository, snapshot: Snapshot) -> ServerState | None:
        instance = self.known("mariadb")
        if instance is None or not standby.find(instance):
            return None
        return self._state(repository, _Place.of(self._known_facts()), self._server_uid(instance), "")

    def running(self) -> Instance:
        instance = self.known("mariadb")
        if instance is None:
            raise self.none_there()
        if _Place.of(self._known_facts()).promoted:
            standby.find(instance)  # that one is somebody's own, our account is gone
        else:
            self._start(instance)
        return instance

    def stop(self) -> bool:
        instance = self.known("mariadb")
        if instance is None or not standby.find(instance):
            return False
        standby.stop(instance)
        return True

    def promote(self) -> Handed:
        instance = self.running()
        at = _Place.of(self._known_facts())
        if at.replaying:
            raise CouldNotRunError(
                f"{self.title}: a replay has not ended", next_step=f"backupctl standby refresh {self.place.name}"
            )
        if not at.promoted:
            standby.promote(self.source, instance)
            at.promoted = True
            self._remember(instance, at)
        if standby.find(instance):
            standby.forget_account(self.source, instance)
        options = self.job.sources[self.source].options
        lines = [("socket", instance.connection["socket"])]
        lines += [(name, "null") for name in ("address", "port") if getattr(options, name) is not None]
        return Handed(lines)

    def _follow(self, repository: Repository, backup: dict[str, Any]) -> tuple[ServerState, bool]:
        """Start it, and replay what is stored from where it is; and whether there is a hole in front of it. What is only not stored
        yet is none, though a newer backup, which has some log of its own, lies behind it. Raises DoubtError."""
        instance, at = self.known("mariadb"), _Place.of(self._known_facts())
        assert instance is not None
        self._start(instance)
        broken, refused, kept = "", False, set[str]()

        def noted(stored: StoredLogs) -> StoredLogs:
            for facts, files in stored:
                if holds_logs(facts, backup) and facts.get("method") != "physical":
                    kept.update(name.decode() for name in files.names(DIRECTORY))
                yield facts, files

        with ExitStack() as stack:
            client = stack.enter_context(standby.client_of(instance, self.source))
            logs, _ = logs_from(at.position, backup, noted(stored_logs(repository, "mariadb", stack, backup)))
            self._settle(client, instance, at, logs)
            try:
                until = self._until()
                chain = logs.chain(at.position) if until is None else up_to(logs, at.position, until)
                if chain.end != chain.start:
                    self._replay(client, instance, at, logs, chain)
                broken = chain.broken or _short(chain, backup)
            except DamageError as error:  # the server takes no more of it: nothing that comes later changes that
                broken, refused = " ".join(error.message.split()), True
            except NoSuchError as error:
                broken = error.message
        hole = refused or (bool(broken) and any(sequence(name) > sequence(at.position.file) for name in kept))
        return self._state(repository, at, self._server_uid(instance), broken, parse_iso(backup["time"])), hole

    def _until(self) -> Position | None:
        """Where its replay stops, by somebody's own settings."""
        found = UNTIL.search((self.place.content(self.local_file) or b"").decode("utf-8", "replace"))
        return Position(found[1], int(found[2])) if found else None

    def _settle(self, client: MariadbClient, instance: Instance, at: _Place, logs: Logs) -> None:
        """Find out where it is, and remember that. Raises DoubtError."""
        if at.replaying:
            if at.replaying != standby.process_of(instance):
                raise DoubtError("its server ended in the middle of a replay")
            standby.settle(client)
        now = standby.applied(client)
        if not at.replaying:
            if _each(now) != _each(at.gtids):
                raise DoubtError(f"it holds transactions that no stored log has brought ({now})")
            return
        if standby.other_engines(client):
            raise DoubtError("a refresh was killed in a replay, and there are tables without transactions")
        wanted, found = _each(now) - _each(at.gtids), dict[str, tuple[Position, datetime]]()

        def told(end: Position, group: Group) -> None:
            if group.gtid in wanted and key(end) > key(at.position):
                found[group.gtid] = end, instant(group)

        if wanted:
            logs.chain(at.position, told)
            if set(found) != wanted:
                raise DoubtError(f"it holds transactions that no stored log has brought ({now})")
            at.position, at.commit = max(found.values(), key=lambda one: key(one[0]))
        at.gtids, at.replaying = now, ""
        self._remember(instance, at)

    def _replay(self, client: MariadbClient, instance: Instance, at: _Place, logs: Logs, chain: Chain) -> None:
        host, directory = self.place.host, self.directory + b"/replay"
        host.remove_tree(directory)
        host.make_directory(directory, mode=0o700)
        paths = logs.place(host, directory.decode(), chain.files)
        at.replaying = standby.process_of(instance)
        self._remember(instance, at)
        try:
            standby.replay(client, chain, paths, f"{directory.decode()}/statements.sql", at.gtids)
        except DamageError:
            self._settle(client, instance, at, logs)  # it has taken what comes before
            raise
        at.position, at.commit = chain.end, chain.last_commit or at.commit
        at.gtids, at.replaying = standby.applied(client), ""
        self._remember(instance, at)
        host.remove_tree(directory)

    def _build(self, repository: Repository, snapshot: Snapshot, backup: dict[str, Any]) -> None:
        self.tell_building(f"the physical backup of {iso(snapshot.time)}")
        self.stop()
        kept = self.clear()
        options = self.job.sources[self.source].options
        bin_dir = options.bin_dir if isinstance(options, MariadbOptions) else None
        host = self.place.host
        with SnapshotReader(repository, snapshot) as reader:
            instance = standby.build(self.source, host, self.directory, reader.files(self.source), backup, bin_dir)
        instance.connection |= {
            "snapshot": snapshot.id,
            "server_uid": backup["server_uid"],
            "server_id": standby.server_id(f"{self.place.name}/{self.title}"),
            "log_name": standby.log_name(snapshot.id),
        }
        if kept is not None:
            self.place.write_content(self.local_file, kept)
        self._remember(instance, _Place(Position(*backup["base"]), parse_iso(backup["time"])))

    def _start(self, instance: Instance) -> None:
        at = _Place.of(self._known_facts())
        standby.start(self.source, instance, lambda: self._remember(instance, at))

    def _remember(self, instance: Instance, at: _Place) -> None:
        self.remember(instance.connection["snapshot"], instance, **at.fields())

    def _known_facts(self) -> dict[str, Any]:
        facts = self.facts()
        if facts is None:
            raise self.none_there()
        return facts

    def _state(
        self, repository: Repository, at: _Place, server_uid: str, broken: str, backup: datetime | None = None
    ) -> ServerState:
        """`backup`: the time of the newest one, of which it may lack something when its log is `broken`."""
        stored = max(newest_commit(repository, server_uid) or at.commit, at.commit)
        if broken and backup is not None:
            stored = max(stored, backup)
        lag = (stored - at.commit).total_seconds()
        if broken:
            lag = max(lag, 1.0)  # commits are told by the second
        state = ServerState(
            self.job.job, self.source, "mariadb", str(at.position), at.commit, stored, lag, not at.promoted
        )
        if at.promoted:
            state.notes.append("it is no standby any more: it was promoted")
        elif broken:
            state.notes.append(f"it does not replay all that is stored: {broken}")
        return state

    def _server_uid(self, instance: Instance) -> str:
        return instance.connection["server_uid"]

    def _tell(self, text: str) -> None:
        self.context.reporter.event("note", f"{self.title}: {text}")


def _short(chain: Chain, backup: dict[str, Any]) -> str:
    """Why not all that the newest backup holds has come along the log; "" when it has."""
    there = Position(*backup["binary_log"])
    if chain.reach is None or key(chain.reach) >= key(there):
        return ""
    return f"the backup of {backup['time']} ends at {there}, and the log is stored up to {chain.reach}"


def _each(gtids: str) -> set[str]:
    return {one for one in gtids.split(",") if one}
