"""The stream of `mariadb-backup --stream=xbstream`, taken apart into files while it passes.

Format (xbstream.h of MariaDB): chunks `XBSTCK01`, flags (1 byte), type (1), length of the path (4, little endian), path; type `P`:
length of the payload (8), its offset in the file (8), CRC-32 (4), payload; type `E`: the file is complete. Data files come one
after the other; the redo log is copied all the while, so its chunks stand between theirs: it is put aside.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, NoReturn, Self, cast

from backupctl.errors import SourceError
from backupctl.hosts.protocol import ByteSource

MAGIC = b"XBSTCK01"
PAYLOAD, END = b"P", b"E"
LONGEST_PATH = 4096
LARGEST_PAYLOAD = 256 << 20  # the program sends 10 MiB at most
KEPT_IN_MEMORY = 16 << 20
READ_BYTES = 1 << 20


@dataclass
class BackupFile:
    """One file of the backup: to be read to its end before the next one is asked for."""

    path: str
    _next: Callable[[], bytes]
    _rest: memoryview = field(default_factory=lambda: memoryview(b""))
    _ended: bool = False

    def open(self) -> Self:
        return self

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(READ_BYTES), b""))
        while not self._rest and not self._ended:
            data = self._next()
            self._rest, self._ended = memoryview(data), not data
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def close(self) -> None:
        """What was not read is skipped when the next file is asked for."""


class XbStream:
    """Raises SourceError, again and again, for a stream that is damaged or ends anywhere but at its end."""

    def __init__(self, stream: ByteSource, source: str) -> None:
        self._stream, self._source = stream, source
        self._data = b""
        self._failure: SourceError | None = None
        self._current = ""
        self._aside: dict[str, IO[bytes]] = {}
        self._offsets: dict[str, int] = {}
        self._open: set[str] = set()

    def files(self) -> Iterator[BackupFile]:
        while (chunk := self._chunk()) is not None:
            path, payload = chunk
            if path in self._aside or is_redo_log(path):
                self._put_aside(path, payload)
                continue
            self._current = path
            file = BackupFile(path, self._payload)
            file._rest, file._ended = memoryview(payload or b""), payload is None
            yield file
            while file.read(READ_BYTES):
                pass
        if self._open:
            self._fail(f"ends before {sorted(self._open)[0]} is complete")
        for path, kept in self._aside.items():
            kept.seek(0)
            yield BackupFile(path, partial(kept.read, READ_BYTES))
            kept.close()

    def _payload(self) -> bytes:
        """The next bytes of the current file; b"" at its end."""
        while True:
            chunk = self._chunk()
            if chunk is None:
                self._fail(f"ends in the middle of {self._current}")
            path, payload = chunk
            if path == self._current:
                return payload or b""
            self._put_aside(path, payload)

    def _put_aside(self, path: str, payload: bytes | None) -> None:
        if path not in self._aside:
            self._aside[path] = cast(IO[bytes], SpooledTemporaryFile(KEPT_IN_MEMORY))  # noqa: SIM115 — closed when it was read
        if payload:
            self._aside[path].write(payload)

    def _chunk(self) -> tuple[str, bytes | None] | None:
        """(path, payload), with None for the end of that file; None at the end of the stream. Empty payloads are passed over."""
        while True:
            head = self._exactly(14, may_end=True)
            if not head:
                return None
            magic, _, kind, length = struct.unpack("<8sBcI", head)
            if magic != MAGIC or kind not in (PAYLOAD, END) or not 0 < length <= LONGEST_PATH:
                self._fail("is no xbstream, or is damaged")
            path = self._exactly(length).decode("utf-8", "surrogateescape")
            if path.startswith("/") or ".." in path.split("/"):
                self._fail(f"holds the path {path!r}, which leads out of the data directory")
            path = path.removeprefix("./")
            if kind == END:
                self._open.discard(path)
                return path, None
            size, offset, checksum = struct.unpack("<QQI", self._exactly(20))
            if size > LARGEST_PAYLOAD or offset != self._offsets.get(path, 0):
                self._fail(f"is damaged in {path}: {size} bytes for offset {offset}")
            payload = self._exactly(size)
            if zlib.crc32(payload) != checksum:
                self._fail(f"is damaged in {path}: a checksum does not match")
            self._offsets[path] = offset + size
            self._open.add(path)
            if payload:
                return path, payload

    def _exactly(self, size: int, *, may_end: bool = False) -> bytes:
        if self._failure is not None:
            raise self._failure
        parts, have = [self._data], len(self._data)
        while have < size:
            data = self._stream.read(READ_BYTES)  # raises when the program did not end well
            if not data:
                if may_end and not have:
                    return b""
                self._fail("ends in the middle of a chunk")
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self._data = whole[size:]
        return whole[:size]

    def _fail(self, what: str) -> NoReturn:
        self._failure = SourceError(
            f"source {self._source}: the stream of mariadb-backup {what}",
            source=self._source,
            item="data",
            next_step="see the server's log and the memory of both hosts, then run the job again",
        )
        raise self._failure


def is_redo_log(path: str) -> bool:
    return path.startswith(("ib_logfile", "xtrabackup_logfile"))
