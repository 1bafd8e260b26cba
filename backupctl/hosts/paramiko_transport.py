"""SSH by paramiko: a command on a channel of its own, several channels on one connection.

When sshd opens no more of them on one connection (MaxSessions, by default 10), a further connection is made. A connection
that breaks stays broken: whatever was under way raises UnreachableError, and nothing is tried again here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import paramiko
from paramiko.ssh_exception import ChannelException, SSHException

from backupctl.errors import UnreachableError
from backupctl.hosts.options import SshOptions
from backupctl.hosts.paramiko_connection import OpenSocket, connect, tcp_socket
from backupctl.hosts.process import READ_BYTES, RunningProcess
from backupctl.hosts.transport import CONNECT_SECONDS, Login, command_line, connection_lost

MAX_CONNECTIONS = 16


class NoChannelError(UnreachableError):
    """This connection carries as many channels as sshd allows."""


class ParamikoProcess(RunningProcess):
    """A command on its own channel. The end of stdout counts only when the far side said so: a cut connection
    raises UnreachableError instead of looking like a short file."""

    def __init__(self, transport: paramiko.Transport, argv: Sequence[str], command: Sequence[str], where: str) -> None:
        super().__init__(argv, where)
        line = command_line(where, argv, command)
        try:
            self._transport = transport
            self._channel = transport.open_session(timeout=CONNECT_SECONDS)
            self._channel.exec_command(line)
        except ChannelException as error:
            raise NoChannelError(
                f"{where}: sshd opens no further channel: {error}", next_step="raise MaxSessions in its sshd_config"
            ) from error
        except (SSHException, OSError, EOFError) as error:
            raise self._lost(str(error)) from error
        self._stderr.start()

    def _lost(self, reason: str = "") -> UnreachableError:
        return connection_lost(self.where, self.shown, reason)

    def read_stdout(self, size: int) -> bytes:
        data = self._receive(self._channel.recv, min(size, 1 << 20))
        if not data and not self._channel.eof_received and not self.killed:
            raise self._lost()
        return data

    def read_stderr(self) -> bytes:
        return self._receive(self._channel.recv_stderr, READ_BYTES)

    def _receive(self, receive: Callable[[int], bytes], size: int) -> bytes:
        try:
            return receive(size)
        except (OSError, EOFError, SSHException) as error:  # receiving also sends: it opens the window again
            if self.killed:
                return b""
            raise self._lost(str(error)) from error

    def write_stdin(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except (OSError, EOFError, SSHException) as error:
            if self._transport.is_active():
                raise BrokenPipeError(32, f"{self.shown} reads no more") from error
            raise self._lost(str(error)) from error

    def close_stdin(self) -> None:
        with suppress(OSError, EOFError, SSHException):  # already closed by the other side; `wait` tells which way
            self._channel.shutdown_write()

    def wait(self) -> int:
        code = int(self._channel.recv_exit_status())
        if code >= 0:
            return code
        if self.killed:
            return 137
        raise self._lost("it ended without an exit status")

    def kill(self) -> None:
        """The supervisor sees the channel close and kills the whole group."""
        if not self.killed:
            self.killed = True
            self.release()

    def release(self) -> None:
        with suppress(OSError, EOFError, SSHException):  # the connection is gone, which the far side sees as well
            self._channel.close()


class ParamikoTransport:
    def __init__(self, name: str, options: SshOptions, login: Login, jump: ParamikoTransport | None = None) -> None:
        self._name, self._options, self._login, self._jump = name, options, login, jump
        self._where = f"host {name}"
        self._connections: list[paramiko.Transport] = []
        self._lock = threading.RLock()

    def start(self, argv: Sequence[str], command: Sequence[str]) -> RunningProcess:
        for number, connection in enumerate(self._connected(), start=1):
            try:
                return ParamikoProcess(connection, argv, command, self._where)
            except NoChannelError:
                if number >= MAX_CONNECTIONS:
                    raise
        return ParamikoProcess(self._connect(), argv, command, self._where)

    def _connected(self) -> list[paramiko.Transport]:
        with self._lock:
            if not self._connections:
                self._connect()
            return list(self._connections)

    def _connect(self) -> paramiko.Transport:
        with self._lock:
            self._connections.append(connect(self._name, self._options, self._login, self._socket()))
            return self._connections[-1]

    def _socket(self) -> OpenSocket:
        if self._jump is None:
            return lambda: tcp_socket(self._name, self._options)
        jump = self._jump
        return lambda: jump.tunnel(self._name, self._options.address, self._options.port)

    def tunnel(self, name: str, address: str, port: int) -> paramiko.Channel:
        """A connection from this host to another, for SSH to go through."""
        try:
            return self._connected()[0].open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=CONNECT_SECONDS
            )
        except (SSHException, OSError, EOFError) as error:
            raise UnreachableError(
                f"host {name}: jump host {self._name} cannot reach {address} port {port}: {error}",
                next_step=f"check from {self._name}, and that its sshd allows TCP forwarding",
            ) from error

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
