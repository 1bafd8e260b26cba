"""A machine reached by SSH. Nothing is installed there; it needs sshd, and python3 3.6 or newer.

Connected at first use. Files go through one agent (`far.py`), every command is run by itself; how they get there is the
matter of a transport (`transport.py`).
SSH hands a command to the login shell of the far user, there is no other way: every argument is therefore quoted with
`shlex.quote`, and what the shell sees is `exec python3 … ` with the argv of `supervisor.py`, which starts the command
without a shell and kills it when the connection ends. The far login shell must understand POSIX single quotes.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from backupctl.errors import UnreachableError
from backupctl.hosts import far, supervisor
from backupctl.hosts.agent import bytes_of, text_of
from backupctl.hosts.local import to_facts
from backupctl.hosts.openssh import OpenSshTransport
from backupctl.hosts.options import SshOptions
from backupctl.hosts.process import RunningProcess, run_to_end, supervised
from backupctl.hosts.protocol import ByteSink, Completed, FileInfo, HostFacts, Placer, Process, ReadFile
from backupctl.hosts.transport import Login, Transport


def make_transport(name: str, options: SshOptions, login: Login, jump: Transport | None) -> Transport:
    if options.transport == "openssh":
        assert jump is None or isinstance(jump, OpenSshTransport)
        return OpenSshTransport(name, options, login, jump)
    from backupctl.hosts.paramiko_transport import ParamikoTransport  # 100 ms to import: only those who need it pay

    assert jump is None or isinstance(jump, ParamikoTransport)
    return ParamikoTransport(name, options, login, jump)


class SshHost:
    def __init__(
        self,
        name: str,
        options: SshOptions,
        login: Login,
        *,
        jump: SshHost | None = None,
        python: str = "python3",
    ) -> None:
        """`jump`, when given, goes by the same transport and is closed together with this host."""
        self.name = name
        self.python = python
        self._jump = jump
        self.transport: Transport = make_transport(name, options, login, jump.transport if jump else None)
        self._agent_process: RunningProcess | None = None
        self._client: far.AgentClient | None = None
        self._lock = threading.RLock()

    @property
    def _agent(self) -> far.AgentClient:
        with self._lock:
            if self._client is None:
                start = far.program()
                command = [self.python, "-I", "-S", "-c", far.START, str(len(start))]
                process = self.transport.start([self.python], command)
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

    def _start(self, argv: Sequence[str], env: Mapping[str, str] | None) -> RunningProcess:
        assert self._agent  # so that a missing python3 is told apart from a missing program
        program = inspect.getsource(supervisor)
        command = [self.python, "-I", "-S", "-c", program, *supervised(argv, env, watch=1)]
        return self.transport.start(argv, command)

    def scan(self, root: bytes, *, exclude: Sequence[str] = (), only: Sequence[bytes] = ()) -> Iterator[FileInfo]:
        return far.scan(self._agent, root, exclude, only)

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
            self.transport.close()
            if self._jump is not None:
                self._jump.close()
