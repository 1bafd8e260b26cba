"""mariadb-binlog beside a source, as a replica that never ends: its binary logs as they are written, from a log's beginning on."""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Self

from backupctl.errors import SourceError, UserError
from backupctl.hosts.protocol import Host, Process
from backupctl.sources import binlog_receive_program
from backupctl.sources.mariadb_binlog import list_sizes
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.mariadb_family import Family
from backupctl.sources.mariadb_physical import beside
from backupctl.sources.mariadb_session import connect
from backupctl.sources.streams import program_text, read_line, said

WAITING = 64  # pieces of 256 KiB at most
LINE_BYTES = 4096
END_SECONDS = 10.0


class BinlogReceiver:
    """Use as a context manager; `begin` starts it. Nothing is left on the source's host afterwards: the server keeps its logs."""

    def __init__(
        self,
        source: str,
        host: Host,
        *,
        family: Family,
        options: tuple[str, ...],
        bin_dir: str | None,
        password: Callable[[], bytes] | None,
        replica_id: int | None,
    ) -> None:
        self._name, self._bin_dir, self._password = source, bin_dir, password
        self._client = MariadbClient(host, source, options, "", family)
        self._replica_id = replica_id or 0x80000000 | zlib.crc32(source.encode())
        self._stack = ExitStack()
        self._closing = threading.Event()
        self._process: Process | None = None
        self._came: queue.Queue[tuple[str, bytes] | None] = queue.Queue(WAITING)
        self.server_uid = ""

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._client = connect(self._client, stack, self._password, self._bin_dir)
            known = self._client.rows("SHOW GLOBAL VARIABLES LIKE 'server_uid';")
            if not known:
                raise SourceError(
                    f"source {self._name}: the server does not say which one it is",
                    source=self._name,
                    next_step="receiving needs MariaDB 10.5 or newer; use a job with `method: binlog`",
                )
            self.server_uid = known[0][1]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """It ends by itself when nobody is there any more, and clears away what it made; otherwise it is killed."""
        self._closing.set()
        if self._process is not None:
            with suppress(UserError, OSError):
                self._process.finish(END_SECONDS)
        self._stack.close()

    def there(self) -> dict[str, int]:
        """The server's logs, oldest first, and how long each is."""
        return list_sizes(self._client)

    def begin(self, first: str) -> None:
        """From the beginning of the log `first` on."""
        client = self._client
        argv = [beside(client, "mariadb-binlog"), client.defaults, *client.options, "--read-from-remote-server"]
        argv += ["--raw", "--stop-never", f"--stop-never-slave-server-id={self._replica_id}", "--result-file="]
        command = [client.host.python, "-c", program_text(binlog_receive_program), first, *argv]
        self._process = process = self._stack.enter_context(client.host.start(command))
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def next(self, seconds: float) -> tuple[str, bytes] | None:
        """The next bytes and the log they are of; None when none came for so long. Raises SourceError once it has ended."""
        try:
            came = self._came.get(timeout=seconds)
        except queue.Empty:
            return None
        if came is None:
            assert self._process is not None
            completed = self._process.finish()
            raise SourceError(
                f"source {self._name}: mariadb-binlog ended with {said(completed)}",
                source=self._name,
                item="binary log",
                next_step=f"{self._client.family.log_grant} or see the server's log",
            )
        return came

    def _read(self, process: Process) -> None:
        rest = b""
        try:
            while True:
                line, rest = read_line(process, LINE_BYTES, rest)
                if not line:
                    return
                name, _, length = line.decode().partition(" ")
                data = bytearray(rest)
                while len(data) < int(length):
                    more = process.stdout.read(int(length) - len(data))
                    if not more:
                        return
                    data += more
                rest = bytes(data[int(length) :])
                self._hand_over((name, bytes(data[: int(length)])))
        finally:
            self._hand_over(None)

    def _hand_over(self, what: tuple[str, bytes] | None) -> None:
        while not self._closing.is_set():
            with suppress(queue.Full):
                self._came.put(what, timeout=1)
                return
