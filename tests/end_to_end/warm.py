"""Runs commands in real processes that have everything imported: forks of one that waits.

Importing takes a second of processor time for each command otherwise, and tests run some hundreds. What depends on how a
process starts (`-P`, variables that are read while importing, peak memory) is tested with processes of its own: `site.PROGRAM`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_LENGTH = struct.Struct("!I")


class Command:
    """What `subprocess.Popen` would be: those parts of it that tests use. Its output is to be had from pipes."""

    def __init__(self, args: list[str], answers: socket.socket, out: int, err: int) -> None:
        self.args = args
        self._answers = answers
        self.stdout, self.stderr = os.fdopen(out, "rb"), os.fdopen(err, "rb")
        (self.pid,) = _LENGTH.unpack(self._receive(None))
        self.returncode: int | None = None

    def _receive(self, timeout: float | None) -> bytes:
        self._answers.settimeout(timeout)
        data = self._answers.recv(_LENGTH.size, socket.MSG_WAITALL)
        if len(data) < _LENGTH.size:
            raise RuntimeError("the process that commands are forked from is gone")
        return data

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(_LENGTH.unpack(self._receive(timeout))[0])
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._answers.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Raises subprocess.TimeoutExpired; the command has been killed then."""
        found: dict[str, bytes] = {}

        def read(name: str) -> None:
            found[name] = getattr(self, name).read()

        readers = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        try:
            end = None if timeout is None else time.monotonic() + timeout
            for reader in readers:
                reader.join(None if end is None else max(0.0, end - time.monotonic()))
                if reader.is_alive():
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.wait(None if end is None else max(0.001, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for reader in readers:
                reader.join()
            self.stdout.close()
            self.stderr.close()
        return found["stdout"], found["stderr"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Warm:
    """The process that waits. Single-threaded, so that its children may fork as well."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests = ours
        self._guard = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.end_to_end.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Command:
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        answers, theirs = socket.socketpair()
        request = json.dumps({"arguments": list(arguments), "cwd": str(cwd), "environment": dict(environment)}).encode()
        try:
            with self._guard:
                socket.send_fds(self._requests, [request], [out_write, err_write, theirs.fileno()])
        finally:
            theirs.close()
            os.close(out_write)
            os.close(err_write)
        return Command(["backupctl", *arguments], answers, out_read, err_read)

    def close(self) -> None:
        self._requests.close()
        self._process.wait(30)


_warm: list[Warm] = []


def warm() -> Warm:
    """The one of this test process."""
    if not _warm:
        _warm.append(Warm())
    return _warm[0]


def _import_everything() -> None:
    import importlib
    import pkgutil

    import backupctl

    for module in pkgutil.walk_packages(backupctl.__path__, "backupctl."):
        if not module.name.endswith("__main__") and "_program" not in module.name and ".migrations." not in module.name:
            importlib.import_module(module.name)


def _serve(requests: socket.socket) -> None:
    """One child in between for each command: it waits for it and tells how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for those in between
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not data:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            out, err, told = descriptors
            pid = os.fork()
            if pid == 0:
                os.close(told)
                _become(json.loads(data), out, err)
            os.close(out)
            os.close(err)
            os.write(told, _LENGTH.pack(pid))
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it
                os.write(told, _LENGTH.pack(status))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: dict[str, object], out: int, err: int) -> None:
    """A process like one that was started with these arguments. Never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115 — as the interpreter opens them
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115 — the same
    sys.stderr = sys.__stderr__ = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115 — the same
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]  # of strings: `start` says so
    time.tzset()
    sys.argv = ["backupctl", *request["arguments"]]  # type: ignore[misc]  # the same
    import traceback

    from backupctl.cli.main import main

    code: object = 1
    try:
        main()
    except SystemExit as done:
        code = done.code
    except BaseException:  # noqa: BLE001 — as the interpreter would
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _import_everything()
    _serve(socket.socket(fileno=int(sys.argv[1])))
