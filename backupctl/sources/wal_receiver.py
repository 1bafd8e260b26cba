"""pg_receivewal beside a source: the log as it is written, in a spool directory of the source's host, held by a slot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Host, Process
from backupctl.sources.postgresql_client import PostgresClient, choose_client
from backupctl.sources.postgresql_session import connect
from backupctl.sources.streams import said
from backupctl.sources.wal_format import is_segment_name

PARTIAL = ".partial"
READ_BYTES = 1 << 20


class WalReceiver:
    """Use as a context manager. What is in the spool stays there until it is removed: it outlives this program."""

    def __init__(
        self,
        source: str,
        host: Host,
        *,
        conninfo: str,
        bin_dir: str | None,
        password: Callable[[], bytes] | None,
        slot: str,
        spool: str,
    ) -> None:
        self._name, self._host, self._slot, self._spool = source, host, slot, spool
        self._client = PostgresClient(host, source, conninfo)
        self._bin_dir, self._password = bin_dir, password
        self._stack = ExitStack()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        with self._stack as stack:
            client = connect(self._client, stack, self._password, self._bin_dir)
            database = None if "dbname" in client.conninfo else "postgres"
            self._client = client = choose_client(client, self._bin_dir, client.server_version(database))
            self._host.make_directory(self._spool.encode())
            base = [client.program("pg_receivewal"), "--no-password", f"--slot={self._slot}", "-d", client.conninfo]
            made = client.run([*base, "--create-slot", "--if-not-exists"])
            if made.returncode != 0:
                raise client.failure(None, made)
            arguments = [f"--directory={self._spool}", "--synchronous", "--no-loop"]
            self._process: Process = stack.enter_context(client.start([*base, *arguments]))
            threading.Thread(target=self._watch, daemon=True).start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _watch(self) -> None:
        try:
            while self._process.stdout.read(READ_BYTES):
                pass
        finally:
            self._ended.set()

    def require_running(self) -> None:
        """Raises SourceError once it has ended, with what it said."""
        if self._ended.is_set():
            raise SourceError(
                f"source {self._name}: pg_receivewal ended with {said(self._process.finish())}",
                source=self._name,
                item="write-ahead log",
                next_step="start `backupctl wal receive` again; the slot holds the log meanwhile",
            )

    def finished(self) -> list[str]:
        """Segments that are whole, and histories of timelines, oldest first."""
        return [name for name in self._names() if is_segment_name(name) or name.endswith(".history")]

    def partial(self) -> str:
        """The segment that is being received; "" for none."""
        found = [name for name in self._names() if name.endswith(PARTIAL) and is_segment_name(name[: -len(PARTIAL)])]
        return max(found, default="")

    def _names(self) -> list[str]:
        return sorted(name.decode("utf-8", "replace") for name in self._host.list_directory(self._spool.encode()))

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError: a partial segment becomes a whole one at any moment."""
        with self._host.open_read(f"{self._spool}/{name}".encode()) as file:
            parts = []
            while data := file.read(READ_BYTES):
                parts.append(data)
            return b"".join(parts)

    def remove(self, name: str) -> None:
        self._host.remove_tree(f"{self._spool}/{name}".encode())
