"""What it takes to open several views of a server that are one: holding up commits, and dumps that say when they began."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable
from typing import NoReturn

from backupctl.errors import SourceError
from backupctl.hosts.protocol import ByteSource, Process
from backupctl.sources.mariadb_client import MariadbClient, numbers, series
from backupctl.sources.streams import ProcessStream

BLOCKED_LIMIT_SECONDS = 30.0  # then the locks are given back and the run fails: production goes before backup
VIEW_OPEN = b"\n-- Current Database:"
COMPLETED = b"-- Dump completed"
BLOCK_COMMITS = (
    "BACKUP STAGE START;\nBACKUP STAGE FLUSH;\nBACKUP STAGE BLOCK_DDL;\nBACKUP STAGE BLOCK_COMMIT;\n",
    "BACKUP STAGE END;\n",
)
LOCK_EVERYTHING = ("FLUSH TABLES WITH READ LOCK;\n", "UNLOCK TABLES;\n")
DUMP = (
    "--single-transaction",
    "--quick",
    "--routines",
    "--events",
    "--triggers",
    "--hex-blob",
    "--tz-utc",
    "--no-tablespaces",
)
POSITION = re.compile(
    rb"-- CHANGE (?:MASTER|REPLICATION SOURCE) TO (?:MASTER|SOURCE)_LOG_FILE='([^']*)', (?:MASTER|SOURCE)_LOG_POS=(\d+);"
)


def no_end(tail: bytes) -> str:
    """What is wrong with the end of a dump; "" when it is complete."""
    lines = tail.rstrip(b"\n").rsplit(b"\n", 1)
    return "" if lines[-1].startswith(COMPLETED) else "has no `-- Dump completed` at its end"


def watchdog(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


class Gate:
    """Holds up all commits from `close` to `open`."""

    def __init__(self, client: MariadbClient, version: str) -> None:
        self._client = client
        since = client.family.backup_stages_since
        staged = since is not None and numbers(series(version)) >= since
        self._shut, self._reopen = BLOCK_COMMITS if staged else LOCK_EVERYTHING
        self._mark = f"backupctl-{secrets.token_hex(16)}"
        self._process: Process = client.start(client.argv())
        self._ask(client.family.session)

    def shut(self) -> None:
        self._ask(self._shut)

    def reopen(self) -> None:
        """A server that has already given up the connection has opened the gate itself: the views were not one."""
        self._ask(self._reopen)

    def _ask(self, script: str) -> None:
        answer = b""
        try:
            self._process.stdin.write(f"{script}SELECT '{self._mark}';\n".encode())
        except OSError:
            self._fail()
        while self._mark.encode() not in answer:
            data = self._process.stdout.read(65536)
            if not data:
                self._fail()
            answer += data

    def _fail(self) -> NoReturn:
        raise self._client.failure(self._process.finish(), "holding up commits while the views are opened")

    def kill(self) -> None:
        """Gives the locks back whatever hangs; `reopen` then raises."""
        self._process.kill()

    def close(self) -> None:
        self._process.__exit__(None, None, None)


class Dump:
    """A running dump of one database, read until its view is known to be open."""

    def __init__(self, client: MariadbClient, source: str, database: str, options: list[str]) -> None:
        self._client, self._source, self._database = client, source, database
        self._process = client.start(client.dump_argv(*DUMP, *options, "--databases", database))
        self._stream: ProcessStream | None = None
        self.head = b""

    def wait_until_open(self) -> None:
        while VIEW_OPEN not in self.head:
            data = self._process.stdout.read(65536)
            if not data:
                completed = self._process.finish()
                raise self._client.failure(completed, f"dump of database {self._database}, which wrote nothing")
            self.head += data

    def position(self) -> tuple[str, int] | None:
        found = POSITION.search(self.head)
        return (found.group(1).decode(), int(found.group(2))) if found else None

    def stream(self) -> ByteSource:
        item = f"{self._client.family.name} database {self._database}"
        self._stream = ProcessStream(self._process, source=self._source, item=item, already=self.head, ending=no_end)
        return self._stream

    def failure(self) -> SourceError | None:
        """Why it is no whole dump, once its turn is over."""
        if self._stream is not None and self._stream.ended:
            return None
        return (self._stream and self._stream.failure) or SourceError(
            f"source {self._source}: the dump of database {self._database} was not read to its end", source=self._source
        )

    def close(self) -> None:
        self._process.__exit__(None, None, None)
