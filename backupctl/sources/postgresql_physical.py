"""A whole PostgreSQL server as it lies on disk: base backup, and the write-ahead log that makes it consistent.

Order: base backup → a snapshot of every database → the log up to behind these snapshots → all tables read in them. The
log says where exactly the snapshots stand (`wal_cut`), so a restore recovers to that record and must then hold what was
read, row by row, however busy the server was. Files are stored as files, in blocks of whole pages: an unchanged page is
stored once, and any program that restores files restores a data directory.
"""

from __future__ import annotations

import io
import json
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Any, Self

from backupctl.clock import Clock, iso
from backupctl.errors import SourceError
from backupctl.hosts.protocol import Host, Process
from backupctl.repository.entry import Chunking, Entry
from backupctl.repository.format.node import Node
from backupctl.sources import replication_program
from backupctl.sources.base_backup import MANIFEST, TABLESPACES, BackupFile, BaseBackup, Frames
from backupctl.sources.held_views import HeldView, HeldViews, flushed_lsn
from backupctl.sources.postgresql_client import PostgresClient, choose_client, major
from backupctl.sources.postgresql_fingerprint import (
    SEQUENCES,
    describe_database,
    full_name,
    read_roles,
    read_sequences,
)
from backupctl.sources.postgresql_session import connect, list_databases
from backupctl.sources.protocol import Fingerprint, PreflightFinding
from backupctl.sources.streams import directory_node, path_component, program_text, said, stream_node
from backupctl.sources.wal_cut import Commit, common_cut, cut
from backupctl.sources.wal_format import WalReader, format_lsn, parse_lsn, segment_name

DATA = b"data"
OLDEST_MAJOR = 15  # the first whose base backup is one stream
SMALL_BLOCK_BYTES, LARGE_BLOCK_BYTES = 8192, 32768
LARGE_FROM_BYTES = 20 << 30
"""From here on the index of 8 KiB blocks (13 million for 100 GB) costs more than the bytes that smaller blocks save."""
ATTEMPTS = 20
KEPT_COMMITS = 200_000

