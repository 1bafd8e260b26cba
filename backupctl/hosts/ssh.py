"""A machine reached by SSH. Nothing is installed there; it needs sshd, and python3 3.6 or newer.

Connected at first use. Files go through one agent (`far.py`), every command has a channel of its own; when sshd opens no
more of them on one connection (MaxSessions, by default 10), a further connection is made.
SSH hands a command to the login shell of the far user, there is no other way: every argument is therefore quoted with
`shlex.quote`, and what the shell sees is `exec python3 … ` with the argv of `supervisor.py`, which starts the command
without a shell and kills it when the connection ends. The far login shell must understand POSIX single quotes.

A connection that breaks stays broken: whatever was under way raises UnreachableError, and nothing is tried again here.
"""

from __future__ import annotations

import inspect
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import paramiko
from paramiko.ssh_exception import ChannelException, SSHException

from backupctl.errors import UnreachableError, UserError
from backupctl.hosts import far, supervisor
from backupctl.hosts.agent import bytes_of, text_of
from backupctl.hosts.local import to_facts
from backupctl.hosts.options import SshOptions
from backupctl.hosts.process import READ_BYTES, RunningProcess, run_to_end, supervised
from backupctl.hosts.protocol import ByteSink, Completed, FileInfo, HostFacts, Placer, Process, ReadFile
from backupctl.hosts.ssh_connection import CONNECT_SECONDS, OpenSocket, connect, tcp_socket

MAX_CONNECTIONS = 16
COMMAND_LIMIT_BYTES = 128 * 1024 - 1  # MAX_ARG_STRLEN: the far shell gets the whole command as one argument


class NoChannelError(UnreachableError):
    """This connection carries as many channels as sshd allows."""


class SshProcess(RunningProcess):
    """A command on its own channel. The end of stdout counts only when the far side said so: a cut connection
    raises UnreachableError instead of looking like a short file."""

    def __init__(self, transport: paramiko.Transport, argv: Sequence[str], command: Sequence[str], where: str) -> None:
        super().__init__(argv, where)
        line = os.fsencode("exec " + shlex.join(command))
        if len(line) > COMMAND_LIMIT_BYTES:
            raise UserError(
                f"{where}: the command {argv[0]!r} is {len(line)} bytes long, more than SSH can carry",
                next_step="give long input on standard input or in a file",
            )
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
        return UnreachableError(
            f"{self.where}: connection lost during `{self.shown}`{': ' + reason if reason else ''}",
            next_step="check the network and the host, then run the command again",
        )

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


class SshHost:
    def __init__(
        self, name: str, options: SshOptions, key: bytes, *, jump: SshHost | None = None, python: str = "python3"
    ) -> None:
        """`key` is the private key's text. `jump`, when given, is closed together with this host."""
        self.name = name
        self.python = python
        self._options, self._key, self._jump = options, key, jump
        self._where = f"host {name}"
        self._transports: list[paramiko.Transport] = []
        self._agent_process: SshProcess | None = None
        self._client: far.AgentClient | None = None
        self._lock = threading.RLock()

    def _connected(self) -> list[paramiko.Transport]:
        with self._lock:
            if not self._transports:
                self._connect()
            return list(self._transports)

    def _connect(self) -> paramiko.Transport:
        with self._lock:
            self._transports.append(connect(self.name, self._options, self._key, self._socket()))
            return self._transports[-1]

    def _socket(self) -> OpenSocket:
        if self._jump is None:
            return lambda: tcp_socket(self.name, self._options)
        jump = self._jump
        return lambda: jump.tunnel(self.name, self._options.address, self._options.port)

    def tunnel(self, name: str, address: str, port: int) -> paramiko.Channel:
        """A connection from this host to another, for SSH to go through."""
        try:
            return self._connected()[0].open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=CONNECT_SECONDS
            )
        except (SSHException, OSError, EOFError) as error:
            raise UnreachableError(
                f"host {name}: jump host {self.name} cannot reach {address} port {port}: {error}",
                next_step=f"check from {self.name}, and that its sshd allows TCP forwarding",
            ) from error

    @property
    def _agent(self) -> far.AgentClient:
        with self._lock:
            if self._client is None:
                start = far.program()
                command = [self.python, "-I", "-S", "-c", far.START, str(len(start))]
                process = SshProcess(self._connected()[0], [self.python], command, self._where)
                try:
                    self._client = far.AgentClient(self.name, process)
                except BaseException:
                    process.release()
                    raise
                self._agent_process = process
            return self._client

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> Completed:
        with self._start(argv, env) as process:
            return run_to_end(process, stdin=stdin, timeout=timeout, check=check)

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        return self._start(argv, env)

    def _start(self, argv: Sequence[str], env: Mapping[str, str] | None) -> SshProcess:
        assert self._agent  # so that a missing python3 is told apart from a missing program
        program = inspect.getsource(supervisor)
        command = [self.python, "-I", "-S", "-c", program, *supervised(argv, env, watch=1)]
        for number, transport in enumerate(self._connected(), start=1):
            try:
                return SshProcess(transport, argv, command, self._where)
            except NoChannelError:
                if number >= MAX_CONNECTIONS:
                    raise
        return SshProcess(self._connect(), argv, command, self._where)

    def scan(self, root: bytes, *, exclude: Sequence[str] = ()) -> Iterator[FileInfo]:
        return far.scan(self._agent, root, exclude)

    def open_read(self, path: bytes) -> ReadFile:
        return far.FarFile(self._agent, path)

    def open_write(self, path: bytes, *, mode: int = 0o600) -> ByteSink:
        return far.FarSink(self._agent, path, mode)

    @contextmanager
    def private_file(self, content: bytes) -> Iterator[str]:
        path = str(self._agent.call("private", content)[0]["path"])
        try:
            yield os.fsdecode(bytes_of(path))
        finally:
            with suppress(UnreachableError):  # the agent removes it when it loses us
                self._agent.call("end_private", path=path)

    def stat(self, path: bytes) -> FileInfo | None:
        record = self._agent.call("stat", path=text_of(path))[0]["record"]
        return self._agent.info(record) if record else None

    def list_directory(self, path: bytes) -> list[bytes]:
        return [bytes_of(name) for name in self._agent.call("list", path=text_of(path))[0]["names"]]

    def make_directory(self, path: bytes, *, mode: int = 0o700) -> None:
        self._agent.call("make_directory", path=text_of(path), mode=mode)

    def remove_tree(self, path: bytes) -> None:
        self._agent.call("remove_tree", path=text_of(path))

    def free_bytes(self, path: bytes) -> int:
        return int(self._agent.call("free", path=text_of(path))[0]["bytes"])

    @contextmanager
    def placer(self, root: bytes) -> Iterator[Placer]:
        placer = far.FarPlacer(self._agent, root)
        try:
            yield placer
        finally:
            placer.close()

    def facts(self) -> HostFacts:
        return to_facts(self._agent.call("facts")[0]["facts"])

    def close(self) -> None:
        with self._lock:
            if self._client is not None and self._agent_process is not None:
                self._client.close()
                self._agent_process.release()
            for transport in self._transports:
                transport.close()
            if self._jump is not None:
                self._jump.close()
