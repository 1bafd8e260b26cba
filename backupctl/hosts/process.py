"""The only place that spawns on this machine, and what every running command shares, near or far.

A command is an argv list. It runs under `supervisor.py`, so neither a killed parent nor a lost connection leaves it
behind; its stderr is drained by a thread that keeps the last 64 KiB; registered secrets never leave in a message.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

from backupctl.errors import UserError
from backupctl.hosts import supervisor
from backupctl.hosts.pipes import widen
from backupctl.hosts.protocol import ByteSink, ByteSource, Completed

STDERR_LIMIT_BYTES = 64 * 1024
READ_BYTES = 256 * 1024

_secrets: set[str] = set()


class TimedOutError(UserError):
    """A command that did not end in the time it was given. It has been killed."""


def register_secret(value: str | bytes) -> None:
    """From now on `redact` hides `value` wherever it appears."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    _secrets.update(part for part in {text, text.strip()} if part)


def redact(text: str) -> str:
    """`text` with every registered secret replaced by `***`, longest first."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def supervised(argv: Sequence[str], env: Mapping[str, str] | None, *, watch: int) -> list[str]:
    """The arguments of `supervisor.py` for one command."""
    if not argv:
        raise ValueError("an empty command")
    given = [f"{name}={value}" for name, value in (env or {}).items()]
    if any("\0" in part for part in [*argv, *given]):
        raise UserError(f"command {argv[0]!r}: an argument holds a NUL byte")
    return [str(watch), str(len(given)), *given, *argv]


class RunningProcess(ABC):
    """What near and far commands share. A subclass gives the six raw steps below."""

    def __init__(self, argv: Sequence[str], where: str) -> None:
        self.argv = tuple(argv)
        self.where = where
        self.stdout: ByteSource = Output(self)
        self.stdin: ByteSink = Input(self)
        self.killed = False
        self._timed_out = False
        self._completed: Completed | None = None
        self._tail = bytearray()
        self._feeder: threading.Thread | None = None
        self._stderr = threading.Thread(target=self._drain_stderr, name=f"stderr of {self.argv[0]}", daemon=True)

    @abstractmethod
    def read_stdout(self, size: int) -> bytes: ...

    @abstractmethod
    def read_stderr(self) -> bytes: ...

    @abstractmethod
    def write_stdin(self, data: bytes) -> None: ...

    @abstractmethod
    def close_stdin(self) -> None: ...

    @abstractmethod
    def wait(self) -> int: ...

    @abstractmethod
    def release(self) -> None: ...

    @abstractmethod
    def kill(self) -> None: ...

    def finish(self, timeout: float | None = None) -> Completed:
        return self._end(timeout, self._drain_stdout)

    def communicate(self, stdin: bytes | None, timeout: float | None) -> Completed:
        """Feed `stdin` while reading all of stdout, then end."""
        self._feeder = threading.Thread(target=self._feed, args=(stdin or b"",), daemon=True)
        self._feeder.start()
        return self._end(timeout, self.stdout.read)

    def _end(self, timeout: float | None, collect: Callable[[], bytes]) -> Completed:
        if self._completed is not None:
            return self._completed
        timer = threading.Timer(timeout, self._expire) if timeout is not None else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            output = collect()
            code = self.wait()
        finally:
            if timer:
                timer.cancel()
        self._stderr.join(10)  # a grandchild may hold stderr open; what it says later is lost on purpose
        if self._timed_out:
            raise TimedOutError(
                f"{self.where}: `{self.shown}` did not end within {timeout:g} s and was stopped{self._quoted_tail()}",
                next_step="see why it hangs by running it by hand, or give it more time",
            )
        self._completed = Completed(self.argv, code, output, self.stderr_text())
        return self._completed

    def _drain_stdout(self) -> bytes:
        self.stdin.close()
        while self.stdout.read(READ_BYTES):
            pass
        return b""

    def _feed(self, data: bytes) -> None:
        with suppress(OSError, UserError):  # a command need not read all its input; its exit status tells the rest
            for start in range(0, len(data), READ_BYTES):
                self.stdin.write(data[start : start + READ_BYTES])
        with suppress(OSError, UserError):
            self.stdin.close()

    def _expire(self) -> None:
        self._timed_out = True
        self.kill()

    def _drain_stderr(self) -> None:
        with suppress(OSError, UserError, ValueError):  # the stream was closed under us: nothing more to keep
            while data := self.read_stderr():
                self._tail += data
                del self._tail[:-STDERR_LIMIT_BYTES]

    def stderr_text(self) -> str:
        return redact(bytes(self._tail).decode("utf-8", "backslashreplace"))

    @property
    def shown(self) -> str:
        """The command for people: shortened and without secrets."""
        text = redact(" ".join(self.argv)).replace("\n", " ")
        return text if len(text) <= 200 else text[:197] + "…"

    def _quoted_tail(self) -> str:
        text = self.stderr_text().strip()
        return f"; it said:\n{text[-2000:]}" if text else ""

    def fail(self, completed: Completed) -> NoReturn:
        raise UserError(
            f"{self.where}: `{self.shown}` ended with exit status {completed.returncode}{self._quoted_tail()}",
            next_step=f"install {self.argv[0]} there" if completed.returncode == 127 else "",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._completed is None:
            self.kill()
            with suppress(OSError, UserError):
                self.wait()
        self.release()


class Output:
    """A command's stdout. `read(n)` gives what is there, at most n bytes, as soon as there is any."""

    def __init__(self, process: RunningProcess) -> None:
        self._process = process

    def read(self, size: int = -1, /) -> bytes:
        if size >= 0:
            return self._process.read_stdout(size) if size else b""
        parts = bytearray()
        while data := self._process.read_stdout(READ_BYTES):
            parts += data
        return bytes(parts)

    def close(self) -> None:
        """The stream ends with its process."""