SERVER = """
SELECT current_setting('data_checksums') AS data_checksums, current_setting('wal_level') AS wal_level,
  pg_is_in_recovery() AS standby, has_table_privilege('pg_authid', 'select') AS passwords,
  current_setting('max_connections') AS max_connections
"""
ROOM = """
SELECT current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots) AS slots,
  current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication) AS senders
"""
PERSISTENCE = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1, 2
"""
COLLATIONS = """
SELECT datcollate AS collation, datcollversion AS version FROM pg_database WHERE datname = current_database()
"""


class PhysicalSession:
    def __init__(
        self,
        source: str,
        host: Host,
        clock: Clock,
        *,
        conninfo: str,
        bin_dir: str | None,
        password: Callable[[], bytes] | None,
        block_bytes: int | None = None,
    ) -> None:
        self._name, self._clock, self._conninfo = source, clock, conninfo
        self._bin_dir, self._password, self._block_bytes = bin_dir, password, block_bytes
        self._client = PostgresClient(host, source, conninfo)
        self._stack = ExitStack()
        self._facts: dict[str, Any] = {}
        self._databases: dict[str, dict[str, Any]] = {}
        self._unread: dict[str, str] = {}
        self._names: list[str] = []
        self._directories: set[bytes] = set()
        self._view_time: datetime | None = None
        self._held: dict[str, HeldView] = {}
        self._sequences: dict[str, dict[str, int]] = {}
        self._segments: dict[int, bytearray] = {}  # by first LSN: not yet handed out
        self._commits: deque[Commit] = deque(maxlen=KEPT_COMMITS)

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._client = client = connect(self._client, stack, self._password, self._bin_dir)
            self._names = list_databases(client)
            server = client.server_version(self._names[0])
            self._client = client = choose_client(client, self._bin_dir, server)
            self._refuse(server)
            self._facts["versions"] = {"server": server, "server_major": major(server), "pg_dump": client.version()}
            self._backup = self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _refuse(self, server: str) -> None:
        (row,) = self._client.records(self._names[0], SERVER)
        if (problem := unsuitable(server, row)) is not None:
            raise SourceError(f"source {self._name}: {problem[0]}", source=self._name, next_step=problem[1])
        self._facts["data_checksums"] = row["data_checksums"] == "on"
        self._facts["role_passwords"] = bool(row["passwords"])

    def _start(self, stack: ExitStack) -> BaseBackup:
        client = self._client
        libraries = ["libpq.so.5"]
        if client.directory:
            libraries.insert(0, client.directory.rpartition("/")[0] + "/lib/libpq.so.5")
        token = secrets.token_hex(8)
        request = {
            "conninfo": client.conninfo,
            "label": f"backupctl {self._name} {token}",
            "slot": f"backupctl_{token}",
            "libraries": libraries,
        }
        process = stack.enter_context(start_program(client, request))
        backup = BaseBackup(Frames(process, self._name), self._name)
        backup.begin()
        return backup

    def stream(self) -> Iterator[Entry]:
        """In the order in which the server sends."""
        backup = self._backup
        size = self._block_bytes or block_bytes_for(backup.expected_bytes)
        chunking = Chunking("fixed", size)
        self._facts["block_bytes"] = size
        now = self._clock.now()
        yield Entry(DATA, directory_node(DATA, now))
        self._directories.add(b"")
        for oid in backup.tablespaces:
            yield self._entry_of_directory(TABLESPACES + b"/" + oid.encode(), now)
        for file in backup.files():
            yield self._entry(file, chunking)
        yield Entry(
            DATA + b"/" + MANIFEST,
            stream_node(MANIFEST, now, len(backup.manifest)),
            open=lambda: io.BytesIO(backup.manifest),
        )
        yield from self._complaints()
        with HeldViews(self._client, self._names) as views:
            yield from self._log(views)
            backup.frames.end()
            yield from self._describe(views)

    def _entry_of_directory(self, path: bytes, at: datetime) -> Entry:
        self._directories.add(path)
        return Entry(DATA + b"/" + path, directory_node(path.rpartition(b"/")[2], at))

    def _entry(self, file: BackupFile, chunking: Chunking) -> Entry:
        member, content, backup = file.member, file.content, self._backup
        mtime_ns = int(member.mtime) * 1_000_000_000
        node = Node(
            name=file.path.rpartition(b"/")[2],
            type="dir" if content is None else "file",
            mode=member.mode & 0o7777,
            mtime_ns=mtime_ns,
            ctime_ns=mtime_ns,
            uid=member.uid,
            gid=member.gid,
            user=member.uname,
            group=member.gname,
            size=member.size,
        )
        if content is None:
            self._directories.add(file.path)
            return Entry(DATA + b"/" + file.path, node)
        return Entry(
            DATA + b"/" + file.path,
            node,
            open=lambda: content,
            chunking=chunking,
            passed=partial(backup.note, file.path),
        )

    def _complaints(self) -> Iterator[Entry]:
        """What is wrong with what was sent: kept all the same, and named, so that the run does not count as complete."""
        backup = self._backup
        damaged: dict[bytes, list[str]] = {}
        for severity, text in backup.frames.notices:
            path = checksum_warning(text)
            if severity == "WARNING" and path in backup.passed:
                damaged.setdefault(path, []).append(text)
        for path, texts in sorted(damaged.items()):
            yield self._complaint(path, "; ".join(texts))
        if backup.failed and not damaged:
            yield self._complaint(b"", f"the server sent everything, then said: {backup.failed}")
        for path, what in backup.differences():
            yield self._complaint(path, what)
        self._facts["damaged_files"] = sorted(path.decode("utf-8", "backslashreplace") for path in damaged)

    def _complaint(self, path: bytes, what: str) -> Entry:
        inside = DATA + b"/" + path if path else DATA
        return Entry(inside, stream_node(inside.rpartition(b"/")[2], self._clock.now()), error=what)

    def _log(self, views: HeldViews) -> Iterator[Entry]:
        """The log from the backup's start to behind a view of every database; the place of the views in it is found."""
        backup = self._backup
        start, end = parse_lsn(backup.start_lsn), parse_lsn(backup.end_lsn)
        first = start - start % backup.segment_bytes
        reader = WalReader(first, backup.segment_bytes)
        attempts, apart = 0, ["all"]
        while apart and attempts < ATTEMPTS:
            attempts += 1
            sequences = {name: read_sequences(self._client, name) for name in self._names}
            self._view_time = self._clock.now()
            held = views.look()
            until = flushed_lsn(self._client, self._names[0])
            yield from self._receive(reader, first, until)
            cuts = {name: cut(view.xids, self._commits, end) for name, view in held.items()}
            target, apart = common_cut(cuts)
        if not self._commits or reader.ended:
            raise SourceError(
                f"source {self._name}: the log sent after the base backup cannot be read at {format_lsn(reader.end)}",
                source=self._name,
                item="write-ahead log",
                next_step="run the job again",
            )
        for lsn, data in sorted(self._segments.items()):
            yield self._segment_entry(lsn, bytes(data).ljust(backup.segment_bytes, b"\0"))
        self._held, self._sequences = held, sequences
        self._facts |= {
            "target_lsn": format_lsn(target) if target else "",
            "not_exact": apart,
            "attempts": attempts,
            "log_end": format_lsn(until),
        }

    def _receive(self, reader: WalReader, first: int, until: int) -> Iterator[Entry]:
        """Segments that are whole are handed out at once; the newest stays here. Before it, only the newest commits are
        remembered."""
        frames, size = self._backup.frames, self._backup.segment_bytes
        frames.ask(f"{first} {until}\n")
        while (frame := frames.next())[0] == b"W":
            lsn, data = int.from_bytes(frame[1][:8], "big"), frame[1][8:]
            while data:
                base = lsn - lsn % size
                segment = self._segments.setdefault(base, bytearray())
                if len(segment) != lsn - base:
                    frames.fail(f"left a hole in the log before {format_lsn(lsn)}")
                piece = data[: base + size - lsn]
                segment += piece
                self._commits.extend(Commit(one.lsn, one.xid) for one in reader.feed(piece) if one.kind == "commit")
                lsn, data = lsn + len(piece), data[len(piece) :]
                if len(segment) == size:
                    yield self._segment_entry(base, bytes(self._segments.pop(base)))
        if frame[0] != b"U":
            frames.fail(f"sent {frame[0]!r} within its log")

    def _segment_entry(self, lsn: int, data: bytes) -> Entry:
        name = segment_name(self._backup.timeline, lsn, self._backup.segment_bytes).encode()
        return Entry(
            DATA + b"/pg_wal/" + name,
            stream_node(name, self._clock.now(), len(data)),
            open=lambda: io.BytesIO(data),
            chunking=Chunking("fixed", 1 << 20),
        )

    def _describe(self, views: HeldViews) -> Iterator[Entry]:
        client = self._client
        self._facts["roles"] = read_roles(client, self._names[0], passwords=self._facts["role_passwords"])
        for name in self._names:
            try:
                facts = describe_database(client, name, self._held[name].snapshot)
                unlogged = client.records(name, PERSISTENCE)
                (collation,) = client.records(name, COLLATIONS)
                steps = client.records(name, SEQUENCES)
                after = read_sequences(client, name)
                views.confirm(name)
            except SourceError as error:
                self._unread[name] = " ".join(error.message.split())
                node = stream_node(path_component(name), self._clock.now())
                yield Entry(node.name, node, error=f"this database cannot be read: {self._unread[name]}")
                continue
            views.release(name)
            before = self._sequences[name]
            facts["sequences"] = {key: sorted((value, after.get(key, value))) for key, value in before.items()}
            facts["sequence_steps"] = {full_name(row): row["increment"] for row in steps}
            facts["unlogged"] = [full_name(row) for row in unlogged]
            facts["collation"] = collation
            facts["exact"] = name not in self._facts["not_exact"]
            self._databases[name] = {"time": iso(self._view_time or self._clock.now()), **facts}

    def fingerprint(self) -> Fingerprint:
        backup = self._backup
        if self._view_time is None:
            backup.frames.fail("was not read to its end")
        return {
            "kind": "postgresql",
            "method": "physical",
            "time": iso(self._view_time),
            **self._facts,
            "system_identifier": backup.system,
            "timeline": backup.timeline,
            "segment_bytes": backup.segment_bytes,
            "start_lsn": backup.start_lsn,
            "end_lsn": backup.end_lsn,
            "tablespaces": backup.tablespaces,
            "directories": sorted(path.decode("utf-8", "surrogateescape") for path in self._directories),
            "databases": self._databases,
            "unread": self._unread,
        }


