"""One RDB of a Redis or Valkey server: asked for as a replica asks, checked and summed up while it passes.

The server forks; the RDB is the moment of that fork. It ends with the server's own checksum over what it wrote. A program
beside us reads along (`rdb_program.py`): without that checksum and the end of the format there is no end of the stream. So
the fingerprint describes the stored bytes as they came from the server, before anything of ours handled them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn, Self

from backupctl.clock import Clock, iso
from backupctl.errors import SourceError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Process
from backupctl.repository.entry import Entry
from backupctl.sources.protocol import Fingerprint
from backupctl.sources.redis_client import RDB_NAME, RedisClient, rdb_reader, version_of
from backupctl.sources.streams import ProcessStream, read_line, said, stream_node

HEADER_LIMIT_BYTES = 1 << 20
RECORDED = ("role", "master_host", "master_port", "redis_mode", "aof_enabled", "rdb_last_bgsave_status", "modules")


class RdbStream:
    """The RDB as it comes, with a reader beside it. Its end is true only when both say so."""

    def __init__(self, stream: ProcessStream, reader: Process, client: RedisClient) -> None:
        self._stream, self._reader, self._client = stream, reader, client
        self.found: dict[str, Any] | None = None

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        if data and self.found is None:
            with suppress(BrokenPipeError):  # it gave up: its own words follow at the end
                self._reader.stdin.write(data)
        if (not data and size) or size < 0:
            self._end()
        return data

    def _end(self) -> None:
        if self.found is not None:
            return
        self._reader.stdin.close()
        answer = b"".join(iter(lambda: self._reader.stdout.read(1 << 16), b""))
        completed = self._reader.finish()
        try:
            found: dict[str, Any] = json.loads(answer)
        except ValueError:
            self._fail(f"could not be read along: {said(completed)}")
        if "error" in found:
            self._fail(found["error"])
        self.found = found

    def _fail(self, what: str) -> NoReturn:
        raise SourceError(
            f"source {self._client.source}: the RDB of {self._client.shown} {what}",
            source=self._client.source,
            item=RDB_NAME.decode(),
            next_step="see the server's memory (its log, `redis-check-rdb`), then run the job again; it was not stored",
        )

    def close(self) -> None:
        with suppress(OSError):
            self._reader.kill()
        self._reader.__exit__(None, None, None)
        self._stream.close()


class RedisSession:
    def __init__(self, client: RedisClient, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._time: datetime | None = None
        self._header: dict[str, Any] = {}
        self._process: Process | None = None
        self._stream: RdbStream | None = None

    def _start(self) -> None:
        """Raises SourceError for a server that cannot be reached or refuses, with the advice that belongs to it."""
        self._time = self._clock.now()  # before the server forks: nothing is called newer than it is
        process = self._client.host.start(self._client.argv("dump"))
        self._process = process
        with suppress(BrokenPipeError):
            process.stdin.write(self._client.greeting())
            process.stdin.close()
        line, rest = read_line(process, HEADER_LIMIT_BYTES)
        try:
            self._header = json.loads(line)
        except ValueError:
            raise self._client.failure(said(process.finish())) from None
        if "error" in self._header:
            raise self._client.failure(self._header["error"])
        stream = ProcessStream(
            process,
            already=rest,
            source=self._client.source,
            item=f"RDB of {self._client.shown}",
            next_step="see the server's log: memory for the fork, `client-output-buffer-limit`; then run the job again",
        )
        local = LocalHost()
        self._stream = RdbStream(stream, local.start(rdb_reader(local, "-", "-")), self._client)

    def entries(self) -> Iterator[Entry]:
        stream, at = self._stream, self._time
        assert stream is not None and at is not None
        yield Entry(RDB_NAME, stream_node(RDB_NAME, at), open=lambda: stream)

    def fingerprint(self) -> Fingerprint:
        found = self._stream.found if self._stream is not None else None
        if found is None or self._time is None:
            raise SourceError(
                f"source {self._client.source}: the RDB of {self._client.shown} was not read to its end",
                source=self._client.source,
                item=RDB_NAME.decode(),
                next_step="see the problem above it",
            )
        info, settings = self._header["info"], self._header["settings"]
        product, version = version_of(info)
        return {
            "kind": "redis",
            "time": iso(self._time),
            "versions": {"product": product, "server": version, "rdb": found["rdb_version"]},
            "server": {name: info[name] for name in RECORDED if name in info},
            "settings": settings,
            "replication": self._header["replication"],
            "used_memory_bytes": int(info.get("used_memory", 0)),
            "rdb": {name: found[name] for name in ("bytes", "checksum", "aux", "base_ms", "unknown")},
            "databases": found["databases"],
            "functions": found["functions"],
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._stream is not None:
            self._stream.close()
        elif self._process is not None:
            with suppress(OSError):
                self._process.kill()
            self._process.__exit__(None, None, None)