class Input:
    def __init__(self, process: RunningProcess) -> None:
        self._process = process
        self._closed = False

    def write(self, data: bytes, /) -> int:
        """All of `data`. Raises BrokenPipeError when the command reads no more."""
        self._process.write_stdin(data)
        return len(data)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._process.close_stdin()


class LocalProcess(RunningProcess):
    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None, where: str = "this machine") -> None:
        super().__init__(argv, where)
        watch, self._life = os.pipe()
        try:
            program = [sys.executable, "-I", "-S", str(Path(supervisor.__file__)), *supervised(argv, env, watch=watch)]
            self._popen = subprocess.Popen(
                program,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(watch,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._life)
            raise
        finally:
            os.close(watch)
        assert self._popen.stdout is not None
        widen(self._popen.stdout)
        self._life_lock = threading.Lock()
        self._stderr.start()

    def read_stdout(self, size: int) -> bytes:
        assert self._popen.stdout is not None
        return os.read(self._popen.stdout.fileno(), min(size, 1 << 20))

    def read_stderr(self) -> bytes:
        assert self._popen.stderr is not None
        return os.read(self._popen.stderr.fileno(), READ_BYTES)

    def write_stdin(self, data: bytes) -> None:
        assert self._popen.stdin is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._popen.stdin.fileno(), view) :]

    def close_stdin(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()

    def wait(self) -> int:
        code = self._popen.wait()
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """The supervisor sees its end of the pipe close and kills the whole group."""
        with self._life_lock:
            if self._life >= 0:
                self.killed = True
                os.close(self._life)
                self._life = -1

    def release(self) -> None:
        self.kill()
        self._stderr.join(10)
        if self._feeder is not None:
            self._feeder.join(10)  # it must not write to a descriptor that is closed, and may be another file by then
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    check: bool = False,
    where: str = "this machine",
) -> Completed:
    """As `Host.run`, on this machine."""
    with LocalProcess(argv, env, where=where) as process:
        return run_to_end(process, stdin=stdin, timeout=timeout, check=check)


def run_to_end(process: RunningProcess, *, stdin: bytes | None, timeout: float | None, check: bool) -> Completed:
    completed = process.communicate(stdin, timeout)
    if check and completed.returncode != 0:
        process.fail(completed)
    return completed
