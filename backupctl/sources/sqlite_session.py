"""Reading SQLite databases: a program on the host copies each, judges the copy and sends it, and what is in its tables after it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

from backupctl.clock import Clock, iso
from backupctl.errors import SourceError
from backupctl.hosts.protocol import ByteSource, Host, Process
from backupctl.repository.entry import Chunking, Entry
from backupctl.sources import sqlite_program
from backupctl.sources.protocol import Fingerprint
from backupctl.sources.streams import ProcessStream, program_text, read_line, said, stream_node

SMALL_BLOCK_BYTES = 8 * 1024
LARGE_BLOCK_BYTES = 64 * 1024
SMALL_DATABASE_BYTES = 4 * 1024**3
LINE_LIMIT_BYTES = 64 * 1024**2
READ_BYTES = 1 << 20


def block_size(page_size: int, size: int) -> int:
    """A whole number of pages (both are powers of two)."""
    return max(page_size, SMALL_BLOCK_BYTES if size <= SMALL_DATABASE_BYTES else LARGE_BLOCK_BYTES)


def far(host: Host, *arguments: str) -> list[str]:
    return [host.python, "-c", program_text(sqlite_program), *arguments]


class SqliteSession:
    """One process on the host per database, alive while its entry is read."""

    def __init__(self, source: str, paths: Sequence[str], scratch: str, host: Host, clock: Clock) -> None:
        self._source, self._scratch, self._host, self._clock = source, scratch, host, clock
        self._paths = sorted(paths, key=lambda path: posixpath.basename(path).encode())
        self._databases: dict[str, Any] = {}
        self._unreadable: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._time = ""
        self._process: Process | None = None

    def entries(self) -> Iterator[Entry]:
        for path in self._paths:
            self._begin("snapshot", path, self._scratch)
            yield self._entry(path)
            self._end_process()

    def _begin(self, *arguments: str) -> None:
        self._view_time = self._clock.now()
        self._process = self._host.start(far(self._host, *arguments))
        self._beyond = b""  # read past what is told and sent of one database

    def _entry(self, path: str) -> Entry:
        """Of the next database that the process sends."""
        assert self._process is not None  # `_begin` was called
        name = posixpath.basename(path)
        node = stream_node(name.encode(), self._view_time)
        line, self._beyond = read_line(self._process, LINE_LIMIT_BYTES, self._beyond)
        header = self._facts(line)
        if "error" in header:
            self._unreadable[name] = header["error"]
            return Entry(name.encode(), node, error=self._message(path, header["error"]))
        self._versions = header.pop("versions")
        node.size = header["size"]
        self._databases[name] = {**header, "path": path, "time": iso(self._view_time)}
        self._time = self._time or iso(self._view_time)
        stream = self._stream(self._process, self._beyond, path, node.size, partial(self._complete, path))
        chunking = Chunking("fixed", block_size(header["page_size"], node.size))
        return Entry(name.encode(), node, open=lambda: stream, chunking=chunking)

    def _stream(
        self, process: Process, rest: bytes, path: str, size: int, after: Callable[[bytes], None]
    ) -> ByteSource:
        item = f"SQLite database {path}"
        return ProcessStream(process, already=rest, source=self._source, item=item, size=size, after=after)

    def _complete(self, path: str, line: bytes) -> None:
        """With what is in its tables, which came after its bytes. Raises SourceError."""
        name, content = posixpath.basename(path), self._facts(line)
        if "error" in content:
            del self._databases[name]
            self._unreadable[name] = content["error"]
            raise failure(self._source, f"SQLite database {path}", f"on host {self._host.name}: {content['error']}")
        del content["versions"]
        self._databases[name] |= content

    def _facts(self, line: bytes) -> dict[str, Any]:
        assert self._process is not None
        try:
            facts: dict[str, Any] = json.loads(line)
        except ValueError:
            facts = {"error": f"its copy {said(self._process.finish())}"}
        return facts

    def _message(self, path: str, what: str) -> str:
        return f"source {self._source}: SQLite database {path} on host {self._host.name}: {what}"

    def fingerprint(self) -> Fingerprint:
        if not self._databases:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._unreadable.items())
            raise SourceError(
                f"source {self._source}: no SQLite database could be read ({reasons or 'none was reached'})",
                source=self._source,
                next_step="see that the file exists, is a database, and that nobody holds it locked",
            )
        return {
            "kind": "sqlite",
            "time": self._time,
            "versions": self._versions,
            "databases": self._databases,
            "unreadable": self._unreadable,
        }

    def _end_process(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
            self._process.__exit__(None, None, None)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end_process()


class TogetherSession(SqliteSession):
    """One process for all databases, which holds a view of each before it copies the first."""

    def entries(self) -> Iterator[Entry]:
        self._begin("together", self._scratch, *self._paths)
        for path in self._paths:
            self._share: Share | None = None
            yield self._entry(path)
            if self._share is not None:
                self._share.drain()
                self._beyond = self._share.beyond
        apart = [name for name, facts in self._databases.items() if not facts["together"]]
        if apart:
            raise SourceError(
                f"source {self._source}: {', '.join(apart)}: no one moment of all was found: written to too often,"
                " or with a WAL that this account may not lock",
                source=self._source,
                next_step="run the job when less is written, with an account that may write to the files; or leave out `together`",
            )
        self._end_process()

    def _stream(
        self, process: Process, rest: bytes, path: str, size: int, after: Callable[[bytes], None]
    ) -> ByteSource:
        self._share = Share(process, rest, self._source, f"SQLite database {path}", size, after)
        return self._share


class Share:
    """`size` bytes of what a process writes, and the line after them for `after`; `beyond` is what was read past that."""

    def __init__(
        self, process: Process, already: bytes, source: str, item: str, size: int, after: Callable[[bytes], None]
    ) -> None:
        self._process, self._source, self._item = process, source, item
        self._left, self._after = size, after
        self._failure: SourceError | None = None
        self._ended = False
        self.beyond = already

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(READ_BYTES), b""))
        if self._failure is not None:
            raise self._failure
        try:
            return self._read(size)
        except SourceError as error:
            self._failure = error
            raise

    def _read(self, size: int) -> bytes:
        if not self._left and not self._ended:
            line, self.beyond = read_line(self._process, LINE_LIMIT_BYTES, self.beyond)
            self._after(line)
            self._ended = True
        if not self._left:
            return b""
        data = self.beyond or self._process.stdout.read(max(1, size))
        if not data:
            what = f"ended {self._left} bytes early with {said(self._process.finish())}"
            raise failure(self._source, self._item, what)
        taken = min(len(data), size, self._left)
        self._left -= taken
        self.beyond = data[taken:]
        return data[:taken]

    def drain(self) -> None:
        """To where the next one begins, whoever stopped reading."""
        with suppress(SourceError):
            while self.read(READ_BYTES):
                pass

    def close(self) -> None:
        """The process goes on with the next one."""


def failure(source: str, item: str, what: str) -> SourceError:
    return SourceError(
        f"source {source}: {item} {what}",
        source=source,
        item=item,
        next_step=f"put it right, then run the job again; `{item}` was not stored",
    )
