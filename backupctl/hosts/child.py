"""Another copy of this program as a child, for one run. `process.py` spawns everything else."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol


class Child(Protocol):
    """A run of this program in a process of its own. It is left alone when we die: a run belongs to itself, and the catalog
    tells who looks after it."""

    pid: int

    def terminate(self) -> None:
        """Ask it to stop; it releases its locks and closes its run."""

    def wait(self) -> int:
        """Its exit code; 128 + n when signal n ended it."""


class FreshChild:
    """Runs `backupctl ARGUMENTS` from the start; standard output and error are shared with us, standard input is `text`."""

    def __init__(self, arguments: Sequence[str], *, text: str = "") -> None:
        # -P: a directory called backupctl in the current directory must not be taken for the program
        command = [sys.executable, "-P", "-m", "backupctl", *arguments]
        with tempfile.TemporaryFile() as given:  # no pipe: it could be full, and its reader gone
            given.write(text.encode())
            given.seek(0)
            self._process = subprocess.Popen(command, stdin=given)
        self.pid = self._process.pid

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        code = self._process.wait()
        return 128 - code if code < 0 else code


class ForkedChild:
    """The same by fork: it has every module already, which saves half a second of processor time and 60 MB. Only for a
    process without other threads and without connections (`may_fork`); `main` ends by raising SystemExit."""

    def __init__(self, main: Callable[[list[str]], object], arguments: Sequence[str]) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or both would write what waits there
        self._code: int | None = None
        self.killed = False  # by a signal, once waited for
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_run(main, list(arguments)))

    def terminate(self) -> None:
        if self._code is None:  # once waited for, the number may be somebody else's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self.killed = code < 0
            self._code = 128 - code if self.killed else code
        return self._code


def may_fork() -> bool:
    """Whether nothing of this process would be torn in two: there is no thread but ours."""
    return threading.active_count() == 1


def _run(main: Callable[[list[str]], object], arguments: list[str]) -> int:
    """The forked side: like a fresh process, but for what is imported."""
    code: object = 1
    gc.freeze()  # what came with the fork is not looked through for cycles, and stays shared
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main(arguments)
    except SystemExit as done:
        code = done.code
    except BaseException:  # noqa: BLE001 — nothing above us may run: that is the parent's
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone, which `main` has seen to
            stream.flush()
    return code if isinstance(code, int) else 1


class PassSignals:
    """While active, SIGINT and SIGTERM are handed on to the child instead of ending us: it is the one with locks.
    A terminal's Ctrl-C reaches the child by itself as well; being told twice changes nothing for it."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.received: int | None = None

    def __enter__(self) -> PassSignals:
        self._before = {one: signal.signal(one, self._handle) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._child.terminate()
