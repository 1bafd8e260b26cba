"""Binary logs of a server as they are, over its own protocol, and read along: no file access, no room needed there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NoReturn, Self

from backupctl.errors import SourceError
from backupctl.hosts.protocol import ByteSource
from backupctl.sources import binlog_program
from backupctl.sources.binlog_format import BinlogDamage, BinlogFile, BinlogReader, follows
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.streams import ProcessStream, program_text

DIRECTORY = b"binlog"


@dataclass(frozen=True)
class Position:
    """`offset`: bytes into the log `file`."""

    file: str
    offset: int

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"


def now_at(client: MariadbClient) -> Position:
    """Where the next transaction will be written. Raises SourceError without a binary log."""
    rows = client.rows(f"SHOW {client.family.log_status(client.rows('SELECT VERSION();')[0][0])} STATUS;")
    if not rows:
        raise SourceError(
            f"source {client.source}: the server writes no binary log",
            source=client.source,
            next_step="set log_bin in its configuration and restart it, or use `method: logical`",
        )
    return Position(rows[0][0], int(rows[0][1]))


def list_logs(client: MariadbClient) -> list[str]:
    return list(list_sizes(client))


def list_sizes(client: MariadbClient) -> dict[str, int]:
    """Oldest first, in bytes."""
    return {row[0]: int(row[1]) for row in client.rows("SHOW BINARY LOGS;")}


def logs_between(client: MariadbClient, first: Position, last: Position) -> list[str]:
    names = list_logs(client)
    if first.file not in names or last.file not in names:
        raise SourceError(
            f"source {client.source}: the binary log {first.file} is purged already; the server has {', '.join(names)}",
            source=client.source,
            next_step="keep binary logs longer: SET GLOBAL binlog_expire_logs_seconds = 604800;",
        )
    return names[names.index(first.file) : names.index(last.file) + 1]


class LogStream:
    """One log, checked event by event while it passes; it ends only at the end of an event. `end`: where to stop, in bytes: a log
    that is written to faster than it is read here has no end of its own. None is the end of a log that the server has closed."""

    def __init__(self, client: MariadbClient, program: str, name: str, end: int | None = None) -> None:
        self._client, self._program, self.name, self._end = client, program, name, end
        self._seen = 0
        self._stream: ProcessStream | None = None
        self._reader = BinlogReader()
        self.found: BinlogFile | None = None

    def open(self) -> Self:
        """Nothing is started before this."""
        client = self._client
        argv = [self._program, client.defaults, *client.options, "--read-from-remote-server", "--raw", "--result-file="]
        process = client.host.start([client.host.python, "-c", program_text(binlog_program), self.name, *argv])
        self._stream = ProcessStream(
            process,
            source=client.source,
            item=f"binary log {self.name}",
            next_step=f"{client.family.log_grant} or see the server's log",
        )
        return self

    def read(self, size: int = -1, /) -> bytes:
        assert self._stream is not None
        if self.found is not None:
            return b""
        data = self._stream.read(size)
        last = not data and size != 0
        if self._end is not None and self._seen + len(data) >= self._end:
            data, last = data[: self._end - self._seen], True
            self._stream.close()
        self._seen += len(data)
        try:
            self._reader.feed(data)
            if last:
                self.found = self._reader.finish()
        except BinlogDamage as error:
            self._fail(str(error))
        return data

    def _fail(self, what: str) -> NoReturn:
        raise SourceError(
            f"source {self._client.source}: binary log {self.name} {what}",
            source=self._client.source,
            item=self.name,
            next_step="back up the databases again: recovery cannot go beyond this point; then see the server's disk",
        )

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def facts_of(name: str, found: BinlogFile) -> dict[str, Any]:
    """For a fingerprint."""
    return {"name": name, **asdict(found)}


def read_whole(stream: ByteSource, reader: BinlogReader) -> BinlogFile:
    """A stored log. Raises BinlogDamage, and what the stream raises."""
    try:
        while data := stream.read(1 << 20):
            reader.feed(data)
    finally:
        stream.close()
    return reader.finish()


def first_gap(logs: list[tuple[str, BinlogFile]]) -> str:
    """Why logs that stand in order are no unbroken chain; "" when they are."""
    for (_, before), (name, after) in pairwise(logs):
        if why := follows(before, name, after):
            return why
    return ""