def start_program(client: PostgresClient, request: dict[str, Any]) -> Process:
    return client.start([client.host.python, "-c", program_text(replication_program), json.dumps(request)])


def unsuitable(server: str, row: dict[str, Any]) -> tuple[str, str] | None:
    """Why a server cannot be backed up like this, and what to do about it."""
    if major(server) < OLDEST_MAJOR:
        return f"server is PostgreSQL {server}; physical backups need {OLDEST_MAJOR} or later", "use `method: dump`"
    if row["standby"]:
        return "the server is a standby, which cannot say which transaction it shows", "name the primary in `conninfo`"
    if row["wal_level"] == "minimal":
        return "wal_level is minimal: the log is too thin for a base backup", "set wal_level = replica, and restart it"
    return None


def preflight(client: PostgresClient, database: str, server: str) -> list[PreflightFinding]:
    """What only this method needs. The replication connection is tried: `pg_hba.conf` has lines of its own for it."""
    (row,) = client.records(database, SERVER)
    findings = []
    if (problem := unsuitable(server, row)) is not None:
        return [PreflightFinding("error", *problem)]
    completed = client.run(
        [
            client.program("psql"),
            "-XAt",
            "--no-password",
            "-c",
            "IDENTIFY_SYSTEM",
            "-d",
            f"{client.conninfo} replication=true",
        ]
    )
    if completed.returncode != 0:
        step = "ALTER ROLE the backup role REPLICATION; and a line `local replication …` (or host) in pg_hba.conf"
        findings.append(PreflightFinding("error", f"no replication connection: {said(completed)}", step))
    (counts,) = client.records(database, ROOM)
    if counts["slots"] < 1 or counts["senders"] < 2:
        findings.append(
            PreflightFinding(
                "error",
                "a physical backup needs one free replication slot and two free WAL senders; "
                f"free are {counts['slots']} and {counts['senders']}",
                "raise max_replication_slots and max_wal_senders, and restart the server",
            )
        )
    if row["data_checksums"] != "on":
        findings.append(
            PreflightFinding(
                "warning",
                "data checksums are off: a damaged page is stored as it is, and nobody notices",
                "stop the server, run pg_checksums --enable, and start it",
            )
        )
    return findings


def block_bytes_for(size: int) -> int:
    return LARGE_BLOCK_BYTES if size > LARGE_FROM_BYTES else SMALL_BLOCK_BYTES


def checksum_warning(text: str) -> bytes:
    """The file that a warning of the server speaks about, as a path below the data directory; b"" when it names none. Only the
    quoted path is relied on: the words are in the server's language."""
    found = re.search('["«„“”»]\\.?/?((?:base|global|pg_tblspc)/[^"«„“”»]+)["«„“”»]', text)
    return found[1].encode() if found else b""
