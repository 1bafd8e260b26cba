"""The binary logs alone (`method: binlog`): a job that runs every few minutes, between two backups of the data, and makes every
point in between recoverable. Logs that the server has closed are known again from the last snapshot and not read.

There is no server to compare with afterwards: a drill reads every stored event, and shows that they are an unbroken chain up to
where the server was when the run began.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Self

from backupctl.clock import iso
from backupctl.errors import CouldNotRunError, SourceError, UserError
from backupctl.hosts.protocol import Host
from backupctl.repository.entry import Entry
from backupctl.sources.binlog_format import BinlogDamage, BinlogFile, BinlogReader, follows
from backupctl.sources.mariadb_binlog import DIRECTORY, LogStream, Position, facts_of, now_at, read_whole
from backupctl.sources.mariadb_physical import beside
from backupctl.sources.mariadb_replay import key, sequence
from backupctl.sources.mariadb_session import MariadbSession
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance, SnapshotFiles
from backupctl.sources.streams import directory_node, stream_node


class BinlogSession(MariadbSession):
    _end = Position("", 0)

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._connect(stack)
            self._time = self._clock.now()  # what was committed by now stands before the position asked for next
            self._end = now_at(self._client)
            self._program = beside(self._client, self._client.family.log_reader)
            self._logs: list[tuple[str, BinlogFile]] = []
            self._names = []
            self._stack = stack.pop_all()
        return self

    def entries(self) -> Iterator[Entry]:
        yield Entry(DIRECTORY, directory_node(DIRECTORY, self._time))
        rows = self._client.rows("SHOW BINARY LOGS;")
        for name, size, *_ in sorted(rows):
            if sequence(name) > sequence(self._end.file):
                break  # begun since: the next run's
            self._names.append(name)
            closed = name != self._end.file
            stream = LogStream(self._client, self._program, name, None if closed else self._end.offset)
            node = stream_node(name.encode(), self._time)
            if closed:  # it never changes again: its name and size on this server say what it is
                node.size, node.inode = int(size), identity(self._facts["server_uid"], name, size)
                node.mtime_ns = node.atime_ns = node.ctime_ns = 0
            path = DIRECTORY + b"/" + name.encode()
            yield Entry(path, node, open=stream.open, stable=closed)
            if stream.found is not None:
                self._logs.append((name, stream.found))

    def fingerprint(self) -> Fingerprint:
        if not self._logs or self._logs[-1][1].end < self._end.offset:
            raise SourceError(
                f"source {self._name}: binary logs were not read up to {self._end}",
                source=self._name,
                item=self._end.file,
                next_step="see the problem above it",
            )
        newest = self._logs[-1][1].last_time or max((one.last_time for _, one in self._logs), default=0)
        return {
            "kind": self._client.family.kind,
            "method": "binlog",
            "time": iso(self._time),
            **self._facts,
            "first": self._names[0],
            "end": [self._end.file, self._end.offset],
            "last_commit": iso(datetime.fromtimestamp(newest, UTC)) if newest else None,
            "logs": [facts_of(name, found) for name, found in self._logs],
        }


def identity(server: str, name: str, size: str) -> int:
    return zlib.crc32(f"{server} {name} {size}".encode())


def boot(name: str, host: Host, directory: bytes, fingerprint: Fingerprint) -> Instance:
    """Nothing is started: logs are read, not served."""
    if host.stat(directory) is not None:
        raise CouldNotRunError(f"{directory.decode('utf-8', 'backslashreplace')} on host {host.name} exists already")
    host.make_directory(directory)
    instance = Instance(fingerprint["kind"], host, directory, fingerprint["versions"]["server"])
    instance.connection = {"method": "binlog"}
    return instance


def load(instance: Instance, files: SnapshotFiles) -> list[str]:
    """Reads every event of every log."""
    names = sorted((one.decode() for one in files.names(DIRECTORY)), key=sequence)
    read: list[dict[str, Any]] = []
    broken, before, last_time = "", None, 0
    for name in names:
        try:
            found = read_whole(files.open(DIRECTORY + b"/" + name.encode()), BinlogReader())
        except BinlogDamage as error:
            broken = broken or f"binary log {name} {error}"
            before = None
            continue
        if before is not None and (why := follows(before, name, found)):
            broken = broken or why
        before, last_time = found, max(last_time, found.last_time)
        read.append({"name": name, "end": found.end})
    instance.connection["read"] = json.dumps({"logs": read, "broken": broken, "last_time": last_time})
    return [f"{len(read)} binary logs read"]


def compare(instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
    found = json.loads(instance.connection["read"])
    names = [one["name"] for one in found["logs"]]
    first, end = fingerprint["first"], Position(*fingerprint["end"])
    have = found["broken"] or (f"{names[0]} to {names[-1]} without a gap" if names else "none")
    unbroken = not found["broken"] and names[:1] == [first]
    reached = Position(names[-1], found["logs"][-1]["end"]) if names else Position("", 0)
    ok = bool(names) and key(reached) >= key(end)
    last = iso(datetime.fromtimestamp(found["last_time"], UTC)) if found["last_time"] else "none"
    return [
        CheckResult("binary logs", f"{first} and all after it, without a gap", have, unbroken, 4),
        CheckResult(
            "end of the binary logs", f"{end} or later", str(reached), ok, 4, detail=f"newest transaction: {last}"
        ),
    ]


def refuse(name: str) -> UserError:
    return UserError(
        f"source {name} holds binary logs: there is no server to ask", next_step="ask the source of the data"
    )
